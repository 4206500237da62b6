"""Dense passes over tall factor matrices: each reads and writes every row once, on all threads.

A factor has few columns and many rows, so what its algebra costs is memory traffic: the passes fuse
what a library of matrix products would do in several. Sums stay in registers: there is room for
:data:`TOGETHER` of a cache line's numbers, and what they are added up from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
from numba.extending import overload

from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.columns import add_to, load, no_columns, store

# Sums formed at once: of rows that share the loads of a small matrix, or of numbers that share a row's.
TOGETHER = 4
# Bytes of the rows that are added up in a matrix's own precision before they go to float64: they stay in the
# first cache.
TILE = 8192


def grams(pairs: tuple[tuple[np.ndarray, np.ndarray], ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """left' right (R x R) and 1' right (R,) in float64, of pairs of (n x R) matrices of one dtype.

    One pass over the rows for all of them: a matrix in several pairs is read once.
    """
    rank, dtype = pairs[0][0].shape[1], pairs[0][0].dtype
    width, full = _width(rank, dtype)
    total = np.zeros((numba.get_num_threads(), len(pairs), rank + 1, -(-rank // width) * width))
    same = np.array([left is right for left, right in pairs])
    lefts, rights = (tuple(np.ascontiguousarray(side) for side in sides) for sides in zip(*pairs))
    _gram_pass(width, full)(lefts, rights, same, total, max(1, TILE // max(1, rank * dtype.itemsize)))
    products, ones = np.split(total.sum(axis=0)[:, :, :rank], [rank], axis=1)
    # of a matrix with itself only the upper half was formed
    products[same] = np.triu(products[same]) + np.triu(products[same], 1).transpose(0, 2, 1)
    return [(product, one[0]) for product, one in zip(products, ones)]


def way(
    gram: np.ndarray, inverse: np.ndarray, right: np.ndarray, block: np.ndarray, before: np.ndarray | None
) -> tuple[np.ndarray, float, float]:
    """From A to the solution of A H = C, in one pass: with G = C - A H the way W = G H^-1.

    Parameters
    ----------
    gram, inverse
        H and H^-1 (R x R), symmetric.
    right, block, before
        C, A and another matrix B (n x R), of one dtype; C in C order; B may be None.

    Returns
    -------
    W (n x R), <G, W>, <G, B>
        W takes the place of C.
    """
    dtype, rank = block.dtype, block.shape[1]
    inner = np.zeros((numba.get_num_threads(), 2))
    _way_pass(*_width(rank, dtype))(
        -gram.astype(dtype),
        inverse.astype(dtype),
        right,
        np.ascontiguousarray(block),
        None if before is None else np.ascontiguousarray(before),
        inner,
    )
    slope, other = inner.sum(axis=0)
    return right, float(slope), float(other)


def moved(start: np.ndarray, step: float, direction: np.ndarray) -> np.ndarray:
    """A + alpha D."""
    found = arrays.empty(start.shape, start.dtype)
    _move(start.reshape(-1), start.dtype.type(step), direction.reshape(-1), found.reshape(-1))
    return found


def scaled(matrix: np.ndarray, number: float, out: np.ndarray | None = None) -> np.ndarray:
    """A matrix times a number, in its dtype; ``out``: where to, the matrix itself maybe."""
    found = arrays.empty(matrix.shape, matrix.dtype) if out is None else out
    _scale(matrix.reshape(-1), matrix.dtype.type(number), found.reshape(-1))
    return found


@numba.njit(parallel=True, cache=True)
def _scale(matrix, number, found):  # type: ignore[no-untyped-def]
    for at in numba.prange(len(matrix)):
        found[at] = number * matrix[at]


@numba.njit(parallel=True, cache=True)
def _move(start, step, direction, found):  # type: ignore[no-untyped-def]
    for at in numba.prange(len(start)):
        found[at] = start[at] + step * direction[at]


def _width(rank: int, dtype: np.dtype) -> tuple[int, bool]:
    """The width of the columns to compile for, a cache line's, and whether the rank is a multiple of it."""
    width = arrays.LINE // dtype.itemsize
    return width, rank % width == 0


