"""Graph kernels for the CPU, compiled by Numba: a sparse matrix times a block, and Chebyshev series.

Rows of the matrix are shared out by their work. Almost all time goes into fetching the rows of the
block that a row's neighbours name, from anywhere in memory. So they are asked for a few neighbours
ahead (of blocks that do not stay in the caches; of others that only costs), and blocks begin at a
cache line: a row of 32 float32 columns is then two lines and not three.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

CACHE_LINE = 64  # bytes
AHEAD = 16  # neighbours between asking for a row and using it; 8 to 32 measure the same
CACHED = 1 << 24  # bytes of a block that stays in the caches well enough


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
    given = np.ascontiguousarray(block)
    c = np.ascontiguousarray(
        np.broadcast_to(coefficients, (len(coefficients), given.shape[1])), dtype=given.dtype
    )
    matrix = _kernel_input(laplacian, given)
    now, before = _aligned_zeros(given.shape, given.dtype), _aligned_zeros(given.shape, given.dtype)
    np.multiply(given, c[-1], out=now)
    for k in range(len(c) - 2, -1, -1):
        _clenshaw(*matrix, now, before, given, c[k], given.dtype.type(1 if k == 0 else 2))
        now, before = before, now
    return now


def graph_product(laplacian: Any, block: np.ndarray) -> np.ndarray:
    """L B for a SciPy CSR array L (n x n) and B (n x f)."""
    given = np.ascontiguousarray(block)
    product = _aligned_zeros(given.shape, given.dtype)
    _product(*_kernel_input(laplacian, given), given, product)
    return product


def _kernel_input(laplacian: Any, block: np.ndarray) -> tuple[np.ndarray, ...]:
    """The parts of the matrix, and cuts of its rows into runs of about as much work each."""
    # A row costs about as much as a neighbour, besides its neighbours.
    work = laplacian.indptr + np.arange(len(laplacian.indptr))
    even = np.linspace(0, work[-1], 8 * numba.get_num_threads() + 1)
    bounds = np.searchsorted(work, even).astype(np.int64)
    return laplacian.data.astype(block.dtype, copy=False), laplacian.indices, laplacian.indptr, bounds


def _aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that begin at a cache line, where NumPy promises 16 bytes."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.zeros(size + CACHE_LINE, dtype=np.uint8)
    begin = -raw.ctypes.data % CACHE_LINE
    return raw[begin : begin + size].view(dtype).reshape(shape)


@intrinsic
def _prefetch(typing: Any, block: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line of ``block[row, column]``; it may come while others are computed with."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(block)(context, builder, arguments[0])
        at = [
            context.cast(builder, value, given, types.intp)
            for value, given in zip(arguments[1:], (row, column))
        ]
        address = cgutils.get_item_pointer(context, builder, block, array, at)
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        )
        # for reading, to be kept in all caches, data
        builder.call(function, [builder.bitcast(address, byte), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(block, row, column), generate


@numba.njit(inline="always")
def _ask_for(block, row):  # type: ignore[no-untyped-def]
    for column in range(0, block.shape[1], CACHE_LINE // block.itemsize):
        _prefetch(block, row, column)


@numba.njit(fastmath={"contract", "reassoc", "nsz"})
def _add_neighbours(data, indices, first, last, scale, block, out):  # type: ignore[no-untyped-def]
    """out += scale * sum of the neighbours' rows, each times its weight."""
    width = block.shape[1]
    far = block.nbytes > CACHED
    end = len(indices) - 1
    e = first
    # Four at a time, so that out is read and written a quarter as often.
    while e + 3 < last:
        if far:
            for ahead in range(e + AHEAD, e + AHEAD + 4):
                _ask_for(block, indices[min(ahead, end)])
        v0, v1, v2, v3 = scale * data[e], scale * data[e + 1], scale * data[e + 2], scale * data[e + 3]
        x0, x1 = block[indices[e]], block[indices[e + 1]]
        x2, x3 = block[indices[e + 2]], block[indices[e + 3]]
        for r in range(width):
            out[r] += v0 * x0[r] + v1 * x1[r] + v2 * x2[r] + v3 * x3[r]
        e += 4
    while e < last:
        if far:
            _ask_for(block, indices[min(e + AHEAD, end)])
        v = scale * data[e]
        x = block[indices[e]]
        for r in range(width):
            out[r] += v * x[r]
        e += 1


@numba.njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _clenshaw(data, indices, indptr, bounds, now, before, given, c, scale):  # type: ignore[no-untyped-def]
    """before <- c * given + scale * (L now - now) - before, row by row."""
    for run in numba.prange(len(bounds) - 1):
        for i in range(bounds[run], bounds[run + 1]):
            out = before[i]
            for r in range(now.shape[1]):
                out[r] = c[r] * given[i, r] - scale * now[i, r] - out[r]
            _add_neighbours(data, indices, indptr[i], indptr[i + 1], scale, now, out)


@numba.njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _product(data, indices, indptr, bounds, block, product):  # type: ignore[no-untyped-def]
    """product <- product + L block."""
    one = data.dtype.type(1)
    for run in numba.prange(len(bounds) - 1):
        for i in range(bounds[run], bounds[run + 1]):
            _add_neighbours(data, indices, indptr[i], indptr[i + 1], one, block, product[i])
