"""Graph kernels for the CPU, compiled by Numba: a sparse matrix times a block, and Chebyshev series.

A row of the result is added up in registers and written once. Almost all time goes into fetching the
rows of the block that a row's neighbours name, from anywhere in memory, so they are asked for a few
neighbours ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
import numpy as np

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.columns import (
    column_runs,
    item,
    load,
    no_columns,
    prefetch,
    store,
)

AHEAD = 16  # neighbours between asking for a row and using it


def chebyshev(laplacian: Any, block: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """sum_k T_k(L - I) B diag(c_k), each degree in one pass over the matrix and the block.

    By Clenshaw's recurrence, which needs no sum besides its two blocks,
        S_k = c_k B + 2 (L - I) S_{k+1} - S_{k+2},    the series = c_0 B + (L - I) S_1 - S_2,
    with S_k written over S_{k+2}, row by row.

    Parameters
    ----------
    laplacian
        L, a SciPy CSR array (n x n).
    block
        B, (n x f) float32 or float64.
    coefficients
        (degree + 1, f), or (degree + 1, 1) for the same filter on every column.

    Returns
    -------
    (n x f) array of the block's dtype; besides it one block of that size is held.
    """
    given = arrays.aligned(block)
    c = np.ascontiguousarray(
        np.broadcast_to(coefficients, (len(coefficients), given.shape[1])), dtype=given.dtype
    )
    *matrix, bounds = _kernel_input(laplacian, given)
    now, before = arrays.empty(given.shape, given.dtype), arrays.zeros(given.shape, given.dtype)
    np.multiply(given, c[-1], out=now)
    for k in range(len(c) - 2, -1, -1):
        scale = given.dtype.type(1 if k == 0 else 2)
        for column, width, count in column_runs(given.shape[1]):
            clenshaw_pass(width, width == count)(
                len(bounds) - 1, *matrix, bounds, now, before, given, c, k, scale, column, count
            )
        now, before = before, now
    return now


def graph_product(laplacian: Any, block: np.ndarray) -> np.ndarray:
    """L B for a SciPy CSR array L (n x n) and B (n x f)."""
    given = arrays.aligned(block)
    product = arrays.empty(given.shape, given.dtype)
    *matrix, bounds = _kernel_input(laplacian, given)
    for column, width, count in column_runs(given.shape[1]):
        product_pass(width, width == count)(len(bounds) - 1, *matrix, bounds, given, product, column, count)
    return product


def _kernel_input(laplacian: Any, block: np.ndarray) -> tuple[np.ndarray, ...]:
    """The parts of the matrix, and cuts of its rows into runs of about as much work each."""
    # A row costs about as much as a neighbour, besides its neighbours.
    work = laplacian.indptr + np.arange(len(laplacian.indptr))
    even = np.linspace(0, work[-1], 8 * numba.get_num_threads() + 1)
    bounds = np.searchsorted(work, even).astype(np.int64)
    return laplacian.data.astype(block.dtype, copy=False), laplacian.indices, laplacian.indptr, bounds


@lru_cache
def clenshaw_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass before <- c_k * given + scale * (L now - now) - before, for so many columns."""
    is_full = int(full)

    @in_runs()
    def run(begin, end, data, indices, indptr, bounds, now, before, given, c, k, scale, column, count):  # type: ignore[no-untyped-def]
        for part in range(begin, end):
            none = no_columns(now, width, is_full)
            ck = load(c, k, column, none, count)
            minus = -scale / scale
            for i in range(bounds[part], bounds[part + 1]):
                total = _of_neighbours(data, indices, indptr[i], indptr[i + 1], now, column, none, count)
                total = scale * (total + minus * load(now, i, column, none, count))
                total = total + ck * load(given, i, column, none, count)
                total = total + minus * load(before, i, column, none, count)
                store(before, i, column, total, count)

    return run


@lru_cache
def product_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass product <- L block, for so many columns."""
    is_full = int(full)

    @in_runs()
    def run(begin, end, data, indices, indptr, bounds, block, product, column, count):  # type: ignore[no-untyped-def]
        for part in range(begin, end):
            none = no_columns(block, width, is_full)
            for i in range(bounds[part], bounds[part + 1]):
                total = _of_neighbours(data, indices, indptr[i], indptr[i + 1], block, column, none, count)
                store(product, i, column, total, count)

    return run


@numba.njit
def _of_neighbours(data, indices, first, last, block, column, none, count):  # type: ignore[no-untyped-def]
    """The sum of the neighbours' rows, each times its weight."""
    end = len(indices) - 1
    total = none
    for e in range(first, last):
        prefetch(block, item(indices, min(e + AHEAD, end)), column, none)
        total = total + item(data, e) * load(block, item(indices, e), column, none, count)
    return total
