"""F along a line: F(A + alpha D) is a polynomial in alpha, and its minimiser is exact.

Its coefficients come from one pass over the entries (the products of every shard) and from Gram
algebra; no residual and nothing of the tensor's size is ever formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial

from hyperlearn_dask.backend import Array, beside
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.filters import graph_product
from hyperlearn_dask.factorization.grams import augmented_grams, inner, term_gram
from hyperlearn_dask.factorization.problem import Problem


@dataclass(frozen=True, eq=False)
class Moments:
    """What F needs to know of one modality's factor A and direction D.

    ``grams``: the augmented Grams of A'A, A'D + D'A and D'D; ``graph`` and ``ridge``: the
    coefficients of 1/2 tr(A' mu L A) and 1/2 eps ||A||^2 along the line, both over the free columns;
    ``encoder``: those of what its parameters cost, of a modality that is encoded.
    """

    grams: tuple[np.ndarray, np.ndarray, np.ndarray]
    graph: np.ndarray
    ridge: np.ndarray
    encoder: np.ndarray | None = None

    def __add__(self, other: Moments) -> Moments:
        """Of the rows of both, of a modality without a graph or an encoder."""
        aa, ad, dd = (mine + theirs for mine, theirs in zip(self.grams, other.grams))
        return Moments((aa, ad, dd), self.graph + other.graph, self.ridge + other.ridge)


def moments(
    problem: Problem,
    modality: str,
    factor: Array,
    direction: Array,
    laplacian: Array | None,
) -> Moments:
    """The moments of a modality along its direction."""
    free = problem.free_columns(modality)
    aa, ad, dd = augmented_grams(factor, direction)
    # 1/2 eps ||A_free + alpha D_free||^2
    ridge = problem.ridge_of(modality) / 2 * np.array([float(g[free, free].sum()) for g in (aa, ad, dd)])
    graph = np.zeros(3)
    mu = problem.graph_weights.get(modality, 0.0)
    if laplacian is not None and mu > 0:
        columns = beside(free, factor)
        a, d = factor[:, columns], direction[:, columns]
        ld = graph_product(laplacian, d)
        # 1/2 mu tr((A + alpha D)' L (A + alpha D))
        graph = mu / 2 * np.array([inner(a, graph_product(laplacian, a)), 2 * inner(a, ld), inner(d, ld)])
    return Moments((aa, ad, dd), graph, ridge)


def gram_along(moments: Moments, alpha: float) -> np.ndarray:
    """The augmented Gram of A + alpha D."""
    aa, ad, dd = moments.grams
    # [A + alpha D, 1]'[A + alpha D, 1]
    return aa + alpha * ad + alpha**2 * dd


def objective_line(
    problem: Problem,
    lines: Mapping[str, Sequence[np.ndarray]],
    backgrounds: Mapping[str, Sequence[np.ndarray]],
    squares: Mapping[str, float],
    by_modality: Mapping[str, Moments],
) -> dict[str, np.ndarray]:
    """The summands of F(A + alpha D) by name, each as polynomial coefficients, lowest first.

    Parameters
    ----------
    lines
        Per term what its entry shards gave.
    backgrounds
        Per ``context`` term what its context shards gave.
    squares
        ||X_p||^2 per term.
    by_modality
        The moments of every modality.
    """
    parts = {}
    for term in problem.terms.values():
        along = np.sum(lines[term.name], axis=0)
        along[0] += squares[term.name]
        if term.background > 0:
            # w0 sum_background xhat^2 = w0 1' (moment of the passes * Grams of the other modes) 1
            if term.absent == "context":
                model, modes = np.sum(backgrounds[term.name], axis=0), [term.target_mode]
            else:
                width = len(term.columns)
                model, modes = np.ones((1, width, width)), list(range(len(term.modalities)))
            for mode in modes:
                grams = [term_gram(term, mode, g) for g in by_modality[term.modalities[mode]].grams]
                model = _multiply(model, np.stack(grams))
            along = polynomial.polyadd(along, term.background * model.sum(axis=(1, 2)))
        parts[f"fit {term.name}"] = term.weight * along
    for modality, m in by_modality.items():
        if problem.graph_weights.get(modality, 0.0) > 0:
            parts[f"graph {modality}"] = m.graph
        if m.encoder is not None:
            parts[f"encoder {modality}"] = m.encoder
    parts["ridge"] = np.sum([m.ridge for m in by_modality.values()], axis=0)
    return parts


def best_step(parts: Mapping[str, np.ndarray]) -> float:
    """The alpha that minimises F(A + alpha D): the best real root of its derivative, or 0.

    Raises
    ------
    InputError
        When F is not finite.
    """
    total = np.zeros(1)
    for part in parts.values():
        total = polynomial.polyadd(total, part)
    slope = polynomial.polyder(total)
    if not (np.isfinite(total).all() and np.isfinite(slope).all()):
        raise InputError(
            "the objective is no longer finite: values, weights or ridge are too large or too far apart for "
            'the precision; bring them nearer to 1, or use training.dtype = "float64" if it is not used yet'
        )
    roots = polynomial.polyroots(slope)
    real = roots[np.abs(roots.imag) <= 1e-9 * np.maximum(1, np.abs(roots))].real
    candidates = np.concatenate([[0.0], real])
    values = polynomial.polyval(candidates, total)
    return float(candidates[np.argmin(np.where(np.isfinite(values), values, np.inf))])


def at_step(parts: Mapping[str, np.ndarray], alpha: float) -> dict[str, float]:
    """The value of every summand of F at a step."""
    return {name: float(polynomial.polyval(alpha, part)) for name, part in parts.items()}


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of two polynomials whose coefficients are matrices multiplied entry by entry."""
    product = np.zeros((len(a) + len(b) - 1, *a.shape[1:]))
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            product[i + j] += left * right
    return product
