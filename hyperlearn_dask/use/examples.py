"""What a model says, by example: who is like whom, and what it makes of test tuples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hyperlearn_dask.factorization.metrics import Asked
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.use.rank import Ranking, similar

NEW = "(not in training)"  # an id of a test that is no entity


@dataclass(frozen=True)
class Answered:
    """A test tuple that was asked for its target.

    ``rank``: the filtered rank of the true one, see :mod:`hyperlearn_dask.factorization.metrics`;
    ``best``: the targets ranked first, without those that are known for the context besides.
    """

    given: Mapping[str, str]
    truth: str
    rank: float
    best: tuple[str, ...]


@dataclass(frozen=True)
class Rated:
    """A test tuple's value beside the model's; ``deviation``: where there are posterior draws."""

    given: Mapping[str, str]
    value: float
    predicted: float
    deviation: float | None


def portraits(model: Model, hypergraph: Hypergraph, modality: str, entities: int, top: int) -> list[Ranking]:
    """The entities in most hyperedges, most first, each with those that are most like it."""
    counts = np.zeros(len(model.modalities[modality]), dtype=np.int64)
    for relation in hypergraph.relations.values():
        if modality in relation.modalities:
            coords = relation.tensor.coords[relation.modalities.index(modality)]
            counts += np.bincount(coords, minlength=len(counts))
    counts[~model.informed[modality]] = 0
    known = np.argsort(-counts, kind="stable")[: min(entities, int((counts > 0).sum()))]
    return [similar(model, modality, str(model.modalities[modality].ids[i]), top) for i in known]


def answered(
    model: Model, relation: Relation, target: str, *, tuples: int, top: int, seed: int = 0
) -> list[Answered]:
    """Some test tuples of a relation, drawn by a seed, and how the model ranks their targets."""
    asked = Asked(_shuffled(relation, seed), target, tuples)
    scores = model.ranking_scores(relation.name, target, asked.given()) if asked.count else np.empty((0, 0))
    ranks = asked.ranks(lambda begin, end: scores[begin:end])
    found = []
    for context, truth, rank in zip(*asked.tuples, ranks):
        row = asked.rivals(context, scores[context])
        row[truth] = scores[context, truth]
        best = np.argsort(-row, kind="stable")[: min(top, int(np.isfinite(row).sum()))]
        given = {m: _name(model, m, int(index[context])) for m, index in asked.given().items()}
        names = tuple(_name(model, target, int(i)) for i in best)
        found.append(Answered(given, _name(model, target, int(truth)), float(rank), names))
    return found


def rated(model: Model, relation: Relation, *, tuples: int, seed: int = 0) -> list[Rated]:
    """Some test tuples of a relation, drawn by a seed, and the values that the model predicts."""
    test = _shuffled(relation, seed).test
    assert test is not None
    some = test[slice(tuples)]
    predicted = model.predict(relation.name, some.coords)
    deviation = None if model.draws is None else model.deviation(relation.name, some.coords)
    return [
        Rated(
            {m: _name(model, m, int(coord[i])) for m, coord in zip(relation.modalities, some.coords)},
            float(some.values[i]),
            float(predicted[i]),
            None if deviation is None else float(deviation[i]),
        )
        for i in range(some.nnz)
    ]


def _shuffled(relation: Relation, seed: int) -> Relation:
    """A relation whose test tuples are in random order."""
    test = relation.test
    assert test is not None
    order = np.random.default_rng(seed).permutation(test.nnz)
    return Relation(
        relation.name,
        relation.modalities,
        relation.shape,
        relation.nnz,
        lambda: relation.tensor,
        lambda: test[order],
    )


def _name(model: Model, modality: str, index: int) -> str:
    return NEW if index < 0 else model.modalities[modality].label(index)
