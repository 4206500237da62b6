"""Joint hypergraph and graph representation learning for multimodal data, on Dask."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperlearn_dask.estimator import HyperLearn
    from hyperlearn_dask.hypergraph.hypergraph import Hypergraph

__all__ = ["HyperLearn", "Hypergraph"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the mathematics below this package needs neither Dask nor Zarr.
    if name == "HyperLearn":
        from hyperlearn_dask.estimator import HyperLearn

        return HyperLearn
    if name == "Hypergraph":
        from hyperlearn_dask.hypergraph.hypergraph import Hypergraph

        return Hypergraph
    raise AttributeError(f"module 'hyperlearn_dask' has no attribute '{name}'")
