"""Rows with a system each, H_i y_i = c_i: H_i formed from entries, and solved, few rows at a time.

H_i is symmetric, so only its upper half is worked on, in tiles of :data:`HIGH` rows by one register's
:class:`..columns.Columns`. It lies in a workspace of more columns than it has: whole registers, and lines
that do not all fall into the same sets of a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.columns import load, no_columns, store
from hyperlearn_dask.factorization.kernels.dense import add_products
from hyperlearn_dask.factorization.kernels.symbols import FLAGS, in_kernels

# Rows of a tile.
HIGH = 6
# Entries whose products are held at once.
CHUNK = 32
# Bytes of a workspace.
ROOM = 1 << 22
# Columns up to which inverses are made, and not Cholesky factors, where many right-hand sides follow.
NARROW = 32


@dataclass(frozen=True, eq=False)
class RowGrams:
    """H_i = V * sum_e z_e z_e' over the entries e of row i, z_e the product of the other modes' rows.

    ``coords``, ``matrices``: of the other modes, the latter (n x f); ``weights``: V (f x f), or a number
    for one that is the same everywhere. Row i has ``entries[starts[i]:starts[i + 1]]``.
    """

    coords: tuple[np.ndarray, ...]
    matrices: tuple[np.ndarray, ...]
    weights: np.ndarray | float
    entries: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, rows: slice) -> RowGrams:
        """Those of a run of rows."""
        first, stop, _ = rows.indices(len(self))
        starts = self.starts[first : stop + 1]
        return replace(self, entries=self.entries[starts[0] : starts[-1]], starts=starts - starts[0])

    @property
    def width(self) -> int:
        return int(self.matrices[0].shape[1])

    @property
    def dtype(self) -> np.dtype:
        return self.matrices[0].dtype

    @property
    def formed_bytes(self) -> int:
        """Of all H_i together."""
        return len(self) * self.width**2 * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Of what they are made from."""
        weights = 8 if isinstance(self.weights, float) else self.weights.nbytes
        arrays = (*self.coords, *self.matrices, self.entries, self.starts)
        return weights + sum(a.nbytes for a in arrays)

    def formed(self) -> np.ndarray:
        """All H_i (n x f x f)."""
        found = np.empty((len(self), self.width, self.width), dtype=self.dtype)
        form([Part(self, 0, 1.0, np.arange(self.width))], np.zeros((self.width, self.width)), found)
        return found


@dataclass(frozen=True, eq=False)
class Part:
    """Grams of some rows and columns of a modality, times a number."""

    grams: RowGrams
    first_row: int
    scale: float
    columns: np.ndarray  # of the modality's free ones


@dataclass(frozen=True, eq=False)
class Workspace:
    """Room for the systems of some rows, and what they are made from laid out for it.

    ``systems``: (rows x high x wide), the upper halves of H_i in the first f rows and columns.
    """

    systems: np.ndarray
    common: np.ndarray
    parts: list[tuple[Any, ...]]
    columns: int

    @classmethod
    def of(cls, parts: Sequence[Part], common: np.ndarray, dtype: np.dtype) -> Workspace:
        """``common``: the part of H (f x f) that all rows share."""
        columns = len(common)
        room = _room(columns, dtype)
        _, high, wide = room.shape
        shared = np.zeros((high, wide), dtype=dtype)
        shared[:columns, :columns] = common
        return cls(
            room,
            shared,
            [_laid_out(part, high, wide, dtype) for part in parts],
            columns,
        )

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """The systems of some rows, as many as there is room for."""
        systems = self.systems[: len(rows)]
        systems[:] = self.common
        for part in self.parts:
            _moment_pass(_lanes(systems.dtype))(len(rows), *part, rows, self.columns, systems)
        return systems


def form(parts: Sequence[Part], common: np.ndarray, found: np.ndarray) -> None:
    """Write all H_i (n x f x f), both halves."""
    workspace = Workspace.of(parts, common, found.dtype)
    for first in range(0, len(found), len(workspace.systems)):
        rows = np.arange(first, min(first + len(workspace.systems), len(found)))
        _copy_both_halves(len(rows), workspace.filled(rows), found[first : first + len(rows)])


def descend(systems: np.ndarray, right: np.ndarray, block: np.ndarray, way: np.ndarray) -> np.ndarray:
    """With g_i = c_i - H_i a_i the ways y_i = H_i^-1 g_i, written to ``way``; returns the g_i (n x f).

    ``systems``: as a workspace has them; they become their Cholesky factors. Each has a ridge of the size of
    its rounding errors added to its diagonal, in H_i as well as in its solution; y_i is 0 where they leave
    nothing of a column.
    """
    columns, eps = right.shape[1], np.finfo(right.dtype).eps
    diagonal = np.arange(columns)
    most = systems[:, diagonal, diagonal].max(axis=1, initial=0)
    ridges = columns * eps * np.where(most > 0, most, 1)
    downhill = right.copy()
    _subtract_images(len(systems), systems, ridges, np.ascontiguousarray(block), downhill)
    way[:] = downhill
    _substitute(len(systems), systems, _factored(systems, columns, ridges, alone=False), way)
    return downhill


