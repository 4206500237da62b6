"""Products over the entries of a sparse tensor and over graphs: one implementation per array module.

Every function takes effective matrices (entities x columns, one per mode, C-ordered, one dtype) and
the coordinates and values of a shard, and returns plain arrays. See ``cpu.py`` for the contracts. Where
the arrays are decides which implementation works on them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization.kernels import cpu, graph
from hyperlearn_dask.factorization.kernels.cpu import limit_threads
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Matrices = tuple[Array, ...]

__all__ = [
    "chebyshev",
    "context_equations",
    "graph_product",
    "group_by_row",
    "limit_threads",
    "line",
    "mttkrp",
    "normal_equations",
    "solve_rows",
]


def mttkrp(tensor: SparseTensor, matrices: Matrices, modes: tuple[int, ...]) -> dict[int, Array]:
    """See :func:`.cpu.mttkrp`."""
    return _tensor_kernels(matrices[0]).mttkrp(tensor, matrices, modes)


def normal_equations(tensor: SparseTensor, matrices: Matrices, *rest: Any) -> tuple[Array, Array]:
    """See :func:`.cpu.normal_equations`."""
    return _tensor_kernels(matrices[0]).normal_equations(tensor, matrices, *rest)


def context_equations(contexts: SparseTensor, matrices: Matrices, *rest: Any) -> tuple[Array, Array]:
    """See :func:`.cpu.context_equations`."""
    return _tensor_kernels(matrices[0]).context_equations(contexts, matrices, *rest)


def solve_rows(matrices: Array, right: Array) -> Array:
    """See :func:`.cpu.solve_rows`."""
    return _tensor_kernels(right).solve_rows(matrices, right)


def line(tensor: SparseTensor, matrices: Matrices, directions: Matrices, weight: float) -> np.ndarray:
    """See :func:`.cpu.line`."""
    return _tensor_kernels(matrices[0]).line(tensor, matrices, directions, weight)


def group_by_row(tensor: SparseTensor, mode: int) -> tuple[Array, Array]:
    """See :func:`.cpu.group_by_row`."""
    return _tensor_kernels(tensor.values).group_by_row(tensor, mode)


def chebyshev(laplacian: Any, block: Array, coefficients: Array) -> Array:
    """See :func:`.graph.chebyshev`."""
    return _graph_kernels(block).chebyshev(laplacian, block, coefficients)


def graph_product(laplacian: Any, block: Array) -> Array:
    """See :func:`.graph.graph_product`."""
    return _graph_kernels(block).graph_product(laplacian, block)


def _tensor_kernels(array: Array) -> Any:
    return cpu if array_module(array) is np else _cuda()


def _graph_kernels(array: Array) -> Any:
    return graph if array_module(array) is np else _cuda()


def _cuda() -> Any:
    return import_module(f"{__name__}.cuda")  # needs CuPy: only where an array of CuPy's is there
