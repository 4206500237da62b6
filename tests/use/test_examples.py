"""Examples agree with what the evaluator and the questions say of the same tuples and entities."""

import numpy as np

from hyperlearn_dask.factorization.metrics import filtered_ranks
from hyperlearn_dask.factorization.model_store import open_model
from hyperlearn_dask.hypergraph.store import open_hypergraph
from hyperlearn_dask.use.evaluate import tasks
from hyperlearn_dask.use.examples import NEW, answered, portraits, rated
from hyperlearn_dask.use.rank import similar


def opened(finished):
    return open_model(finished / "out" / "model.zarr"), open_hypergraph(finished / "out" / "hypergraph.zarr")


def test_answered_tuples_have_the_ranks_of_the_evaluation(finished):
    model, hypergraph = opened(finished)
    relation = hypergraph.relations["tagged"]
    ranks = filtered_ranks(relation, "tag", lambda context: model.ranking_scores("tagged", "tag", context))
    found = answered(model, relation, "tag", tuples=100, top=3, seed=5)
    assert sorted(row.rank for row in found) == sorted(ranks)
    movies, tags = model.modalities["movie"], model.modalities["tag"]
    known = {(movies.label(m), tags.label(t)) for m, t in zip(*relation.tensor.coords)}
    for row in found:
        assert (row.truth in row.best) == (row.rank < 3.5)
        if row.rank == 1:
            assert row.best[0] == row.truth
        assert not any((row.given["movie"], name) in known for name in row.best)


def test_a_seed_draws_the_same_tuples_and_another_one_others(finished):
    model, hypergraph = opened(finished)
    relation = hypergraph.relations["rated"]
    assert tasks(model, "rated") == (True, None)
    first, again, other = (rated(model, relation, tuples=5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(row.deviation is None for row in first)
    whole = rated(model, relation, tuples=10_000)
    assert len(whole) == relation.test.nnz
    order = np.argsort([row.value for row in whole], kind="stable")
    assert [whole[i].value for i in order] == sorted(relation.test.values)
    predicted = model.predict("rated", relation.test.coords)
    np.testing.assert_allclose(sorted(row.predicted for row in whole), np.sort(predicted))
    assert not any(NEW in row.given.values() for row in whole)


def test_portraits_are_of_those_in_most_hyperedges_and_as_similar_says(finished):
    model, hypergraph = opened(finished)
    found = portraits(model, hypergraph, "tag", 3, 2)
    counts = np.bincount(hypergraph.relations["tagged"].tensor.coords[1])
    assert [counts[list(model.modalities["tag"].ids).index(r.given["tag"])] for r in found] == sorted(counts)[
        :-4:-1
    ]
    assert found[0] == similar(model, "tag", found[0].given["tag"], 2)
    assert len(portraits(model, hypergraph, "tag", 1000, 2)) == np.count_nonzero(counts)
