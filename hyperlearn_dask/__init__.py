"""Joint hypergraph and graph representation learning for multimodal data, on Dask."""
