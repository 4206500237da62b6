"""The block problem of one modality, the others fixed: assembled from products, then solved.

The block is quadratic (Loss_theta of the paper). With a = the modality's free columns of one row,
    H_i a_i + mu (L A)_i = c_i,
where H_i = H is the same for all rows if every relation of the modality has ``absent = zero``,
    H = eps I + sum_p 2 lambda_p Gamma_p,   Gamma_p = Hadamard product of the other modes' Grams,
and H_i = H + sum_p 2 lambda_p sum_j z_j z_j' over row i's observed entries for ``unknown``; see
:mod:`.shards` for ``context`` and for what shards contribute.
Columns in which the modality counts as 1 move to the right-hand side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside
from hyperlearn_dask.factorization import kernels, row_systems
from hyperlearn_dask.factorization.filters import conjugate_gradients, graph_product, solve_resolvent
from hyperlearn_dask.factorization.grams import add_scaled, inner, scaled, spectrum, term_gram
from hyperlearn_dask.factorization.kernels import arrays, dense
from hyperlearn_dask.factorization.kernels.rows import Part, RowGrams, form, solver_of_rows, times_rows
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.factorization.shards import Product


@dataclass(frozen=True, eq=False)
class BlockSystem:
    """H_i a_i + mu (L A)_i = c_i: ``gram`` is H (f x f) if all rows share it, else the H_i (n x f x f).

    ``right``: the c_i, (n x f); ``parts``: what is still to be added to H to have the H_i.
    """

    gram: Array
    right: Array
    parts: tuple[Part, ...] = ()

    @property
    def by_row(self) -> bool:
        return bool(self.gram.ndim == 3)

    def formed(self) -> BlockSystem:
        """The same without parts."""
        if not self.parts:
            return self
        rows, columns = self.right.shape
        gram = arrays.empty((rows, columns, columns), self.right.dtype)
        form(self.parts, self.gram, gram)
        return BlockSystem(_regular(gram, gram.dtype), self.right)


def assemble(
    problem: Problem,
    modality: str,
    rows: int,
    products: Sequence[Product],
    grams: Mapping[str, np.ndarray],
    dtype: np.dtype,
) -> BlockSystem:
    """Add up the shards' products and the Grams of the other modalities to the modality's system.

    The products are given up: the system's right-hand side takes the place of one of them.
    """
    columns = problem.free_columns(modality)
    place = np.full(problem.rank, -1)
    place[columns] = np.arange(len(columns))
    xp = array_module(*(p.right for p in products))
    gram = problem.ridge_of(modality) * np.eye(len(columns))
    parts: list[tuple[tuple[Any, Any], float, Array]] = []  # of the right-hand sides: where, and scale * what
    row_grams = None
    own: list[Part] = []
    for term in problem.terms_of(modality):
        free = term.free(term.mode(modality))
        to = place[term.columns[free]]
        run = slice(None) if len(to) == len(columns) else xp.asarray(to)
        scale = 2 * term.weight
        if term.absent == "zero":
            common, known = _zero_background(term, modality, grams)
            gram[np.ix_(to, to)] += scale * common
            if len(term.fixed(term.mode(modality))):
                parts.append(((slice(None), run), -scale, xp.asarray(known, dtype=dtype)))
        for product in products:
            if product.term != term.name:
                continue
            if product.right is not None:
                span = slice(product.first_row, product.first_row + len(product.right))
                parts.append(((span, run), scale, product.right))
            if product.common is not None:
                gram[np.ix_(to, to)] += scale * product.common
            if isinstance(product.gram, RowGrams):
                own.append(Part(product.gram, product.first_row, scale, to))
            elif product.gram is not None:
                if row_grams is None:
                    row_grams = xp.zeros((rows, len(columns), len(columns)), dtype=dtype)
                _add_grams(row_grams[span], to, scale, product.gram)
    right = _sum(parts, (rows, len(columns)), dtype, xp)
    if row_grams is None:
        return BlockSystem(gram, right, tuple(own)) if own else BlockSystem(_regular(gram, dtype), right)
    row_grams += xp.asarray(gram, dtype=dtype)
    for part in own:
        span = slice(part.first_row, part.first_row + len(part.grams))
        _add_grams(row_grams[span], part.columns, part.scale, part.grams.formed())
    return BlockSystem(_regular(row_grams, dtype), right)


def _sum(
    parts: list[tuple[tuple[Any, Any], float, Array]], shape: tuple[int, int], dtype: np.dtype, xp: ModuleType
) -> Array:
    """Scaled parts added up, each at its rows and columns."""
    # Where the first is all there is, or most, no zeros are made.
    if parts and parts[0][2].shape == shape and parts[0][2].dtype == dtype:
        (_, scale, whole), *parts = parts
        total = scaled(whole, scale)
    else:
        total = xp.zeros(shape, dtype=dtype)
    for (rows, columns), scale, part in parts:
        if isinstance(columns, slice):
            add_scaled(total[rows], scale, part)
        else:
            total[rows, columns] += scale * part
    return total


def _add_grams(row_grams: Array, to: np.ndarray, scale: float, gram: Array) -> None:
    """row_grams[:, to, to] += scale * gram; the largest arrays of training, so a few rows at a time."""
    run = slice(to[0], to[-1] + 1) if len(to) else slice(0, 0)
    together = run.stop - run.start == len(to)
    for at in range(0, len(gram), 1024):
        rows = slice(at, at + 1024)
        if together:
            row_grams[rows, run, run] += scale * gram[rows]
        else:
            at_columns = beside(to, row_grams)
            row_grams[rows, at_columns[:, None], at_columns] += scale * gram[rows]


def _regular(gram: Array, dtype: np.dtype) -> Array:
    """H, or the H_i, with a ridge of the size of its rounding errors: no block is singular."""
    width = gram.shape[-1]
    if not gram.size:
        return gram
    diagonal = beside(np.arange(width), gram)
    most = gram[..., diagonal, diagonal].max(axis=-1, keepdims=True)
    most[most <= 0] = 1  # nothing is known of the row, and any ridge will do
    gram[..., diagonal, diagonal] += gram.dtype.type(width * np.finfo(dtype).eps) * most
    return gram


def _zero_background(
    term: Term, modality: str, grams: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of H and c of a background that is the whole tensor: Grams say it all."""
    mode = term.mode(modality)
    free, fixed = term.free(mode), term.fixed(mode)
    # Gamma = w0 * Hadamard product of the Grams of the other modes' effective matrices
    gamma = np.full((len(term.columns), len(term.columns)), term.background)
    for other, name in enumerate(term.modalities):
        if other != mode:
            gamma *= term_gram(term, other, grams[name])
    # The fixed columns' part of xhat is known: it moves to c as -1' Gamma_fixed,free
    return gamma[np.ix_(free, free)], gamma[np.ix_(fixed, free)].sum(axis=0)