@lru_cache
def _gram_pass(width: int, full: bool) -> Callable[..., None]:
    is_full = int(full)

    @numba.njit(parallel=True, cache=True)
    def run(lefts, rights, same, totals, rows):  # type: ignore[no-untyped-def]
        n, rank = lefts[0].shape
        threads = len(totals)
        for thread in numba.prange(threads):
            none = no_columns(lefts[0], width, is_full)
            own = np.zeros((len(lefts), -(-rank // width), rank + 1, width))
            for tile in range(n * thread // threads, n * (thread + 1) // threads, rows):
                last = min(tile + rows, n * (thread + 1) // threads)
                for pair in range(len(lefts)):
                    left, right = lefts[pair], rights[pair]
                    for column in range(0, rank, width):
                        count = rank - column
                        wide = own[pair, column // width]
                        for k in range(0, min(rank, column + width) if same[pair] else rank, TOGETHER):
                            sums = (none, none, none, none)
                            for i in range(tile, last):
                                sums = _add_products(sums, left, i, k, load(right, i, column, none, count))
                            _add_all(wide, k, rank, sums)
                        ones = none
                        for i in range(tile, last):
                            ones = ones + load(right, i, column, none, count)
                        add_to(wide, rank, ones)
            for pair in range(len(lefts)):
                for column in range(0, rank, width):
                    totals[thread, pair, :, column : column + width] = own[pair, column // width]

    return run


@lru_cache
def _way_pass(width: int, full: bool) -> Callable[..., None]:
    is_full = int(full)

    @numba.njit(parallel=True, cache=True)
    def run(minus_gram, inverse, right, block, before, inner):  # type: ignore[no-untyped-def]
        n, rank = block.shape
        threads = len(inner)
        for thread in numba.prange(threads):
            none = no_columns(block, width, is_full)
            downhill = np.empty((TOGETHER, rank), dtype=block.dtype)
            sums = np.zeros((2, width))
            for i in range(n * thread // threads, n * (thread + 1) // threads, TOGETHER):
                # the last rows are done again rather than fewer at a time
                rows = min(TOGETHER, n * (thread + 1) // threads - i)
                for column in range(0, rank, width):
                    count = rank - column
                    g = (none, none, none, none)
                    for k in range(rank):
                        g = _add_rows(g, block, i, rows, k, load(minus_gram, k, column, none, count))
                    for j in range(rows):
                        store(
                            downhill,
                            j,
                            column,
                            _item(g, j, none) + load(right, i + j, column, none, count),
                            count,
                        )
                for column in range(0, rank, width):
                    count = rank - column
                    w = (none, none, none, none)
                    for k in range(rank):
                        w = _add_rows(w, downhill, 0, rows, k, load(inverse, k, column, none, count))
                    for j in range(rows):
                        own = load(downhill, j, column, none, count)
                        step = _item(w, j, none)
                        store(right, i + j, column, step, count)
                        add_to(sums, 0, own * step)
                        if before is not None:
                            add_to(sums, 1, own * load(before, i + j, column, none, count))
            inner[thread, 0] = sums[0].sum()
            inner[thread, 1] = sums[1].sum()

    return run


# Tuples of columns, unrolled by recursion over their types.


def _add_products(sums, left, i, k, values): ...  # type: ignore[no-untyped-def]
def _add_all(totals, k, rank, sums): ...  # type: ignore[no-untyped-def]
def _add_rows(sums, left, i, rows, k, values): ...  # type: ignore[no-untyped-def]
def _item(values, j, none): ...  # type: ignore[no-untyped-def]


@overload(_add_products)
def _add_products_(sums, left, i, k, values):  # type: ignore[no-untyped-def]
    """sums_j += left[i, k + j] values."""
    if len(sums) == 0:
        return lambda sums, left, i, k, values: ()

    def body(sums, left, i, k, values):  # type: ignore[no-untyped-def]
        number = left[i, min(k, left.shape[1] - 1)]
        return (sums[0] + number * values, *_add_products(sums[1:], left, i, k + 1, values))

    return body


@overload(_add_all)
def _add_all_(totals, k, rank, sums):  # type: ignore[no-untyped-def]
    if len(sums) == 0:
        return lambda totals, k, rank, sums: None

    def body(totals, k, rank, sums):  # type: ignore[no-untyped-def]
        if k < rank:
            add_to(totals, k, sums[0])
        _add_all(totals, k + 1, rank, sums[1:])

    return body


@overload(_add_rows)
def _add_rows_(sums, left, i, rows, k, values):  # type: ignore[no-untyped-def]
    """sums_j += left[i + j, k] values, of the first ``rows`` rows."""
    if len(sums) == 0:
        return lambda sums, left, i, rows, k, values: ()

    def body(sums, left, i, rows, k, values):  # type: ignore[no-untyped-def]
        here = i if rows > 0 else i - 1
        return (sums[0] + left[here, k] * values, *_add_rows(sums[1:], left, here + 1, rows - 1, k, values))

    return body


@overload(_item)
def _item_(values, j, none):  # type: ignore[no-untyped-def]
    if len(values) == 0:
        return lambda values, j, none: none
    return lambda values, j, none: values[0] if j == 0 else _item(values[1:], j - 1, none)
