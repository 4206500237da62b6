"""How good a model is on tuples it has not seen: ranking and rating.

The protocol is that of :mod:`hyperlearn_dask.factorization.metrics`, one for all methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.metrics import (
    Scorer,
    coverage,
    filtered_ranks,
    ranking_metrics,
    rating_metrics,
)
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph

__all__ = [
    "Metric",
    "Scorer",
    "coverage",
    "evaluate",
    "filtered_ranks",
    "ranking_metrics",
    "rating_metrics",
]


AT_ONCE = 1 << 16  # test tuples


@dataclass(frozen=True)
class Metric:
    """One figure of merit of one relation.

    ``task``: ``"ranking"`` (of ``target``) or ``"rating"``; ``n``: the test tuples it is a mean over;
    ``value``: None where there are none.
    """

    relation: str
    task: str
    target: str | None
    metric: str
    value: float | None
    n: int


def evaluate(model: Model, hypergraph: Hypergraph, *, clip: bool = True) -> list[Metric]:
    """Every figure for every relation that has test tuples.

    A relation with ``absent = "unknown"`` is rated (see :func:`rating_metrics`; with posterior draws
    also :func:`coverage`), and ranked as well if its settings name a target. Any other is ranked: its
    target, or its last modality if none is named.

    Raises
    ------
    InputError
        When the model was trained on other entities or relations than the hypergraph has.
    """
    check_entities(model, hypergraph)
    metrics = []
    for name, relation in hypergraph.relations.items():
        test = relation.test
        if test is None or name not in model.problem.terms:
            continue
        rated, target = tasks(model, name)
        if rated:
            predicted = _by_parts(partial(model.predict, name), test.coords)
            figures = rating_metrics(relation.tensor.values, test.values, predicted, clip=clip)
            if model.draws is not None:
                deviation = _by_parts(partial(model.deviation, name), test.coords)
                figures["coverage@90"] = coverage(test.values, predicted, deviation, 0.9)
            metrics += [Metric(name, "rating", None, key, value, test.nnz) for key, value in figures.items()]
        if target is not None:
            scorer = partial(model.ranking_scores, name, target)
            ranks = filtered_ranks(relation, target, scorer)
            figures = ranking_metrics(ranks)
            metrics += [
                Metric(name, "ranking", target, key, value, len(ranks)) for key, value in figures.items()
            ]
    return metrics


def _by_parts(
    of: Callable[[tuple[np.ndarray, ...]], np.ndarray], coords: tuple[np.ndarray, ...]
) -> np.ndarray:
    """What a function gives for tuples, asked for some of them at a time: it holds their vectors."""
    count = len(coords[0])
    parts = [of(tuple(c[at : at + AT_ONCE] for c in coords)) for at in range(0, count, AT_ONCE)]
    return np.concatenate(parts) if parts else np.empty(0)


def tasks(model: Model, relation: str) -> tuple[bool, str | None]:
    """What a relation's test tuples are judged by: whether its values are rated, which target is ranked."""
    term = model.problem.terms[relation]
    rated = term.absent == "unknown"
    return rated, model.targets.get(relation) or (None if rated else term.modalities[-1])


def check_entities(model: Model, hypergraph: Hypergraph) -> None:
    """Refuse a hypergraph of other entities than a model was trained on (:class:`InputError`)."""
    for name, modality in model.modalities.items():
        other = hypergraph.modalities.get(name)
        if other is None or not np.array_equal(modality.ids, other.ids):
            raise InputError(
                f"the model was trained on other entities of '{name}' than this hypergraph has; train again"
            )
