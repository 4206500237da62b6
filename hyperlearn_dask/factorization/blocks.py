"""The block problem of one modality, the others fixed: assembled from products, then solved.

The block is quadratic (Loss_theta of the paper). With a = the modality's free columns of one row,
    H_i a_i + mu (L A)_i = c_i,
where H_i = H is the same for all rows if every relation of the modality has ``absent = zero``,
    H = eps I + sum_p 2 lambda_p Gamma_p,   Gamma_p = Hadamard product of the other modes' Grams,
and H_i = H + sum_p 2 lambda_p sum_j z_j z_j' over row i's observed entries for ``unknown``.
Columns in which the modality counts as 1 move to the right-hand side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.filters import conjugate_gradients, solve_resolvent
from hyperlearn_dask.factorization.kernels.cpu import group_by_row
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.hypergraph.tensor import SparseTensor


@dataclass(frozen=True, eq=False)
class Shard:
    """A run of one relation's entries, with the rows of its sort mode counted from ``first_row``."""

    term: str
    tensor: SparseTensor
    first_row: int
    _by_row: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def by_row(self, mode: int) -> tuple[np.ndarray, np.ndarray]:
        """The entries grouped by their row in a mode (``unknown`` only), kept between sweeps."""
        if mode not in self._by_row:
            self._by_row[mode] = group_by_row(self.tensor, mode)
        return self._by_row[mode]

    def matrices(self, term: Term, factors: Mapping[str, Array], fill: float = 1.0) -> tuple[Array, ...]:
        """The effective matrices the shard's entries index: of the sort mode only the shard's rows."""
        matrices = []
        for mode, modality in enumerate(term.modalities):
            factor = factors[modality]
            if mode == self.tensor.sort_mode:
                factor = factor[self.first_row : self.first_row + self.tensor.shape[mode]]
            matrices.append(term.effective(mode, factor, fill))
        return tuple(matrices)


@dataclass(frozen=True, eq=False)
class Product:
    """What one shard contributes to one modality's block: rows ``first_row`` and on.

    ``right``: the MTTKRP over the term's used columns (``zero``), or c_i over its free columns
    (``unknown``), where ``gram`` then has the H_i.
    """

    term: str
    first_row: int
    right: Array
    gram: Array | None = None


@dataclass(frozen=True, eq=False)
class BlockSystem:
    """H_i a_i + mu (L A)_i = c_i with H_i = ``gram`` (f x f) + ``row_grams``[i] (n x f x f, or None)."""

    gram: np.ndarray
    right: Array
    row_grams: Array | None = None


def shard_products(
    problem: Problem, shard: Shard, factors: Mapping[str, Array], modalities: Sequence[str]
) -> dict[str, Product]:
    """A shard's contribution to the blocks of some of its modalities, from one point.

    ``zero``: the MTTKRP of all of them in one pass. ``unknown``: the normal equations of each.
    """
    term = problem.terms[shard.term]
    matrices = shard.matrices(term, factors)
    modes = tuple(mode for mode, modality in enumerate(term.modalities) if modality in modalities)

    def first_row(mode: int) -> int:
        return shard.first_row if mode == shard.tensor.sort_mode else 0

    if term.absent == "zero":
        rows = kernels.mttkrp(shard.tensor, matrices, modes)
        return {term.modalities[m]: Product(term.name, first_row(m), rows[m]) for m in modes}
    products = {}
    for m in modes:
        gram, right = kernels.normal_equations(
            shard.tensor, matrices, m, term.free(m), term.fixed(m), *shard.by_row(m)
        )
        products[term.modalities[m]] = Product(term.name, first_row(m), right, gram)
    return products


def augmented_gram(left: Array, right: Array | None = None) -> np.ndarray:
    """[A 1]'[A 1], or [A 1]'[D 0]: one Gram from which every term takes the part it needs.

    float64 on the host, (rank + 1, rank + 1); the last row and column belong to fixed columns.
    """
    rank = left.shape[1]
    gram = np.zeros((rank + 1, rank + 1))
    if right is None:
        gram[:rank, :rank] = _host(left.T @ left)
        gram[rank, :rank] = gram[:rank, rank] = _host(left.sum(axis=0, dtype=np.float64))
        gram[rank, rank] = len(left)
    else:
        gram[:rank, :rank] = _host(left.T @ right)
        gram[rank, :rank] = _host(right.sum(axis=0, dtype=np.float64))
    return gram


def term_gram(term: Term, mode: int, gram: np.ndarray) -> np.ndarray:
    """The Gram of a mode's effective matrix (used x used), taken out of an augmented Gram."""
    last = len(gram) - 1
    columns = np.where(term.coupled[mode], np.arange(last), last)[term.columns]
    return gram[np.ix_(columns, columns)]


