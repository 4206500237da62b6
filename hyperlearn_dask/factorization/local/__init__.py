"""Local evidence: what the stored hyperedges say literally, beside the factors."""
