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

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.columns import add_to, load, no_columns, store
from hyperlearn_dask.factorization.kernels.symbols import in_kernels

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
    # sums of products by row of the Gram, some too many, and those of ones in the last row
    shape = (numba.get_num_threads(), len(pairs), -(-rank // width), rank + TOGETHER, width)
    totals = arrays.zeros(shape, np.float64)
    same = np.array([left is right for left, right in pairs])
    lefts, rights = (tuple(np.ascontiguousarray(side) for side in sides) for sides in zip(*pairs))
    tile = max(1, TILE // max(1, rank * dtype.itemsize))
    _gram_pass(width, full)(len(totals), lefts, rights, same, totals, tile)
    total = totals.sum(axis=0).swapaxes(1, 2).reshape(len(pairs), rank + TOGETHER, -1)[..., :rank]
    products, ones = total[:, :rank], total[:, -1]
    # of a matrix with itself only the upper half was formed
    products[same] = np.triu(products[same]) + np.triu(products[same], 1).transpose(0, 2, 1)
    return list(zip(products, ones))


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
    width, full = _width(rank, dtype)
    inner = arrays.zeros((numba.get_num_threads(), 2, width), np.float64)
    _way_pass(width, full)(
        len(inner),
        -gram.astype(dtype),
        inverse.astype(dtype),
        right,
        np.ascontiguousarray(block),
        # without rows rather than None, for which another pass would be compiled
        np.empty((0, rank), dtype=dtype) if before is None else np.ascontiguousarray(before),
        inner,
    )
    slope, other = inner.sum(axis=(0, 2))
    return right, float(slope), float(other)


def moved(
    start: np.ndarray, step: float, direction: np.ndarray, found: np.ndarray | None = None
) -> np.ndarray:
    """A + alpha D, written to ``found`` if it is given, which may be D."""
    found = arrays.empty(start.shape, start.dtype) if found is None else found
    _move(start.size, start.reshape(-1), start.dtype.type(step), direction.reshape(-1), found.reshape(-1))
    return found


def scale(matrix: np.ndarray, number: float) -> None:
    """A matrix in C order becomes itself times a number."""
    _scale(matrix.size, matrix.reshape(-1), matrix.dtype.type(number))


def add(total: np.ndarray, number: float, matrix: np.ndarray) -> None:
    """A matrix in C order becomes itself plus a number times another one of its shape and dtype."""
    _add(total.size, total.reshape(-1), total.dtype.type(number), matrix.reshape(-1))


@in_runs()
def _add(begin, end, total, number, matrix):  # type: ignore[no-untyped-def]
    for at in range(begin, end):
        total[at] += number * matrix[at]


@in_runs()
def _scale(begin, end, matrix, number):  # type: ignore[no-untyped-def]
    for at in range(begin, end):
        matrix[at] *= number


@in_runs()
def _move(begin, end, start, step, direction, found):  # type: ignore[no-untyped-def]
    for at in range(begin, end):
        found[at] = start[at] + step * direction[at]


def _width(rank: int, dtype: np.dtype) -> tuple[int, bool]:
    """The width of the columns to compile for, a cache line's, and whether the rank is a multiple of it."""
    width = arrays.LINE // dtype.itemsize
    return width, rank % width == 0


@lru_cache
def _gram_pass(width: int, full: bool) -> Callable[..., None]:
    is_full = int(full)

    @in_runs()
    def run(begin, end, lefts, rights, same, totals, rows):  # type: ignore[no-untyped-def]
        n, rank = lefts[0].shape
        threads = len(totals)
        for thread in range(begin, end):
            none = no_columns(lefts[0], width, is_full)
            for tile in range(n * thread // threads, n * (thread + 1) // threads, rows):
                last = min(tile + rows, n * (thread + 1) // threads)
                for pair in range(len(lefts)):
                    left, right = lefts[pair], rights[pair]
                    for column in range(0, rank, width):
                        count = rank - column
                        wide = totals[thread, pair, column // width]
                        for k in range(0, min(rank, column + width) if same[pair] else rank, TOGETHER):
                            sums = (none, none, none, none)
                            for i in range(tile, last):
                                sums = add_products(sums, left, i, k, load(right, i, column, none, count))
                            _add_all(wide, k, sums)
                        ones = none
                        for i in range(tile, last):
                            ones = ones + load(right, i, column, none, count)
                        add_to(wide, rank + TOGETHER - 1, ones)

    return run


@lru_cache
def _way_pass(width: int, full: bool) -> Callable[..., None]:
    is_full = int(full)

    @in_runs()
    def run(begin, end, minus_gram, inverse, right, block, before, inner):  # type: ignore[no-untyped-def]
        n, rank = block.shape
        threads = len(inner)
        for thread in range(begin, end):
            none = no_columns(block, width, is_full)
            downhill = np.empty((TOGETHER, rank), dtype=block.dtype)
            sums = inner[thread]
            for i in range(n * thread // threads, n * (thread + 1) // threads, TOGETHER):
                # the last rows are done again rather than fewer at a time
                rows = min(TOGETHER, n * (thread + 1) // threads - i)
                for column in range(0, rank, width):
                    count = rank - column
                    g = (none, none, none, none)
                    for k in range(rank):
                        g = _add_rows(g, block, i, k, load(minus_gram, k, column, none, count))
                    for j in range(rows):
                        own = _chosen(g, j) + load(right, i + j, column, none, count)
                        store(downhill, j, column, own, count)
                for column in range(0, rank, width):
                    count = rank - column
                    w = (none, none, none, none)
                    for k in range(rank):
                        w = _add_rows(w, downhill, 0, k, load(inverse, k, column, none, count))
                    for j in range(rows):
                        own = load(downhill, j, column, none, count)
                        step = _chosen(w, j)
                        store(right, i + j, column, step, count)
                        add_to(sums, 0, own * step)
                        if len(before):
                            add_to(sums, 1, own * load(before, i + j, column, none, count))

    return run


# Tuples of columns, of symbols.


@in_kernels(lambda sums, left, i, k, values: sums)
def add_products(sums, left, i, k, values):  # type: ignore[no-untyped-def]
    """sums_j + left[i, k + j] values; columns beyond the last are the last."""
    return [total + left[i][left[i].inside(k, j)] * values for j, total in enumerate(sums)]


@in_kernels(lambda sums, left, i, k, values: sums)
def _add_rows(sums, left, i, k, values):  # type: ignore[no-untyped-def]
    """sums_j + left[i + j, k] values; rows beyond the last are the last."""
    return [total + left[left.inside(i, j)][k] * values for j, total in enumerate(sums)]


@in_kernels()
def _add_all(totals, k, sums):  # type: ignore[no-untyped-def]
    """totals[k + j] += sums_j, in float64."""
    for j, value in enumerate(sums):
        add_to(totals, k + j, value)


@in_kernels(lambda values, j: values[0])
def _chosen(values, j):  # type: ignore[no-untyped-def]
    """values_j."""
    found = values[0]
    for k, value in enumerate(values[1:], 1):
        found = value.if_equal(j, k, found)
    return found
