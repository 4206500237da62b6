"""Drawing from the posterior: blocks, what their rows may cost, and the noise."""
