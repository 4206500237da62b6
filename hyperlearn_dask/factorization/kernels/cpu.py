"""Tensor kernels for the CPU, compiled by Numba; any order, any rank, float32 and float64.

Entries are sorted by the tensor's longest mode, the *sort mode*. One pass in that order forms the
products of all modes (:mod:`.passes`): a row of the sort mode is added up in registers and written
once; the other, shorter modes accumulate into an output of each thread's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels import arrays, passes
from hyperlearn_dask.factorization.kernels.columns import column_runs
from hyperlearn_dask.factorization.kernels.rows import RowGrams, solve_rows
from hyperlearn_dask.factorization.kernels.symbols import FLAGS
from hyperlearn_dask.hypergraph.sorting import stable_order
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Matrices = tuple[np.ndarray, ...]

__all__ = [
    "context_equations",
    "group_by_row",
    "limit_threads",
    "line",
    "mttkrp",
    "normal_equations",
    "solve_rows",
]

# Bytes of the widest columns of a pass over entries: wider ones, several at a time, do not fit in registers.
WIDEST = 128
# Bytes of row-wise matrices that are formed at once; larger ones are when they are used.
FORMED_AT_ONCE = 1 << 24


def mttkrp(tensor: SparseTensor, matrices: Matrices, modes: tuple[int, ...]) -> dict[int, np.ndarray]:
    """Matricised tensor times Khatri-Rao product, for several modes in one pass over the entries.

    Parameters
    ----------
    tensor
        Entries sorted by their sort mode.
    matrices
        One (n_m x R) matrix per mode.
    modes
        The modes wanted.

    Returns
    -------
    dict
        Per mode m an (n_m x R) array: row i is sum over entries with i_m = i of
        x_i * prod_{o != m} A_o[i_o].
    """
    if any(m.shape[1] == 0 for m in matrices):
        return {m: np.zeros((tensor.shape[m], 0), dtype=matrices[0].dtype) for m in modes}
    sort, rank, dtype = tensor.sort_mode, matrices[0].shape[1], matrices[0].dtype
    cuts, rows = _runs(tensor)
    threads = len(cuts) - 1
    # The sort mode first, then the other modes that are wanted
    wanted = [m for m in modes if m != sort]
    others = [*wanted, *(m for m in range(tensor.order) if m not in (sort, *wanted))]
    matrices = tuple(arrays.aligned(m) for m in matrices)
    out = arrays.empty((tensor.shape[sort], rank), dtype) if sort in modes else None
    edges = arrays.zeros((threads, rank), dtype)
    owns = tuple(arrays.zeros((threads, tensor.shape[m], rank), dtype) for m in wanted)
    for column, width, count in column_runs(rank, WIDEST // dtype.itemsize):
        passes.mttkrp_pass(width, width == count)(
            len(cuts) - 1,
            tensor.row_starts,
            _take(tensor.coords, others),
            tensor.values,
            matrices[sort],
            _take(matrices, others),
            out,
            edges,
            owns,
            cuts,
            rows,
            column,
            count,
        )
    found = {m: _added_up(own) for m, own in zip(wanted, owns)}
    if out is not None:
        for row, edge in zip(rows[1:-1], edges[1:]):
            if row > 0:
                out[row - 1] += edge
        found[sort] = out
    return found


def normal_equations(
    tensor: SparseTensor,
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    fixed: np.ndarray,
    weight: float,
    entries: np.ndarray,
    starts: np.ndarray,
) -> tuple[np.ndarray | RowGrams, np.ndarray]:
    """Row-wise normal equations of one mode over the observed entries.

    With z the product of the other modes' rows, split into the mode's ``free`` and ``fixed`` columns:
    H_i = v sum z_free z_free', c_i = sum z_free (x - v sum z_fixed), over the entries of row i, which
    belong to the loss sum -2 x xhat + v xhat^2.

    Parameters
    ----------
    entries, starts
        The entries grouped by row of the mode: row i has ``entries[starts[i]:starts[i + 1]]``.

    Returns
    -------
    H (n_m x f x f), c (n_m x f)
        In the dtype of the matrices. H as what it is made from where it would be large.
    """
    coords, values = _kernel_input(tensor, matrices)
    rank, dtype = matrices[0].shape[1], matrices[0].dtype
    known, rights = np.zeros(rank, dtype=dtype), np.zeros((len(starts) - 1, rank), dtype=dtype)
    known[fixed] = weight
    bounds = _row_bounds(starts)
    _entry_rights(len(bounds) - 1, coords, values, matrices, mode, known, entries, starts, bounds, rights)
    return _grams(coords, matrices, mode, free, float(weight), entries, starts), rights.take(free, axis=1)


def context_equations(
    contexts: SparseTensor,
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    fixed: np.ndarray,
    target_gram: np.ndarray,
    entries: np.ndarray,
    starts: np.ndarray,
) -> tuple[np.ndarray | RowGrams, np.ndarray]:
    """Row-wise normal equations of one mode over all targets of the contexts.

    With w the product of the other context modes' rows, M_i = sum w w' over the contexts of row i and
    G the target's Gram: H_i = (M_i * G)_free,free and c_i = -(M_i * G)_free,fixed 1.

    Returns
    -------
    H (n_m x f x f), c (n_m x f)
        In the dtype of the matrices. H as what it is made from where it would be large.
    """
    coords, _ = _kernel_input(contexts, matrices)
    right = np.zeros((len(starts) - 1, len(free)), dtype=matrices[0].dtype)
    weights = np.ascontiguousarray(target_gram[np.ix_(free, free)], dtype=right.dtype)
    known = np.ascontiguousarray(target_gram[np.ix_(fixed, free)], dtype=right.dtype)
    bounds = _row_bounds(starts)
    _context_rights(
        len(bounds) - 1, coords, matrices, mode, free, fixed, known, entries, starts, bounds, right
    )
    return _grams(coords, matrices, mode, free, weights, entries, starts), right


def _grams(
    coords: tuple[np.ndarray, ...],
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    weights: np.ndarray | float,
    entries: np.ndarray,
    starts: np.ndarray,
) -> np.ndarray | RowGrams:
    dtype = matrices[mode].dtype
    if not len(free):
        return np.zeros((len(starts) - 1, 0, 0), dtype=dtype)
    others = [m for m in range(len(matrices)) if m != mode]
    if others:
        at, of_others = _take(coords, others), [np.ascontiguousarray(matrices[m][:, free]) for m in others]
    else:  # the contexts of a relation of two modalities: z_e = 1
        at, of_others = (np.zeros_like(coords[mode]),), [np.ones((1, len(free)), dtype=dtype)]
    grams = RowGrams(at, tuple(of_others), weights, entries, starts)
    return grams.formed() if grams.formed_bytes <= max(FORMED_AT_ONCE, grams.nbytes) else grams


def line(tensor: SparseTensor, matrices: Matrices, directions: Matrices, weight: float) -> np.ndarray:
    """sum over the entries of -2 x xhat(alpha) + v xhat(alpha)^2 with xhat(alpha) = [[A + alpha D]].

    Returns
    -------
    (2 order + 1,) coefficients in float64, lowest first.
    """
    total = np.zeros(2 * tensor.order + 1)
    if weight == 0:
        total[: tensor.order + 1] = -2 * _inner_line(tensor, matrices, directions)
        return total
    coords, values = _kernel_input(tensor, matrices)
    cuts, _ = _runs(tensor)
    totals = np.zeros((len(cuts) - 1, len(total)))
    _line(len(totals), coords, values, matrices, directions, weight, cuts, totals)
    return np.asarray(totals.sum(axis=0))


def _inner_line(tensor: SparseTensor, matrices: Matrices, directions: Matrices) -> np.ndarray:
    """The coefficients of <X, [[A + alpha D]]>, (order + 1,)."""
    sort = tensor.sort_mode
    others = [m for m in range(tensor.order) if m != sort]
    matrices, directions = (tuple(arrays.aligned(m) for m in of) for of in (matrices, directions))
    cuts, rows = _runs(tensor)
    line = np.zeros(tensor.order + 1)
    for column, width, count in column_runs(matrices[0].shape[1], WIDEST // matrices[0].dtype.itemsize):
        totals = np.zeros((len(cuts) - 1, tensor.order + 1, width))
        passes.inner_line_pass(width, width == count)(
            len(cuts) - 1,
            tensor.row_starts,
            _take(tensor.coords, others),
            tensor.values,
            (matrices[sort], directions[sort]),
            _take(matrices, others),
            _take(directions, others),
            cuts,
            rows,
            column,
            count,
            totals,
        )
        line += totals.sum(axis=(0, 2))
    return line


def limit_threads(count: int) -> None:
    """Let the kernels that are called from this thread use at most so many threads."""
    numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))


def group_by_row(tensor: SparseTensor, mode: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries grouped by their row in a mode: what :func:`normal_equations` walks along."""
    if mode == tensor.sort_mode:
        return np.arange(tensor.nnz), tensor.row_starts
    index = tensor.coords[mode]
    starts = np.zeros(tensor.shape[mode] + 1, dtype=np.int64)
    np.cumsum(np.bincount(index, minlength=tensor.shape[mode]), out=starts[1:])
    return stable_order((index,), (tensor.shape[mode],))[0].astype(np.int64), starts