def assemble(
    problem: Problem,
    modality: str,
    rows: int,
    products: Sequence[Product],
    grams: Mapping[str, np.ndarray],
    dtype: np.dtype,
) -> BlockSystem:
    """Add up the shards' products and the Grams of the other modalities to the modality's system."""
    columns = problem.free_columns(modality)
    place = np.full(problem.rank, -1)
    place[columns] = np.arange(len(columns))
    xp = array_module(*(p.right for p in products))
    gram = problem.ridge * np.eye(len(columns))
    right = xp.zeros((rows, len(columns)), dtype=dtype)
    row_grams = None
    for term in problem.terms_of(modality):
        mode = term.mode(modality)
        free, fixed = term.free(mode), term.fixed(mode)
        to = place[term.columns[free]]
        scale = 2 * term.weight
        if term.absent == "zero":
            # Gamma = Hadamard product of the Grams of the other modes' effective matrices
            gamma = np.ones((len(term.columns), len(term.columns)))
            for other, name in enumerate(term.modalities):
                if other != mode:
                    gamma *= term_gram(term, other, grams[name])
            gram[np.ix_(to, to)] += scale * gamma[np.ix_(free, free)]
            # The fixed columns' part of xhat is known: c = 2 lambda (MTTKRP - 1 (1' Gamma_fixed,free))
            known = gamma[np.ix_(fixed, free)].sum(axis=0)
            right[:, to] -= xp.asarray(scale * known, dtype=dtype)
        elif row_grams is None:
            row_grams = xp.zeros((rows, len(columns), len(columns)), dtype=dtype)
        for product in products:
            if product.term != term.name:
                continue
            span = slice(product.first_row, product.first_row + len(product.right))
            if product.gram is None:
                right[span, to] += scale * product.right[:, free]
            else:
                right[span, to] += scale * product.right
                row_grams[span, to[:, None], to] += scale * product.gram  # type: ignore[index]
    return BlockSystem(gram, right, row_grams)


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
    if system.row_grams is None:
        return _solve_common(system, laplacian, mu, start, tolerance)
    return _solve_by_row(system, laplacian, mu, start, tolerance)


def residual(system: BlockSystem, laplacian: Array | None, mu: float, block: Array) -> Array:
    """c_i - H_i a_i - mu (L A)_i: minus the gradient of F in the modality's free columns (n x f)."""
    xp = array_module(block)
    rest = system.right - block @ xp.asarray(system.gram, dtype=block.dtype)
    if system.row_grams is not None:
        rest -= xp.matmul(system.row_grams, block[:, :, None])[:, :, 0]
    if laplacian is not None and mu > 0:
        rest -= mu * (laplacian @ block)
    return rest


def _solve_common(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, tolerance: float
) -> Array:
    """A H + mu L A = C. With H = Q diag(w) Q', column r of A Q is (mu L + w_r I)^-1 (C Q)_r."""
    xp = array_module(system.right)
    w, q = np.linalg.eigh(system.gram)
    w = np.maximum(w, np.finfo(np.float64).eps * len(w) * max(w[-1], np.finfo(np.float64).tiny))
    basis = xp.asarray(q, dtype=system.right.dtype)
    rotated = system.right @ basis
    if laplacian is None:
        rotated /= xp.asarray(w, dtype=rotated.dtype)
    else:
        rotated = solve_resolvent(laplacian, mu, w, rotated, start @ basis, tolerance)
    return rotated @ basis.T


def _solve_by_row(
    system: BlockSystem, laplacian: Array | None, mu: float, start: Array, tolerance: float
) -> Array:
    """Every row has its own H_i; the graph couples the rows: PCG with the rows' own blocks inverted."""
    xp = array_module(system.right)
    h = system.row_grams + xp.asarray(system.gram, dtype=system.right.dtype)
    if laplacian is None:
        return xp.linalg.solve(h, system.right[:, :, None])[:, :, 0]
    diagonal = mu * xp.asarray(laplacian.diagonal(), dtype=h.dtype)
    inverse = xp.linalg.inv(h + diagonal[:, None, None] * xp.eye(h.shape[1], dtype=h.dtype))

    def by_row(matrices: Array, y: Array) -> Array:
        return xp.matmul(matrices, y[:, :, None])[:, :, 0]

    return conjugate_gradients(
        lambda y: by_row(h, y) + mu * (laplacian @ y),
        system.right,
        lambda y: by_row(inverse, y),
        start,
        tolerance,
    )


def _host(array: Array) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array
