"""The likeness of contexts: features, votes and regression against loops and known truths."""

from __future__ import annotations

import numpy as np
import pytest

from hyperlearn_dask.factorization.local import likeness as module
from hyperlearn_dask.factorization.local import regression
from hyperlearn_dask.factorization.local.likeness import POWERS, REGRESSION, VOTES, gather_likeness
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor


def relation_of(name: str, modalities: tuple[str, ...], rows: np.ndarray, shape: tuple[int, ...]) -> Relation:
    rows = np.unique(rows, axis=0)
    coords = tuple(np.ascontiguousarray(column, dtype=np.int32) for column in rows.T)
    tensor = SparseTensor(coords, np.ones(len(rows)), shape)
    return Relation(name, modalities, shape, tensor.nnz, lambda: tensor)


def random_relations(seed: int = 0) -> dict[str, Relation]:
    """Works with several subjects each, and with one maker and place."""
    rng = np.random.default_rng(seed)
    shows = rng.integers(0, (30, 12), size=(120, 2))
    made = np.column_stack([np.arange(25), rng.integers(0, (6, 4), size=(25, 2))])
    return {
        "shows": relation_of("shows", ("work", "subject"), shows, (30, 12)),
        "made": relation_of("made", ("work", "maker", "place"), made, (30, 6, 4)),
    }


def bag(counts: np.ndarray, weight: float) -> np.ndarray:
    idf = np.log((1 + counts.any(axis=1).sum()) / (1 + (counts > 0).sum(axis=0))) + 1
    length = np.linalg.norm(counts * idf, axis=1, keepdims=True)
    return weight * counts * idf / np.where(length > 0, length, 1)


def dense(relation: Relation, row: int, column: int) -> np.ndarray:
    table = np.zeros((relation.shape[row], relation.shape[column]))
    np.add.at(table, (relation.tensor.coords[row], relation.tensor.coords[column]), 1)
    return table


def test_votes_are_those_of_the_nearest_by_the_power_of_the_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEAREST", 5)
    relations = random_relations()
    shows, made = relations["shows"], relations["made"]
    subjects = dense(shows, 0, 1)
    features = np.hstack(
        [bag(subjects, 1.0), bag(dense(made, 0, 1), module.SINGLE), bag(dense(made, 0, 2), module.SINGLE)]
    )
    asked = np.array([0, 7, -1, 29])
    likeness = gather_likeness(relations, "shows", "subject")
    assert likeness is not None
    terms = dict(likeness.found({"work": asked}, len(asked)))
    assert list(terms) == [REGRESSION, *VOTES.values()]
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    voters = np.flatnonzero(subjects.any(axis=1))
    for power in POWERS:
        votes = terms[VOTES[power]].toarray()
        for work, found in zip(asked, votes):
            expected = np.zeros(12)
            if work >= 0:
                cosine = {v: unit[work] @ unit[v] for v in voters if v != work}
                for v in sorted(cosine, key=lambda v: -cosine[v])[:5]:
                    expected += cosine[v] ** power * subjects[v]
                expected /= max(expected.sum(), 1e-300)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_context_of_several_is_itself_a_feature() -> None:
    relations = random_relations()
    # Who is given besides needs no description by it: its name is there.
    listed = np.column_stack([np.arange(30), np.arange(30) % 4])
    relations["listed"] = relation_of("listed", ("work", "place"), listed, (30, 4))
    likeness = gather_likeness(relations, "made", "maker")
    assert likeness is not None and likeness.known is None  # a work has one maker as a rule
    work, place = likeness.profiles["work"], likeness.profiles["place"]
    # Which work, what it shows, and where: nothing of who made it.
    assert work.shape[1] == place.shape[1] == 30 + 12 + 4
    assert np.array_equal(np.unique(place.indices), 30 + 12 + np.arange(4))
    terms = dict(likeness.found({"place": np.array([1])}, 1))
    assert terms[VOTES[POWERS[0]]].nnz  # what is not given is left out


@pytest.mark.parametrize(("name", "target"), [("shows", "subject"), ("made", "maker")])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, name: str, target: str) -> None:
    relations, context = random_relations(), {"work": np.arange(30)}

    def found() -> list[np.ndarray]:
        likeness = gather_likeness(relations, name, target)
        assert likeness is not None
        return [term.toarray() for _, term in likeness.found(context, 30)]

    whole = found()
    for either in (module, regression):
        monkeypatch.setattr(either, "_CELLS", 64)
    for one, other in zip(whole, found()):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_nothing_in_common_is_no_likeness() -> None:
    alone = relation_of("made", ("work", "maker"), np.column_stack([np.arange(9), np.arange(9) % 3]), (9, 3))
    assert gather_likeness({"made": alone}, "made", "maker") is None


def test_a_target_that_others_give_away_is_found() -> None:
    # A maker shows one subject only, so what a work shows tells who made it.
    rng = np.random.default_rng(3)
    maker = rng.integers(0, 8, size=200)
    made = relation_of("made", ("work", "maker"), np.column_stack([np.arange(200), maker])[:150], (200, 8))
    rows = np.column_stack([np.arange(200), maker])
    shows = relation_of("shows", ("work", "subject"), rows, (200, 8))
    likeness = gather_likeness({"made": made, "shows": shows}, "made", "maker")
    assert likeness is not None
    for _, term in likeness.found({"work": np.arange(150, 200)}, 50):
        assert np.array_equal(term.toarray().argmax(axis=1), maker[150:])
