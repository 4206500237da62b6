"""The evaluation protocol, against the obvious loop."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.metrics import trained_on
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor
from hyperlearn_dask.use.evaluate import (
    coverage,
    evaluate,
    filtered_ranks,
    ranking_metrics,
    rating_metrics,
)


def relation_of(train: np.ndarray, test: np.ndarray, shape: tuple[int, ...]) -> Relation:
    """A relation from rows of coordinates, its modalities called m0, m1, …"""

    def tensor(rows: np.ndarray) -> SparseTensor:
        columns = tuple(np.ascontiguousarray(c, dtype=np.int32) for c in rows.reshape(-1, len(shape)).T)
        return SparseTensor(columns, np.ones(len(rows)), shape)

    names = tuple(f"m{m}" for m in range(len(shape)))
    return Relation("joins", names, shape, len(train), lambda: tensor(train), lambda: tensor(test))


def loop_ranks(train: np.ndarray, test: np.ndarray, mode: int, scores: np.ndarray) -> list[float]:
    """Filtered ranks as the protocol words them; ``scores`` has a last entry per mode for -1."""
    ranks = []
    seen = set(train[:, mode])
    for row in test:
        if row[mode] not in seen:
            continue
        context = np.delete(row, mode)
        known = {
            int(other[mode])
            for other in itertools.chain(train, test)
            if (np.delete(other, mode) == context).all() and (context >= 0).all()
        }
        line = scores[tuple(slice(None) if m == mode else i for m, i in enumerate(row))]
        own = line[row[mode]]
        rivals = [line[t] for t in seen - known - {row[mode]}]
        ranks.append(1 + sum(s > own for s in rivals) + sum(s == own for s in rivals) / 2)
    return ranks


@settings(deadline=None, max_examples=60)
@given(data=st.data(), order=st.integers(2, 4), cells=st.sampled_from([1, 7, 10_000]))
def test_ranks_equal_the_loop(data: st.DataObject, order: int, cells: int) -> None:
    generator = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    shape = tuple(generator.integers(2, 6, size=order))
    mode = int(generator.integers(order))
    train = np.unique(generator.integers(0, shape, size=(generator.integers(1, 25), order)), axis=0)
    test = generator.integers(-1, shape, size=(generator.integers(0, 15), order))
    scores = generator.integers(0, 4, size=np.add(shape, 1)).astype(float)  # with many ties
    relation = relation_of(train, test, shape)
    target = relation.modalities[mode]

    def scorer(context: Mapping[str, np.ndarray]) -> np.ndarray:
        length = len(next(iter(context.values())))
        at = [
            np.arange(shape[m])[None, :] if name == target else context[name].reshape(length, 1)
            for m, name in enumerate(relation.modalities)
        ]
        return scores[tuple(np.broadcast_arrays(*at))]

    np.testing.assert_array_equal(
        filtered_ranks(relation, target, scorer, cells=cells), loop_ranks(train, test, mode, scores)
    )


def test_test_tuples_that_are_trained_on_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.array([[0, 1, 2], [1, 1, 0], [2, 0, 1]])
    test = np.array([[1, 1, 0], [1, 1, 1], [2, 0, 1], [1, 1, 0], [-1, 1, 0]])
    relation = relation_of(train, test, (3, 2, 3))
    assert relation.test is not None
    for at_once in (1, 2, 100):
        monkeypatch.setattr("hyperlearn_dask.factorization.metrics._AT_ONCE", at_once)
        assert trained_on(relation.test, relation.tensor) == 3


def test_each_context_is_scored_once_in_bounded_batches() -> None:
    generator = np.random.default_rng(1)
    train = generator.integers(0, (50, 7, 20), size=(400, 3))
    test = generator.integers(0, (50, 7, 20), size=(500, 3))
    asked: list[tuple[int, int]] = []

    def scorer(context: Mapping[str, np.ndarray]) -> np.ndarray:
        assert len(context["m0"]) <= 5
        asked.extend(zip(context["m0"].tolist(), context["m1"].tolist()))
        return np.zeros((len(context["m0"]), 20))

    ranks = filtered_ranks(relation_of(train, test, (50, 7, 20)), "m2", scorer, cells=100)
    assert len(ranks) == 500
    assert len(asked) == len(set(asked)) == len({(a, b) for a, b, _ in test.tolist()})


def test_scores_that_are_no_numbers_are_refused() -> None:
    relation = relation_of(np.array([[0, 0], [1, 1]]), np.array([[0, 1]]), (2, 2))
    with pytest.raises(InputError, match=r"relations\.joins: .* not all finite"):
        filtered_ranks(relation, "m1", lambda context: np.array([[np.nan, 1.0]]))


def test_ranking_metrics() -> None:
    figures = ranking_metrics(np.array([1.0, 1.5, 10.0, 10.5]))
    assert figures["mrr"] == pytest.approx((1 + 1 / 1.5 + 1 / 10 + 1 / 10.5) / 4)
    assert (figures["hits@10"], figures["acc@1"], figures["acc@10"]) == (0.75, 0.25, 0.75)
    assert set(ranking_metrics(np.empty(0)).values()) == {None}


def test_rating_metrics_clip_to_the_training_range() -> None:
    train, test, predicted = np.array([1.0, 5.0]), np.array([5.0, 1.0]), np.array([7.0, 2.0])
    assert rating_metrics(train, test, predicted)["rmse"] == pytest.approx(np.sqrt(0.5))
    raw = rating_metrics(train, test, predicted, clip=False)
    assert (raw["rmse"], raw["mae"]) == (pytest.approx(np.sqrt(2.5)), pytest.approx(1.5))


def hypergraph_of(model: Model) -> Hypergraph:
    generator = np.random.default_rng(3)

    def relation(name: str) -> Relation:
        modalities = model.problem.terms[name].modalities
        shape = tuple(model.problem.sizes[m] for m in modalities)
        train, test = (
            SparseTensor(
                tuple(generator.integers(0, n, size=size) for n in shape),
                generator.uniform(1, 5, size=size),
                shape,
            )
            for size in (30, 8)
        )
        return Relation(name, modalities, shape, train.nnz, lambda: train, lambda: test)

    return Hypergraph(model.modalities, {name: relation(name) for name in model.problem.terms}, {})


@pytest.mark.parametrize("at_once", [3, 1 << 16])
def test_evaluate_rates_what_is_unknown_and_ranks_the_rest(
    model: Model, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperlearn_dask.use.evaluate.AT_ONCE", at_once)
    hypergraph = hypergraph_of(model)
    figures = {(m.relation, m.metric): m for m in evaluate(model, hypergraph)}
    assert set(figures) == {("rates", "rmse"), ("rates", "mae")} | {
        ("tagged", metric) for metric in ("mrr", "hits@10", "acc@1", "acc@10")
    }
    test = hypergraph.relations["rates"].test
    assert test is not None
    predicted = model.predict("rates", test.coords).clip(
        *np.sort(hypergraph.relations["rates"].tensor.values)[[0, -1]]
    )
    assert figures["rates", "rmse"].value == pytest.approx(np.sqrt(np.mean((predicted - test.values) ** 2)))
    assert figures["tagged", "mrr"].target == "tag"
    named = dataclasses.replace(model, targets={"rates": "movie", "tagged": "user"})
    targets = {(m.relation, m.metric): m.target for m in evaluate(named, hypergraph)}
    assert (targets["rates", "mrr"], targets["tagged", "mrr"]) == ("movie", "user")


def test_evaluate_refuses_another_hypergraph(model: Model) -> None:
    hypergraph = hypergraph_of(model)
    fewer = dataclasses.replace(model.modalities["tag"], ids=np.array(["1", "2"]), labels=None)
    other = dataclasses.replace(hypergraph, modalities={**hypergraph.modalities, "tag": fewer})
    with pytest.raises(InputError, match="other entities of 'tag'"):
        evaluate(model, other)


def test_coverage_of_a_known_normal() -> None:
    generator = np.random.default_rng(0)
    predicted, deviation = generator.normal(size=20_000), generator.uniform(0.5, 2, size=20_000)
    values = predicted + deviation * generator.normal(size=20_000)
    assert coverage(values, predicted, deviation, 0.9) == pytest.approx(0.9, abs=0.01)
    assert coverage(values, predicted, deviation / 2, 0.9) < 0.65
    assert coverage(values[:0], predicted[:0], deviation[:0], 0.9) is None


def test_a_model_with_draws_says_how_often_its_intervals_hold(model: Model) -> None:
    assert "coverage@90" not in {m.metric for m in evaluate(model, hypergraph_of(model))}
    draws = {m: np.repeat(factor[None], 3, axis=0) for m, factor in model.factors.items()}
    metrics = evaluate(dataclasses.replace(model, draws=draws), hypergraph_of(model))
    held = next(m for m in metrics if m.metric == "coverage@90")
    assert (held.relation, held.task) == ("rates", "rating")
    assert held.value is not None and 0 <= held.value <= 1
