"""Judging a training sweep by sweep, by hyperedges that it has not seen.

They stand in the place of a relation's test tuples (:mod:`hyperlearn_dask.hypergraph.holdout`). Values
are judged by their RMSE, ranks by their MRR, under the protocol of the evaluation. On a cluster the tuples
and what is known for their contexts stay at one modality, where the rows of the others come to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hyperlearn_dask.backend import Array, to_host
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.metrics import Asked, ranking_metrics, rating_metrics
from hyperlearn_dask.factorization.model import Model, known_rows
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.training.executor import Executor, Handle
from hyperlearn_dask.training.report import SweepReport

# So many held-out tuples are judged by at most: ranks cost a score per target.
RATED = 100_000
RANKED = 2_000


@dataclass(frozen=True)
class Questions:
    """Held-out tuples: which entities' rows are needed for them, and the right answers.

    ``index``: an array per modality, of values one entry per tuple, of ranks one per context (the
    target left out); ``values`` and ``bounds`` (the range of the training values), or ``asked``.
    """

    index: dict[str, np.ndarray]
    values: np.ndarray
    bounds: np.ndarray
    asked: Asked | None


class Judge:
    """Judges factors by what was held out of a relation.

    Parameters
    ----------
    executor, problem
        Of the training on the rest.
    hypergraph
        The rest, with the held-out hyperedges as test tuples of the relation.
    name
        The relation.
    target
        What it ranks; None: its last modality.
    informed
        Per modality the entities that training knows something about (bool per entity).
    """

    def __init__(
        self,
        executor: Executor,
        problem: Problem,
        hypergraph: Hypergraph,
        name: str,
        target: str | None,
        informed: Mapping[str, np.ndarray],
    ) -> None:
        members = problem.terms[name].modalities
        rated = problem.terms[name].absent == "unknown"
        self._executor, self._problem, self._name = executor, problem, name
        self._target = None if rated else target or members[-1]
        self._home = self._target or members[0]
        self._sign = 1 if rated else -1
        source = hypergraph.relations[name] if hypergraph.path is None else hypergraph.path
        self._questions = executor.at_modality("held-out", self._home, _questions, source, name, self._target)
        self._members = [m for m in members if m != self._target]
        self._informed = {m: executor.hold(f"informed-{m}", m, informed[m]) for m in self._members}

    def judged(
        self, report: SweepReport, factors: Mapping[str, Handle], before: list[SweepReport]
    ) -> SweepReport:
        """The report of a sweep with how well the factors it led to do, and whether better than before."""
        value = self.figure(factors)
        others = [self._sign * earlier.validation for earlier in before if earlier.validation is not None]
        return replace(report, validation=value, best=self._sign * value < min(others, default=np.inf))

    def figure(self, factors: Mapping[str, Handle]) -> float:
        """RMSE or MRR of the held-out tuples by factors."""
        executor = self._executor
        index = executor.pick(self._questions, "index")
        rows = {
            m: executor.at_modality(
                f"asked-{m}", m, _rows, factors[m], self._informed[m], executor.pick(index, m)
            )
            for m in self._members
        }
        if self._target is not None:
            rows[self._target] = factors[self._target]
        value = executor.at_modality(
            f"judge-{self._name}",
            self._home,
            _figure,
            self._problem,
            self._name,
            self._target,
            self._questions,
            rows,
        )
        return float(executor.gather(value))


def out_of_patience(history: Sequence[SweepReport], patience: int) -> bool:
    """Whether none of the last sweeps was the best so far."""
    return len(history) > patience and not any(report.best for report in history[-patience:])


# The steps: module-level functions of a modality's Laplacian and of values.


def _questions(_: Array | None, source: Relation | Path, name: str, target: str | None) -> Questions:
    if isinstance(source, Path):
        from hyperlearn_dask.hypergraph.store import open_relation

        relation = open_relation(source, name)
    else:
        relation = source
    test, values = relation.test, relation.tensor.values
    assert test is not None
    if target is not None:
        asked = Asked(relation, target, RANKED)
        if not asked.count:
            raise InputError(
                f"no held-out hyperedge has a '{target}' that the others have; hold out more or fewer",
                key=f"relations.{name}",
            )
        return Questions(asked.given(), np.empty(0), np.empty(0), asked)
    index = {m: coord[:RATED] for m, coord in zip(relation.modalities, test.coords)}
    return Questions(index, test.values[:RATED], np.array([values.min(), values.max()]), None)


def _rows(_: Array | None, factor: Array, informed: np.ndarray, index: np.ndarray) -> np.ndarray:
    return known_rows(to_host(factor), to_host(informed), to_host(index))


def _figure(
    _: Array | None,
    problem: Problem,
    name: str,
    target: str | None,
    questions: Questions,
    rows: Mapping[str, Array],
) -> float | None:
    """The figure by a model whose rows are those that are asked for, in their order."""
    factors = {m: to_host(rows_of) for m, rows_of in rows.items()}
    model = Model(problem, {}, factors, {m: np.ones(len(f), dtype=bool) for m, f in factors.items()})
    if target is None:
        every = np.arange(len(questions.values))
        predicted = model.predict(name, (every,) * len(problem.terms[name].modalities))
        return rating_metrics(questions.bounds, questions.values, predicted)["rmse"]
    assert questions.asked is not None

    def score(begin: int, end: int) -> np.ndarray:
        asked = np.arange(begin, end)
        return model.score_targets(name, target, {m: asked for m in factors if m != target})

    return ranking_metrics(questions.asked.ranks(score))["mrr"]