def solve_block(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, tolerance: float | None = None
) -> Array:
    """The minimiser of the block problem: the modality's free columns (n x f).

    Parameters
    ----------
    laplacian, mu
        The modality's graph and its weight; None where it has none.
    start
        The present values, from which iterative solves go on.
    tolerance
        Relative residual; by default 1e-10 in float64 and 1e-5 in float32.
    """
    if tolerance is None:
        tolerance = 1e-10 if system.right.dtype == np.float64 else 1e-5
    if laplacian is None or mu == 0:
        laplacian = None
    if not start.shape[1]:  # no relation couples the modality
        return start
    system = system.formed()
    solve = _solve_by_row if system.by_row else _solve_common
    return solve(system, laplacian, mu, start, tolerance)


def descent(
    system: BlockSystem,
    laplacian: Array | None,
    mu: float,
    block: Array,
    before: Array | None,
    tolerance: float,
) -> tuple[Array, float, float]:
    """The way from present values to the block's solution, and F's slope along it.

    Parameters
    ----------
    block, before
        The modality's free columns and another direction for them, or None (n x f).
    tolerance
        Relative residual to which the way is solved.

    Returns
    -------
    W (n x f), <G, W>, <G, before>
        With G = minus the gradient, W solves the block's system with G for c. It may take the place of c.
    """
    shared = not system.by_row and not system.parts
    if array_module(block) is np and shared and (laplacian is None or mu == 0) and block.shape[1]:
        w, q = _spectrum(system)
        return dense.way(system.gram, (q / w) @ q.T, system.right, block, before)
    if system.parts and (laplacian is None or mu == 0):
        downhill, way = row_systems.way(system.gram, system.parts, system.right, block)
        return way, inner(downhill, way), 0.0 if before is None else inner(downhill, before)
    system = system.formed()
    downhill = residual(system, laplacian, mu, block)
    way = solve_block(BlockSystem(system.gram, downhill), laplacian, mu, np.zeros_like(downhill), tolerance)
    return way, inner(downhill, way), 0.0 if before is None else inner(downhill, before)