def subtract_products(z: np.ndarray, starts: np.ndarray, block: np.ndarray, g: np.ndarray) -> np.ndarray:
    """g_i -= sum_e z_e (z_e' a_i) over the entries e of row i, in place; gives back sum_e |z_e|^2 (rows,)."""
    sizes = np.zeros(len(g), dtype=g.dtype)
    _subtract_products(len(g), z, starts, block, g, sizes)
    return sizes


def correct(z: np.ndarray, q: np.ndarray, starts: np.ndarray, y: np.ndarray) -> None:
    """y_i -= Q_i' (I + Z_i Q_i')^-1 Z_i y_i, in place, with row i's entries of Z and Q (entries x f)."""
    _correct(len(y), z, q, starts, int(np.diff(starts).max(initial=0)), y)


def solve_rows(matrices: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve H_i y_i = c_i for every row: (n x f x f) symmetric positive, (n x f) -> (n x f).

    By Cholesky, so the matrices must not be singular to rounding.
    """
    solution = right.copy()
    count, columns = right.shape
    systems = _room(columns, right.dtype, count)
    ridges = np.zeros(len(systems), dtype=right.dtype)
    for first in range(0, count if columns else 0, len(systems)):
        some = slice(first, min(first + len(systems), count))
        own = systems[: some.stop - first]
        own[:, :columns, :columns] = matrices[some]
        inverse = _factored(own, columns, ridges[: len(own)], alone=False)
        _substitute(len(own), own, inverse, solution[some])
    return solution


def solver_of_rows(matrices: np.ndarray, shift: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives (H_i + s_i I)^-1 c_i for every row, again and again: (n x f) -> (n x f).

    With few columns by the inverses, whose products take less time than solving does; with many they would
    take too long to make. What rounding leaves nothing of counts with its own diagonal once more.
    """
    count, columns, _ = matrices.shape
    if columns <= NARROW:
        return partial(times_rows, invert_rows(matrices, shift))
    systems = arrays.empty((count, _rounded(columns, HIGH), _wide(columns, matrices.dtype)), matrices.dtype)
    diagonal = np.arange(columns)
    systems[:, :columns, :columns] = matrices
    systems[:, diagonal, diagonal] += shift[:, None]
    inverse = _factored(systems, columns, np.zeros(count, dtype=matrices.dtype), alone=True)

    def solve(right: np.ndarray) -> np.ndarray:
        solution = right.copy()
        _substitute(count, systems, inverse, solution)
        return solution

    return solve


def _factored(systems: np.ndarray, columns: int, ridges: np.ndarray, *, alone: bool) -> np.ndarray:
    """Make systems, with a ridge each, their Cholesky factors; gives one over their diagonals (n x f).

    ``alone``: whether what rounding leaves nothing of has its own diagonal for a pivot; else the solution is
    0 there.
    """
    dtype = systems.dtype.type
    inverse = np.empty((len(systems), columns), dtype=dtype)
    tiny = dtype((columns if alone else 1) * np.finfo(dtype).eps)
    _factor_pass(_lanes(systems.dtype))(len(systems), systems, ridges, tiny, dtype(alone), inverse)
    return inverse


def times_rows(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """H_i y_i for every row: (n x f x f), (n x f) -> (n x f)."""
    found = np.empty_like(vectors)
    _times_rows(len(found), matrices, np.ascontiguousarray(vectors), found)
    return found


def invert_rows(matrices: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(H_i + s_i I)^-1 for every row, (n x f x f) symmetric positive; by elimination without pivots."""
    found = arrays.empty(matrices.shape, matrices.dtype)
    tiny = matrices.dtype.type(matrices.shape[1] * np.finfo(matrices.dtype).eps)
    _invert_rows(len(found), matrices, shift, tiny, found)
    return found


def _laid_out(part: Part, high: int, wide: int, dtype: np.dtype) -> tuple[Any, ...]:
    """A part as the pass takes it: its matrices as wide as the workspace."""
    grams = part.grams
    matrices = []
    for matrix in grams.matrices:
        spread = np.zeros((len(matrix), wide), dtype=dtype)
        spread[:, part.columns] = matrix
        matrices.append(spread)
    weights = np.zeros((high, wide), dtype=dtype)
    weights[np.ix_(part.columns, part.columns)] = part.scale * grams.weights
    return (grams.coords, tuple(matrices), weights, grams.entries, grams.starts, part.first_row)


def _room(columns: int, dtype: np.dtype, most: int | None = None) -> np.ndarray:
    """Zeros for the systems of some rows, no more than ``most``."""
    high, wide = _rounded(columns, HIGH), _wide(columns, dtype)
    rows = ROOM // max(1, high * wide * dtype.itemsize)
    return np.zeros((max(1, rows if most is None else min(most, rows)), high, wide), dtype=dtype)


def _lanes(dtype: np.dtype) -> int:
    """Columns of a tile: two registers."""
    return 64 // dtype.itemsize


def _rounded(count: int, to: int) -> int:
    return -(-count // to) * to


def _wide(columns: int, dtype: np.dtype) -> int:
    """Columns that a workspace has for so many: an odd number of cache lines, and a last tile's rows."""
    lines = _rounded(max(columns, _rounded(columns, HIGH)), _lanes(dtype)) // _lanes(dtype)
    return (lines | 1) * _lanes(dtype)


@lru_cache
def _moment_pass(width: int) -> Callable[..., None]:
    @in_runs()
    def run(begin, end, coords, matrices, weights, entries, starts, first, rows, columns, systems):  # type: ignore[no-untyped-def]
        for k in range(begin, end):
            none = no_columns(weights, width, 1)
            nothing = (none, none, none, none, none, none)
            i = rows[k] - first
            if i < 0 or i >= len(starts) - 1:
                continue
            own = systems[k]
            z = np.zeros((CHUNK, own.shape[1]), dtype=weights.dtype)
            for chunk in range(starts[i], starts[i + 1], CHUNK):
                count = min(CHUNK, starts[i + 1] - chunk)
                for j in range(count):
                    e = entries[chunk + j]
                    for c in range(0, columns, width):
                        product = load(matrices[0], coords[0][e], c, none, width)
                        for m in range(1, len(matrices)):
                            product = product * load(matrices[m], coords[m][e], c, none, width)
                        store(z, j, c, product, width)
                # H += V * Z'Z, tile by tile
                for a in range(0, columns, HIGH):
                    for c in range(a - a % width, columns, width):
                        sums = nothing
                        for j in range(count):
                            sums = add_products(sums, z, j, a, load(z, j, c, none, width))
                        _add_weighted(own, weights, a, c, sums, width)

    return run


@in_runs(FLAGS)
def _subtract_images(begin, end, systems, ridges, block, g):  # type: ignore[no-untyped-def]
    """g -= (H + ridge I) a, of which the upper half is there."""
    columns, one = np.uintp(g.shape[1]), np.uintp(1)  # not negative: loops become vectors
    for k in range(begin, end):
        for a in range(columns):
            own = block[k, a]
            total = (systems[k, a, a] + ridges[k]) * own
            for b in range(a + one, columns):
                total += systems[k, a, b] * block[k, b]
                g[k, b] -= systems[k, a, b] * own
            g[k, a] -= total


@lru_cache
def _factor_pass(width: int) -> Callable[..., None]:
    @in_runs(FLAGS)
    def run(begin, end, systems, ridges, tiny, alone, inverses):  # type: ignore[no-untyped-def]
        columns = inverses.shape[1]
        for k in range(begin, end):
            none = no_columns(systems[0], width, 1)
            nothing = (none, none, none, none, none, none)
            own, inverse = systems[k], inverses[k]
            for a in range(columns):
                inverse[a] = own[a, a]
            for a in range(0, columns, HIGH):
                # U_ac = H_ac - sum_(k < a) U_ka U_kc, tile by tile
                for c in range(a - a % width, columns, width):
                    sums = nothing
                    for above in range(a):
                        sums = add_products(sums, own, above, a, load(own, above, c, none, width))
                    _subtract(own, a, c, sums, width)
                for row in range(a, min(a + HIGH, columns)):
                    for above in range(a, row):
                        left = own[above, row]
                        for b in range(row, columns):
                            own[row, b] -= left * own[above, b]
                    # Where rounding leaves nothing, the row of a tiny pivot would be large, and what is
                    # subtracted of its products larger from one pivot to the next.
                    if own[row, row] > tiny * inverse[row]:
                        inverse[row] = 1 / np.sqrt(own[row, row] + ridges[k])
                    else:
                        inverse[row] = alone / np.sqrt(inverse[row]) if alone > 0 else 0
                    for b in range(row + 1, columns):
                        own[row, b] *= inverse[row]

    return run


@in_runs(FLAGS)
def _substitute(begin, end, systems, inverse, y):  # type: ignore[no-untyped-def]
    """U'U y = g, in the place of g."""
    columns, one = np.uintp(y.shape[1]), np.uintp(1)  # as above
    for k in range(begin, end):
        for a in range(columns):
            known = y[k, a] * inverse[k, a]
            y[k, a] = known
            for b in range(a + one, columns):
                y[k, b] -= systems[k, a, b] * known
        for last in range(columns):
            row = columns - one - last
            total = y[k, row]
            for b in range(row + one, columns):
                total -= systems[k, row, b] * y[k, b]
            y[k, row] = total * inverse[k, row]


@in_runs(FLAGS)
def _subtract_products(begin, end, z, starts, block, g, sizes):  # type: ignore[no-untyped-def]
    columns = z.shape[1]
    for i in range(begin, end):
        for e in range(starts[i], starts[i + 1]):
            product, size = z.dtype.type(0), z.dtype.type(0)
            for c in range(columns):
                product += z[e, c] * block[i, c]
                size += z[e, c] * z[e, c]
            for c in range(columns):
                g[i, c] -= product * z[e, c]
            sizes[i] += size


@in_runs(FLAGS)
def _correct(begin, end, z, q, starts, most, y):  # type: ignore[no-untyped-def]
    columns = z.shape[1]
    for i in range(begin, end):
        count = starts[i + 1] - starts[i]
        if count == 0:
            continue
        root = np.empty((most, most), dtype=z.dtype)
        u = np.empty(most, dtype=z.dtype)
        # S = I + Z Q' = L L', row by row of L (with the inverses of its diagonal), and u = L^-1 Z y
        for a in range(count):
            za, total = z[starts[i] + a], z.dtype.type(0)
            for c in range(columns):
                total += za[c] * y[i, c]
            u[a] = total
            for b in range(a + 1):
                qb, total = q[starts[i] + b], z.dtype.type(1 if a == b else 0)
                for c in range(columns):
                    total += za[c] * qb[c]
                for k in range(b):
                    total -= root[a, k] * root[b, k]
                # S has no eigenvalue below 1
                root[a, b] = 1 / np.sqrt(max(total, z.dtype.type(1))) if a == b else total * root[b, b]
            for k in range(a):
                u[a] -= root[a, k] * u[k]
            u[a] *= root[a, a]
        for a in range(count - 1, -1, -1):
            u[a] *= root[a, a]
            for k in range(a):
                u[k] -= root[a, k] * u[a]
        for a in range(count):
            qa = q[starts[i] + a]
            for c in range(columns):
                y[i, c] -= u[a] * qa[c]


@in_runs(FLAGS)
def _times_rows(begin, end, matrices, vectors, found):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        for a in range(found.shape[1]):
            total = matrices.dtype.type(0)
            for b in range(found.shape[1]):
                total += matrices[i, a, b] * vectors[i, b]
            found[i, a] = total


@in_runs(FLAGS)
def _invert_rows(begin, end, matrices, shift, tiny, found):  # type: ignore[no-untyped-def]
    columns = matrices.shape[1]
    for i in range(begin, end):
        own = found[i]
        for a in range(columns):  # one by one: a whole matrix takes seconds to compile
            for b in range(columns):
                own[a, b] = matrices[i, a, b]
            own[a, a] += shift[i]
        for k in range(columns):
            whole = matrices[i, k, k] + shift[i]
            # What rounding leaves nothing of is inverted as if it had nothing to do with the others.
            if own[k, k] <= tiny * whole:
                for a in range(columns):
                    own[a, k] = own[k, a] = 0
                own[k, k] = 1 / whole
                continue
            pivot = 1 / own[k, k]
            own[k, k] = 1
            for b in range(columns):
                own[k, b] *= pivot
            for a in range(columns):
                if a != k:
                    times = own[a, k]
                    own[a, k] = 0
                    for b in range(columns):
                        own[a, b] -= times * own[k, b]


@in_runs()
def _copy_both_halves(begin, end, systems, found):  # type: ignore[no-untyped-def]
    columns = found.shape[1]
    for k in range(begin, end):
        for a in range(columns):
            for b in range(a, columns):
                found[k, a, b] = systems[k, a, b]
                found[k, b, a] = systems[k, a, b]


# Tuples of columns, of symbols.


@in_kernels()
def _add_weighted(matrix, weights, row, column, sums, width):  # type: ignore[no-untyped-def]
    """matrix[row + j] += weights[row + j] sums_j."""
    for j, total in enumerate(sums):
        more = total * load(weights, row + j, column, total, width)
        store(matrix, row + j, column, load(matrix, row + j, column, total, width) + more, width)


@in_kernels()
def _subtract(matrix, row, column, sums, width):  # type: ignore[no-untyped-def]
    """matrix[row + j] -= sums_j."""
    for j, total in enumerate(sums):
        store(matrix, row + j, column, load(matrix, row + j, column, total, width) - total, width)
