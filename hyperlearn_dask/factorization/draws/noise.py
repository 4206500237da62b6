"""Noise that differs from entity to entity: some people's ratings are hard to tell, some films divide.

An observation of a relation p with ``noise`` has the precision 2 lambda_p prod_m w_m[i_m], over modalities
named there, with w_m[i] ~ Gamma(nu_m / 2, nu_m / 2), mean 1 (as in Lakshminarayanan, Bouchard and Archambeau
2011). Given everything else, with r the residuals,
    w_m[i] ~ Gamma((nu_m + n_i) / 2, (nu_m + 2 lambda_p sum_e r_e^2 prod_{k != m} w_k) / 2)   over row i's e,
and nu_m is drawn on a grid. A weighed sum over entries is a plain one over scaled ones: with b_k = sqrt(w_k),
    w (x - xhat)^2 = (b x - prod_k b_k A_k)^2,   b = prod_k b_k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import gammaln

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.kernels.rows import RowGrams
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import EntryShard, Product, Result, grouped
from hyperlearn_dask.hypergraph.tensor import SparseTensor

GRID = 2.0 ** np.linspace(2, 9, 29)  # where nu is looked for; up to 2 the variance 1 / w has no mean
ENTRIES = 1 << 16  # residuals made at once


@dataclass(frozen=True, eq=False)
class WeighedShard:
    """A shard whose entries weigh prod_m w_m[i_m]; ``weights``: w (rows of the shard) by mode."""

    shard: EntryShard
    weights: Mapping[int, Array]

    def products(
        self,
        problem: Problem,
        factors: Mapping[str, Array],
        modalities: Sequence[str],
        grams: Mapping[str, np.ndarray],
    ) -> dict[str, Product]:
        """The normal equations of each modality: scaled by the others, then row by row by its own."""
        found = {}
        part = self.shard
        term = problem.terms[part.term]
        matrices = part.matrices(term, factors, 1.0)
        for m, modality in enumerate(term.modalities):
            if modality not in modalities:
                continue
            others = {mode: w for mode, w in self.weights.items() if mode != m}
            gram, right = kernels.normal_equations(
                _scaled(part.by_entry, others),
                _scaled_rows(matrices, others),
                m,
                term.free(m),
                term.fixed(m),
                1.0,
                *grouped(part, m),
            )
            if m in self.weights:
                own = self.weights[m].astype(right.dtype)
                gram = gram.formed() if isinstance(gram, RowGrams) else gram
                gram, right = gram * own[:, None, None], right * own[:, None]
            first = part.first_row if m == part.tensor.sort_mode else 0
            found[modality] = Product(term.name, first, right, gram)
        return found

    def line(
        self, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
    ) -> np.ndarray:
        """sum over the entries of w (-2 x xhat(alpha) + xhat(alpha)^2)."""
        part = self.shard
        term = problem.terms[part.term]
        return kernels.line(
            _scaled(part.by_entry, self.weights),
            _scaled_rows(part.matrices(term, factors, 1.0), self.weights),
            _scaled_rows(part.matrices(term, directions, 0.0), self.weights),
            1.0,
        )

    def each(self, work: Callable[[Any], Result]) -> Iterator[Result]:
        """What ``work`` gives for the entries as they weigh."""
        yield work(replace(self.shard, tensor=_scaled(self.shard.by_entry, self.weights)))

    def squares(self, problem: Problem, factors: Mapping[str, Array], mode: int) -> tuple[int, Array, Array]:
        """Of the rows of a mode, from which one on: sum_e r_e^2 prod_{k != m} w_k, and how many entries."""
        part = self.shard
        tensor, term = part.by_entry, problem.terms[part.term]
        matrices = part.matrices(term, factors, 1.0)
        xp = array_module(tensor.values)
        totals = xp.zeros(tensor.shape[mode])
        for start in range(0, tensor.nnz, ENTRIES):
            at = [c[start : start + ENTRIES] for c in tensor.coords]
            product = matrices[0][at[0]]
            for k in range(1, tensor.order):
                product = product * matrices[k][at[k]]
            squares = (tensor.values[start : start + ENTRIES] - product.sum(axis=1)).astype(np.float64) ** 2
            for k, w in self.weights.items():
                if k != mode:
                    squares = squares * w[at[k]]
            totals += xp.bincount(at[mode], squares, len(totals))
        counts = xp.bincount(tensor.coords[mode], minlength=len(totals))
        return (part.first_row if mode == tensor.sort_mode else 0), totals, counts


def draw_weights(
    weights: np.ndarray,
    precision: float,
    squares: Sequence[tuple[int, np.ndarray, np.ndarray]],
    rng: np.random.Generator,
) -> np.ndarray:
    """New weights w_m; ``precision``: 2 lambda_p; ``squares``: of :meth:`WeighedShard.squares`."""
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for first, sums, counts in squares:
        total[first : first + len(sums)] += sums
        count[first : first + len(counts)] += counts
    nu = draw_freedom(weights[count > 0], rng)
    return rng.gamma((nu + count) / 2) / ((nu + precision * total) / 2)


def draw_freedom(weights: np.ndarray, rng: np.random.Generator) -> float:
    """nu given the weights, uniform on the grid's logarithms beforehand."""
    half = GRID / 2
    # log prod_i Gamma(w_i; nu / 2, nu / 2)
    each = half * np.log(half) - gammaln(half)
    log = len(weights) * each + (half - 1) * np.log(weights).sum() - half * weights.sum()
    chances = np.exp(log - log.max())
    return float(rng.choice(GRID, p=chances / chances.sum()))


def _scaled(tensor: SparseTensor, weights: Mapping[int, Array]) -> SparseTensor:
    """The entries times sqrt(w) of the modes given."""
    values = tensor.values
    for mode, w in weights.items():
        values = values * array_module(w).sqrt(w)[tensor.coords[mode]].astype(values.dtype)
    return replace(tensor, values=values)


def _scaled_rows(matrices: Sequence[Array], weights: Mapping[int, Array]) -> tuple[Array, ...]:
    return tuple(
        matrix * array_module(matrix).sqrt(weights[mode])[:, None].astype(matrix.dtype)
        if mode in weights
        else matrix
        for mode, matrix in enumerate(matrices)
    )