def residual(system: BlockSystem, laplacian: Array | None, mu: float, block: Array) -> Array:
    """c_i - H_i a_i - mu (L A)_i: minus the gradient of F in the modality's free columns (n x f)."""
    return system.right - curvature(system, laplacian, mu, block)


def curvature(system: BlockSystem, laplacian: Array | None, mu: float, block: Array) -> Array:
    """H_i a_i + mu (L A)_i: F's second derivative along a block of free columns (n x f)."""
    gram = array_module(block).asarray(system.gram, dtype=block.dtype)
    product = _times(gram, block) if system.by_row else block @ gram
    if laplacian is not None and mu > 0:
        product += mu * graph_product(laplacian, block)
    return product


def _solve_common(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, tolerance: float
) -> Array:
    """A H + mu L A = C. With H = Q diag(w) Q', column r of A Q is (mu L + w_r I)^-1 (C Q)_r."""
    xp = array_module(system.right)
    w, q = _spectrum(system)
    basis = xp.asarray(q, dtype=system.right.dtype)
    rotated = system.right @ basis
    if laplacian is None:
        rotated /= xp.asarray(w, dtype=rotated.dtype)
    else:
        rotated = solve_resolvent(laplacian, mu, w, rotated, start @ basis, tolerance)
    return rotated @ basis.T


def _spectrum(system: BlockSystem) -> tuple[np.ndarray, np.ndarray]:
    """H = Q diag(w) Q', with w no smaller than its rounding errors."""
    w, q = spectrum(system.gram)
    return np.maximum(w, np.finfo(system.right.dtype).eps * w[-1]), q


def _solve_by_row(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, tolerance: float
) -> Array:
    """Every row has its own H_i; the graph couples the rows: PCG, preconditioned by the rows' own blocks."""
    xp = array_module(system.right)
    h = system.gram
    if laplacian is None:
        return kernels.solve_rows(h, system.right)
    diagonal = mu * xp.asarray(laplacian.diagonal(), dtype=h.dtype)
    if xp is np:
        precondition = solver_of_rows(h, diagonal)
    else:
        inverse = xp.linalg.inv(h + diagonal[:, None, None] * xp.eye(h.shape[1], dtype=h.dtype))
        precondition = partial(_times, inverse)
    return conjugate_gradients(
        lambda y: _times(h, y) + mu * graph_product(laplacian, y),
        system.right,
        precondition,
        start,
        tolerance,
    )


def _times(matrices: Array, vectors: Array) -> Array:
    """Row i times matrix i: (n x f x f), (n x f) -> (n x f)."""
    if array_module(vectors) is np:
        return times_rows(matrices, vectors)
    return array_module(vectors).matmul(matrices, vectors[:, :, None])[:, :, 0]