def _kernel_input(tensor: SparseTensor, matrices: Matrices) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Coordinates and values in one dtype each, so that a kernel is compiled once per pair of dtypes."""
    width = np.result_type(*(c.dtype for c in tensor.coords))
    coords = tuple(np.ascontiguousarray(c, dtype=width) for c in tensor.coords)
    return coords, np.ascontiguousarray(tensor.values, dtype=matrices[0].dtype)


def _runs(tensor: SparseTensor) -> tuple[np.ndarray, np.ndarray]:
    """An even run of the entries per thread, and the first row that begins in each."""
    cuts = np.linspace(0, tensor.nnz, numba.get_num_threads() + 1).astype(np.int64)
    rows = np.searchsorted(tensor.row_starts[:-1], cuts[:-1])
    return cuts, np.append(rows, tensor.shape[tensor.sort_mode]).astype(np.int64)


def _take(items: Matrices, modes: Sequence[int]) -> Matrices:
    return tuple(items[m] for m in modes)


def _row_bounds(starts: np.ndarray) -> np.ndarray:
    """Cuts of the rows into runs with about as many entries each, several per thread."""
    even = np.linspace(0, starts[-1], 8 * numba.get_num_threads() + 1)
    inner = np.searchsorted(starts, even[1:-1])
    return np.concatenate([[0], inner, [len(starts) - 1]]).astype(np.int64)


def _added_up(private: np.ndarray) -> np.ndarray:
    """The sum over threads, on memory of its own: a view would hold that of all threads."""
    if len(private) == 1:
        return private[0]
    found = arrays.empty(private.shape[1:], private.dtype)
    _add_up(len(found), private, found)
    return found


@in_runs()
def _add_up(begin, end, private, found):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        for r in range(found.shape[1]):
            found[i, r] = private[0, i, r] + private[1, i, r]
        for thread in range(2, private.shape[0]):
            for r in range(found.shape[1]):
                found[i, r] += private[thread, i, r]


@in_runs(FLAGS)
def _entry_rights(begin, end, coords, values, matrices, mode, known, entries, starts, bounds, rights):  # type: ignore[no-untyped-def]
    order, rank = len(matrices), matrices[0].shape[1]
    z = np.empty(rank, dtype=values.dtype)
    for block in range(begin, end):
        for i in range(bounds[block], bounds[block + 1]):
            for position in range(starts[i], starts[i + 1]):
                e = entries[position]
                for r in range(rank):
                    z[r] = 1
                for m in range(order):
                    if m != mode:
                        matrix, j = matrices[m], coords[m][e]
                        for r in range(rank):
                            z[r] *= matrix[j, r]
                x = values[e]
                for r in range(rank):
                    x -= known[r] * z[r]
                for r in range(rank):
                    rights[i, r] += x * z[r]


@in_runs(FLAGS)
def _context_rights(begin, end, coords, matrices, mode, free, fixed, known, entries, starts, bounds, right):  # type: ignore[no-untyped-def]
    order = len(matrices)
    rank = matrices[0].shape[1]
    for block in range(begin, end):
        w = np.empty(rank, dtype=known.dtype)
        total = np.empty(len(free), dtype=known.dtype)
        for i in range(bounds[block], bounds[block + 1]):
            for position in range(starts[i], starts[i + 1]):
                e = entries[position]
                w[:] = 1
                for m in range(order):
                    if m != mode:
                        matrix, j = matrices[m], coords[m][e]
                        for r in range(rank):
                            w[r] *= matrix[j, r]
                total[:] = 0
                for r in range(len(fixed)):
                    wr = w[fixed[r]]
                    for a in range(len(free)):
                        total[a] += wr * known[r, a]
                for a in range(len(free)):
                    right[i, a] -= w[free[a]] * total[a]


@in_runs(FLAGS)
def _line(begin, end, coords, values, matrices, directions, weight, bounds, totals):  # type: ignore[no-untyped-def]
    order, rank = len(matrices), matrices[0].shape[1]
    term = np.empty((order + 1, rank), dtype=values.dtype)
    value = np.empty(order + 1, dtype=np.float64)
    for thread in range(begin, end):
        total = totals[thread]
        for e in range(bounds[thread], bounds[thread + 1]):
            # value[k] = coefficient of alpha^k in sum_r prod_m (A_m + alpha D_m)[i_m, r]
            i = coords[0][e]
            for r in range(rank):
                term[0, r] = matrices[0][i, r]
                term[1, r] = directions[0][i, r]
            for m in range(1, order):
                i = coords[m][e]
                a, d = matrices[m], directions[m]
                for r in range(rank):
                    term[m + 1, r] = term[m, r] * d[i, r]
                for k in range(m, 0, -1):
                    for r in range(rank):
                        term[k, r] = term[k, r] * a[i, r] + term[k - 1, r] * d[i, r]
                for r in range(rank):
                    term[0, r] *= a[i, r]
            for k in range(order + 1):
                own = values.dtype.type(0)
                for r in range(rank):
                    own += term[k, r]
                value[k] = own
                total[k] -= 2 * np.float64(values[e]) * value[k]
            for a in range(order + 1):
                for b in range(order + 1):
                    total[a + b] += weight * value[a] * value[b]
