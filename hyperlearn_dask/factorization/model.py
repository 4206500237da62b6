"""A trained model: factor matrices and the scores they give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.encoders.encoding import Encoding
from hyperlearn_dask.factorization.local.evidence import FACTORS, Evidence
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.hypergraph.tensor import Modality


@dataclass(frozen=True, eq=False)
class Model:
    """Factor matrices (entities x rank, one per modality) with what is needed to use them.

    ``factors`` hold 1 in columns that are used but fixed, and 0 in columns no relation of the
    modality uses. ``informed``: bool (entities,) per modality, true for an entity that training knew
    something about (a hyperedge or a graph neighbour); all others are scored by the mean row.
    ``targets``: the modality each relation ranks, where its settings name one. ``history``: one dict
    of numbers per sweep. ``draws``: posterior draws of the factors (draws x entities x rank), where
    training made some: values and scores are then means over them. ``evidence``: the local evidence
    of a relation for its target, where its settings ask for it. ``encoders``: of the modalities whose
    rows were made by one. ``noise``: by relation and modality, how much more variance the observations of
    each entity have, where training found out.
    """

    problem: Problem
    modalities: dict[str, Modality]
    factors: dict[str, np.ndarray]
    informed: dict[str, np.ndarray]
    targets: dict[str, str] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()
    draws: dict[str, np.ndarray] | None = None
    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    encoders: Mapping[str, Encoding] = field(default_factory=dict)
    noise: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def each_draw(self) -> Iterator[Model]:
        """One model per posterior draw; the model itself where there are none."""
        if self.draws is None:
            yield self
            return
        for one in range(len(next(iter(self.draws.values())))):
            yield replace(self, factors={m: a[one] for m, a in self.draws.items()}, draws=None)

    @cached_property
    def mean_rows(self) -> dict[str, np.ndarray]:
        """The mean of the informed rows (rank,) of each modality."""
        return {m: mean_row(self.factors[m], known) for m, known in self.informed.items()}

    @property
    def kept(self) -> Mapping[str, Any]:
        """The row of history of the sweep that the factors are of."""
        return kept_row(self.history)

    def rows(self, term: Term, mode: int, index: np.ndarray) -> np.ndarray:
        """Rows (len(index) x used columns) of a mode's effective matrix.

        Index -1, and every entity that training knew nothing about, stands for the mean row.
        """
        modality = term.modalities[mode]
        factor, informed = self.factors[modality], self.informed[modality]
        return term.effective(mode, known_rows(factor, informed, index, self.mean_rows[modality]))

    def predict(self, relation: str, coords: tuple[np.ndarray, ...]) -> np.ndarray:
        """The model's values at given coordinates: offset + sum_r prod_m A_m[i_m, r].

        ``coords``: one index array of length n per mode; returns (n,).
        """
        return self._mean(model._predict(relation, coords) for model in self.each_draw())

    def deviation(self, relation: str, coords: tuple[np.ndarray, ...]) -> np.ndarray:
        """The standard deviation (n,) of an observation at given coordinates, noise included.

        The variance between the posterior draws, and the noise 1 / (2 lambda) of the relation.

        Raises
        ------
        InputError
            When the model has no draws.
        """
        at = dict(zip(self.problem.terms[relation].modalities, coords))
        return self._deviation(
            relation, lambda model: model._predict(relation, coords), self._relative_noise(relation, at)
        )

    def target_deviations(self, relation: str, target: str, context: Mapping[str, np.ndarray]) -> np.ndarray:
        """The standard deviations (contexts x targets) of what :meth:`score_targets` scores.

        As in :meth:`deviation`; local evidence, which has no posterior, plays no part.
        """
        at = {m: np.asarray(index)[:, None] for m, index in context.items()}
        at[target] = np.arange(len(self.factors[target]))
        return self._deviation(
            relation,
            lambda model: model._score_targets(relation, target, context),
            self._relative_noise(relation, at),
        )

    def score_targets(self, relation: str, target: str, context: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (contexts x targets) of every target in each of a batch of contexts.

        ``context``: one index array of length B per given modality; -1, and modalities left out,
        stand for the mean row. Targets that training knew nothing about score with their own row.
        """
        return self._mean(model._score_targets(relation, target, context) for model in self.each_draw())

    def ranking_parts(
        self, relation: str, target: str, context: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What makes up :meth:`ranking_scores`: arrays (contexts x targets) by name, read only."""
        scores = self.score_targets(relation, target, context)
        evidence = self.evidence.get(relation)
        if evidence is None or evidence.target != target:
            yield FACTORS, scores
        else:
            yield from evidence.parts(scores, context)

    def ranking_scores(self, relation: str, target: str, context: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (contexts x targets) to rank by: :meth:`score_targets`, with local evidence if any."""
        parts = (part for _, part in self.ranking_parts(relation, target, context))
        total = next(parts)
        for part in parts:
            total += part
        return total

    def _relative_noise(self, relation: str, at: Mapping[str, np.ndarray]) -> np.ndarray | float:
        """How much more variance observations have at given entities; -1 stands for a usual one."""
        product: np.ndarray | float = 1.0
        for modality, variances in self.noise.get(relation, {}).items():
            index = at.get(modality, np.array(-1))
            product = product * np.where(index < 0, variances.mean(), variances[index])
        return product

    def _deviation(
        self, relation: str, value: Callable[[Model], np.ndarray], relative: np.ndarray | float
    ) -> np.ndarray:
        """sqrt(variance of a value between the draws + noise), one draw after the other."""
        if self.draws is None:
            raise InputError("this model has no posterior draws; train it with draws = 100, say")
        mean = squares = np.zeros(())
        for count, model in enumerate(self.each_draw(), 1):
            # Welford: M_k = M_{k-1} + (x - m_{k-1}) (x - m_k)
            difference = value(model) - mean
            mean = mean + difference / count
            squares = squares + difference * (difference - difference / count)
        return np.sqrt(squares / count + relative / (2 * self.problem.terms[relation].weight))

    @staticmethod
    def _mean(values: Iterator[np.ndarray]) -> np.ndarray:
        total, count = next(values), 1
        for value in values:
            total += value
            count += 1
        return total / count

    def _predict(self, relation: str, coords: tuple[np.ndarray, ...]) -> np.ndarray:
        term = self.problem.terms[relation]
        product = np.ones((len(coords[0]), len(term.columns)))
        for mode, index in enumerate(coords):
            product *= self.rows(term, mode, np.asarray(index))
        return product.sum(axis=1) + term.offset

    def _score_targets(self, relation: str, target: str, context: Mapping[str, np.ndarray]) -> np.ndarray:
        term = self.problem.terms[relation]
        length = max((len(v) for v in context.values()), default=1)
        product = np.ones((length, len(term.columns)))
        for mode, modality in enumerate(term.modalities):
            if modality != target:
                index = np.asarray(context.get(modality, np.full(length, -1)))
                product *= self.rows(term, mode, index)
        matrix = term.effective(term.mode(target), self.factors[target])
        return product @ matrix.T + term.offset


def mean_row(factor: np.ndarray, informed: np.ndarray) -> np.ndarray:
    """The mean (rank,) of the informed rows of a factor, of all where none is."""
    mean = (factor[informed] if informed.any() else factor).mean(axis=0, dtype=np.float64)
    return np.asarray(mean, dtype=factor.dtype)


def known_rows(
    factor: np.ndarray, informed: np.ndarray, index: np.ndarray, mean: np.ndarray | None = None
) -> np.ndarray:
    """Rows of a factor, the mean row in the place of -1 and of what training knew nothing about."""
    rows = factor[index]
    unknown = (index < 0) | ~informed[index]
    if unknown.any():
        rows[unknown] = mean_row(factor, informed) if mean is None else mean
    return rows


def kept_row(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the sweep whose factors are returned: the best by validation, else the last."""
    return next((row for row in reversed(history) if row.get("best")), history[-1])
