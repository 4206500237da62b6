"""What a modality's rows are made of when they are drawn, and how much that may cost.

A~ = D Theta + E, with Theta the learned weights of an encoder on features and E the entities' own rows
(see :mod:`..encoders.encoder`). The design D = [T_0(L~) X, ..., T_J(L~) X] has a column for every row of
Theta; a modality without an encoder has E alone. The prior of both is Gaussian: exp of minus
    1/2 sum_bg s_bg ||Z_bg||^2,
Z_bg the part b of (Theta; E), a block of features under one T_j or E, in the column group g. The ridges s_bg
are the settings' or, sampled, drawn as well: of the hyperprior Gamma(1/2, 1/2) remains
    s_bg | Z ~ Gamma((1 + |Z_bg|) / 2, (1 + ||Z_bg||^2) / 2),   shape and rate, |Z| the number of entries;
and likewise of the noise precision 2 lambda of a relation of N observed values,
    2 lambda | A ~ Gamma((1 + N) / 2, (1 + sum_i (x_i - xhat_i)^2) / 2)
(conditionals as in Salakhutdinov and Mnih 2008, Rendle 2012). With a graph the prior's normaliser is no
product over its parts, and the s_bg keep the settings' values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.backend import Array
from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.factorization.problem import Problem

# Of every precision's hyperprior, twice its shape and rate.
TWICE_SHAPE = TWICE_RATE = 1.0


@dataclass(frozen=True, eq=False)
class Prior:
    """A modality's design and the parts of its code (Theta; E) that have a ridge each.

    ``design``: D (n x q, CSC), None without an encoder; ``bent``: mu L D in the same way, None where there is
    no graph; ``own``: whether there is E; ``parts``: the first row of each part in the code, and the end of
    the last; ``ridges``: those of the settings, one per part; ``groups``: which of the free columns (slices)
    share a ridge; ``sampled``: whether ridges are drawn.
    """

    design: Any
    bent: Any
    own: bool
    parts: tuple[int, ...]
    ridges: tuple[float, ...]
    groups: tuple[slice, ...]
    sampled: bool

    @property
    def inputs(self) -> int:
        """The rows of Theta."""
        return 0 if self.design is None else int(self.design.shape[1])

    def draw_ridges(self, code: Array, rng: np.random.Generator) -> np.ndarray:
        """The ridges (parts x free columns): given the code where they are sampled."""
        drawn = np.repeat(np.array(self.ridges)[:, None], code.shape[1], axis=1)
        if self.sampled:
            for b, (start, stop) in enumerate(zip(self.parts, self.parts[1:])):
                for group in self.groups:
                    part = code[start:stop, group].astype(np.float64)
                    drawn[b, group] = draw_precision(part.size, float((part**2).sum()), rng)
        return drawn

    def by_row(self, ridges: np.ndarray) -> np.ndarray:
        """Ridges (parts x free columns) as one row for each of the code's."""
        return np.repeat(ridges, np.diff(self.parts), axis=0)


def draw_precision(count: int, squares: float, rng: np.random.Generator) -> float:
    """A precision given the number and the sum of squares of what has it."""
    return float(rng.gamma((TWICE_SHAPE + count) / 2) / ((TWICE_RATE + squares) / 2))


def prior_of(
    problem: Problem,
    modality: str,
    laplacian: Array | None,
    features: Any,
    blocks: Sequence[int],
    sampled: bool,
) -> Prior:
    """The prior of a modality.

    ``features``: X, or None; ``blocks``: how many of its columns belong together each time, none: all.
    """
    spec = problem.encoders.get(modality)
    mu = problem.graph_weights.get(modality, 0.0) if laplacian is not None else 0.0
    rows, groups = problem.sizes[modality], _groups(problem, modality)
    sampled = sampled and mu == 0
    if spec is None:
        return Prior(None, None, True, (0, rows), (problem.ridge,), groups, sampled)
    widths = (list(blocks) or [features.shape[1]]) * (spec.degree + 1)
    ridges = [spec.decay] * len(widths)
    if spec.own:
        widths, ridges = [*widths, rows], [*ridges, problem.ridge]
    design = _design(spec, laplacian, sp.csr_array(features))
    bent = sp.csc_array(mu * (laplacian @ design)) if mu > 0 else None
    parts = tuple(int(end) for end in np.cumsum([0, *widths]))
    return Prior(sp.csc_array(design), bent, spec.own, parts, tuple(ridges), groups, sampled)


def with_noise(problem: Problem, variances: Mapping[str, float]) -> Problem:
    """The problem with lambda = 1 / (2 variance) for the relations whose noise is known."""
    terms = {
        name: replace(term, weight=1 / (2 * variances[name])) if name in variances else term
        for name, term in problem.terms.items()
    }
    return replace(problem, terms=terms)


def _groups(problem: Problem, modality: str) -> tuple[slice, ...]:
    """Where, among the free columns of a modality, each group is that has some."""
    free, found = problem.free_columns(modality), []
    for name in problem.groups:
        columns = problem.columns_of(name)
        span = np.searchsorted(free, (columns.start, columns.stop))
        if span[0] < span[1]:
            found.append(slice(int(span[0]), int(span[1])))
    return tuple(found)


def _design(spec: EncoderSpec, laplacian: Array | None, features: sp.csr_array) -> sp.csr_array:
    """D, by T_{k+1} = 2 L~ T_k - T_{k-1}."""
    blocks = [features]
    for k in range(spec.degree):
        shifted = laplacian @ blocks[-1] - blocks[-1]
        blocks.append(shifted if k == 0 else 2 * shifted - blocks[-2])
    return sp.csr_array(sp.hstack(blocks, format="csr"))
