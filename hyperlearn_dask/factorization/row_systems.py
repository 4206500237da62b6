"""Blocks whose rows have a system each and no graph that couples them: formed and solved a few at a time.

    H_i = H + sum over the parts p of V_p * sum_e z_e z_e'      over the entries e of row i
All H_i would be rows x columns^2 numbers, in every sweep anew. Here a row with many entries has its own
H_i in a workspace that a cache holds. One with few differs little from H: with Z its z_e one below the
other, times the root of the number V_p,
    (H + Z'Z)^-1 g = y - Q'(I + Z Q')^-1 Z y,   y = H^-1 g,   Q = Z H^-1,
where y and Q are products of many rows with one matrix (Woodbury's identity).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hyperlearn_dask.factorization.grams import spectrum
from hyperlearn_dask.factorization.kernels import rows as kernel
from hyperlearn_dask.factorization.kernels.rows import Part, Workspace

# A row with at most a third as many entries as columns has few.
FEW = 3
# Columns from which on that is worth telling apart.
WORTH = 32
# Entries of rows with few that are worked on at once.
AT_ONCE = 8192


def way(
    common: np.ndarray, parts: Sequence[Part], right: np.ndarray, block: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From present values to the solution of H_i y_i = c_i: g_i = c_i - H_i a_i and H_i^-1 g_i, (n x f) each.

    Parameters
    ----------
    common
        H (f x f).
    right, block
        The c_i and a_i (n x f).
    """
    downhill, found = np.empty_like(right), np.empty_like(right)
    counts = np.sum([_counts(part, len(right)) for part in parts], axis=0)
    few = np.zeros(len(right), dtype=bool)
    if right.shape[1] >= WORTH and all(_weight(part) > 0 for part in parts):
        few = counts <= right.shape[1] // FEW
        few[few] = _by_few(common, parts, np.flatnonzero(few), counts, right, block, downhill, found)
    # Rows with about as many entries together: threads have as much to do.
    many = np.flatnonzero(~few)
    many = many[np.argsort(counts[many], kind="stable")]
    workspace = Workspace.of(parts, common, right.dtype)
    for rows in _batches(many, len(workspace.systems)):
        ways = np.empty((len(rows), right.shape[1]), dtype=right.dtype)
        downhill[rows] = kernel.descend(workspace.filled(rows), right[rows], block[rows], ways)
        found[rows] = ways
    return downhill, found


def _batches(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _weight(part: Part) -> float:
    """What every entry of a part weighs, 0 where that differs between columns."""
    return part.scale * part.grams.weights if isinstance(part.grams.weights, float) else 0.0


def _counts(part: Part, rows: int) -> np.ndarray:
    """How many entries a part has of each of a modality's rows."""
    counts = np.zeros(rows, dtype=np.int64)
    counts[part.first_row : part.first_row + len(part.grams)] = np.diff(part.grams.starts)
    return counts


def _by_few(
    common: np.ndarray,
    parts: Sequence[Part],
    rows: np.ndarray,
    counts: np.ndarray,
    right: np.ndarray,
    block: np.ndarray,
    downhill: np.ndarray,
    found: np.ndarray,
) -> np.ndarray:
    """Solve rows with few entries; gives back which of them were, the others would lose too many digits."""
    dtype, columns = right.dtype, len(common)
    eps = float(np.finfo(dtype).eps)
    w, q = spectrum(common + columns * eps * max(float(common.diagonal().max()), 0.0) * np.eye(columns))
    if not w[0] > 0:
        return np.zeros(len(rows), dtype=bool)
    matrix, inverse = common.astype(dtype), ((q / w) @ q.T).astype(dtype)
    solved = np.ones(len(rows), dtype=bool)
    ends = np.cumsum(counts[rows])
    work = np.cumsum(counts[rows] + 1)  # a row without entries is work as well
    first = 0
    while first < len(rows):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(work, before + first + AT_ONCE, side="right")))
        some = rows[first:last]
        starts = np.concatenate([[0], ends[first:last] - before])
        z = _products(parts, some, starts, columns, dtype)
        g = right[some] - block[some] @ matrix
        sizes = kernel.subtract_products(z, starts, np.ascontiguousarray(block[some]), g)
        y = g @ inverse
        kernel.correct(z, z @ inverse, starts, y)
        downhill[some], found[some] = g, y
        solved[first:last] = sizes <= w[0] / np.sqrt(eps)
        first = last
    return solved


def _products(
    parts: Sequence[Part], rows: np.ndarray, starts: np.ndarray, columns: int, dtype: np.dtype
) -> np.ndarray:
    """The z_e of some rows, row after row, times the roots of their weights: (entries x columns)."""
    z = np.zeros((starts[-1], columns), dtype=dtype)
    to = starts[:-1].copy()
    for part in parts:
        grams = part.grams
        if not len(grams):
            continue
        own = rows - part.first_row
        here = (own >= 0) & (own < len(grams))
        first = grams.starts[:-1][np.where(here, own, 0)]
        count = np.where(here, np.diff(grams.starts)[np.where(here, own, 0)], 0)
        along = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        entries = grams.entries[np.repeat(first, count) + along]
        product = grams.matrices[0][grams.coords[0][entries]]
        for coords, matrix in zip(grams.coords[1:], grams.matrices[1:]):
            product = product * matrix[coords[entries]]
        product = product * dtype.type(np.sqrt(_weight(part)))
        at = np.repeat(to, count) + along
        if len(part.columns) == columns:
            z[at] = product
        else:
            z[at[:, None], part.columns] = product
        to += count
    return z
