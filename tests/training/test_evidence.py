"""Local evidence: its terms against loops, its weights on planted data, and what it leaves alone."""

from __future__ import annotations

import dataclasses
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from hyperlearn_dask import HyperLearn
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.local.evidence import gather_evidence
from hyperlearn_dask.factorization.local.likeness import REGRESSION, VOTES
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.model_store import open_model, save_model
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation, SparseTensor
from hyperlearn_dask.training import evidence as learning
from hyperlearn_dask.training.evidence import add_evidence, learn_weights
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.use.evaluate import evaluate, filtered_ranks, ranking_metrics
from hyperlearn_dask.use.rank import rank
from tests.factorization.made_up import random_laplacian

TRAINING = TrainingSpec(groups={"all": 3}, sweeps=5, seed=4)


def hypergraph_of(rows: np.ndarray, shape: tuple[int, ...], graphs: dict[str, Graph]) -> Hypergraph:
    """One relation, ``joins``, of modalities a, b, c …, the last the target; a third tests."""
    names = "abcdef"[: len(shape)]
    rows = np.unique(rows, axis=0)
    kept = np.random.default_rng(0).random(len(rows)) < 2 / 3

    def tensor(part: np.ndarray) -> SparseTensor:
        coords = tuple(np.ascontiguousarray(c, dtype=np.int32) for c in part.T)
        return SparseTensor(coords, np.ones(len(part)), shape)

    train, test = tensor(rows[kept]), tensor(rows[~kept])
    relation = Relation("joins", tuple(names), shape, train.nnz, lambda: train, lambda: test)
    modalities = {m: Modality(m, np.array([f"{m}{i}" for i in range(n)])) for m, n in zip(names, shape)}
    return Hypergraph(modalities, {"joins": relation}, graphs)


def random_hypergraph(order: int, seed: int = 0) -> Hypergraph:
    rng = np.random.default_rng(seed)
    shape = (9, 7, 6, 8)[:order]
    graphs = {"a": Graph("a", random_laplacian(rng, shape[0]), 0, 1, 0)}
    return hypergraph_of(rng.integers(0, shape, size=(90, order)), shape, graphs)


def trained(hypergraph: Hypergraph) -> Model:
    relation = hypergraph.relations["joins"]
    problem = problem_of(hypergraph, {"joins": TermSettings()}, TRAINING, {})
    return fit(hypergraph, problem, TRAINING, targets={"joins": relation.modalities[-1]})


def share(rows: np.ndarray, modes: tuple[int, ...], entities: tuple[int, ...], target: int) -> float:
    """The share of a target among the hyperedges of some entities."""
    own = [row for row in rows if all(row[m] == e for m, e in zip(modes, entities))]
    return sum(row[-1] == target for row in own) / len(own) if own else 0.0


@pytest.mark.parametrize("order", [2, 3, 4])
def test_terms_equal_the_loops(order: int) -> None:
    hypergraph = random_hypergraph(order)
    relation = hypergraph.relations["joins"]
    rows = np.stack(relation.tensor.coords, axis=1)
    names, shape = relation.modalities, relation.shape
    weights = -hypergraph.graphs["a"].laplacian.toarray().clip(max=0)
    rng = np.random.default_rng(1)
    contexts = rng.integers(-1, shape[:-1], size=(20, order - 1))

    expected: dict[str, np.ndarray] = {}
    singles = [(m,) for m in range(order - 1)]
    pairs = list(combinations(range(order - 1), 2)) if order == 4 else []
    for modes in [*singles, *pairs] if order > 2 else []:
        name = f"counts of {' and '.join(names[m] for m in modes)}"
        expected[name] = np.array(
            [[share(rows, modes, tuple(c[list(modes)]), t) for t in range(shape[-1])] for c in contexts]
        )
    voters = [j for j in range(shape[0]) if (rows[:, 0] == j).any()]
    votes = np.zeros((len(contexts), shape[-1]))
    for number, (entity, *_) in enumerate(contexts):
        near = {j: weights[entity, j] for j in voters}
        total = sum(near.values())
        if entity >= 0 and total > 0:
            for t in range(shape[-1]):
                votes[number, t] = sum(w * share(rows, (0,), (j,), t) for j, w in near.items()) / total
    expected["neighbours of a"] = votes

    evidence = gather_evidence(hypergraph.relations, "joins", names[-1], hypergraph.graphs)
    terms = dict(evidence.found({m: contexts[:, k] for k, m in enumerate(names[:-1])}))
    assert list(terms)[: len(expected)] == list(expected)
    for name in expected:
        term = terms[name]
        np.testing.assert_allclose(term.toarray(), expected[name], atol=1e-12, err_msg=name)
    np.testing.assert_allclose(evidence.popularity, [np.mean(rows[:, -1] == t) for t in range(shape[-1])])


def test_what_is_not_given_adds_nothing() -> None:
    hypergraph = random_hypergraph(3)
    evidence = gather_evidence(hypergraph.relations, "joins", "c", hypergraph.graphs)
    terms = dict(evidence.found({"b": np.array([1, 2])}))
    assert not terms["counts of a"].nnz and not terms["neighbours of a"].nnz
    assert terms["counts of b"].nnz


def test_the_score_is_the_weighted_sum_of_logarithms() -> None:
    hypergraph = random_hypergraph(3)
    model = add_evidence(trained(hypergraph), hypergraph, ["joins"], TRAINING)
    evidence, context = model.evidence["joins"], {"a": np.array([1, 4]), "b": np.array([2, -1])}
    z = evidence.standardised(model.score_targets("joins", "c", context))
    expected = evidence.weights["factors"] * np.arcsinh(z)
    expected += evidence.weights["popularity"] * np.log(1 + 1000 * evidence.popularity)
    for name, shares in evidence.found(context):
        expected += evidence.weights[name] * np.log(1 + 1000 * shares.toarray())
    np.testing.assert_allclose(model.ranking_scores("joins", "c", context), expected)


def test_a_constant_factor_score_counts_nothing() -> None:
    hypergraph = random_hypergraph(3)
    evidence = gather_evidence(hypergraph.relations, "joins", "c", {})
    assert not evidence.standardised(np.full((2, 6), 3.0)).any()
    scores = evidence.standardised(np.random.default_rng(0).normal(5, 7, size=(3, 6)))[:, evidence.seen]
    np.testing.assert_allclose(scores.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=1), 1)


def planted(by_graph: bool) -> Hypergraph:
    """Targets that entities of a favour, each its own few or each the few of its clique; b says nothing."""
    rng = np.random.default_rng(5)
    sizes = (60, 40, 50)
    group = np.arange(60) // 6
    liked = rng.integers(0, 50, size=(60, 3))
    if by_graph:
        liked = liked[group]
    a, b = rng.integers(0, 60, size=2500), rng.integers(0, 40, size=2500)
    rows = np.stack([a, b, liked[a, rng.integers(0, 3, size=2500)]], axis=1)
    if by_graph:  # little is known of each, so that the neighbours know better
        rows = rows[:300]
    clique = group[:, None] == group[None, :]
    import scipy.sparse as sp

    return hypergraph_of(rows, sizes, {"a": laplacian_graph("a", sp.csr_array(clique.astype(float)))})


@pytest.mark.parametrize("by_graph", [False, True])
def test_the_term_that_informs_gets_the_weight(by_graph: bool) -> None:
    hypergraph = planted(by_graph)
    model = trained(hypergraph)
    better = add_evidence(model, hypergraph, ["joins"], TRAINING)
    weights = better.evidence["joins"].weights
    assert all(weight >= 0 for weight in weights.values())
    informs = "neighbours of a" if by_graph else "counts of a"
    assert weights[informs] > 0.5 + 3 * weights["counts of b"]

    relation = hypergraph.relations["joins"]
    before = ranking_metrics(filtered_ranks(relation, "c", lambda c: model.score_targets("joins", "c", c)))
    after = {metric.metric: metric.value for metric in evaluate(better, hypergraph)}
    assert after["mrr"] > before["mrr"] + 0.1
    # The factors themselves are as they were.
    assert better.factors is model.factors


def test_the_gradient_is_that_of_the_loss() -> None:
    hypergraph = random_hypergraph(4)
    model, relation = trained(hypergraph), hypergraph.relations["joins"]
    evidence = gather_evidence(hypergraph.relations, "joins", "d", hypergraph.graphs)
    columns = np.flatnonzero(evidence.seen)
    batch = learning._Batch(model, evidence, relation, relation.tensor[np.arange(12)], columns)
    weights = np.random.default_rng(3).random(len(batch.squares))
    single = batch.loss(weights)
    # Differences of a loss in single precision are noise.
    batch.factors, batch.popularity = batch.factors.astype(float), batch.popularity.astype(float)
    batch.terms = [(at, values.astype(float)) for at, values in batch.terms]
    loss, gradient = batch.loss(weights)
    assert single[0] == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(single[1], gradient, rtol=1e-4, atol=1e-5)
    for k in range(len(weights)):
        step = 1e-5 * np.eye(len(weights))[k]
        slope = (batch.loss(weights + step)[0] - batch.loss(weights - step)[0]) / 2e-5
        assert gradient[k] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_what_is_held_out_is_counted_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    hypergraph = random_hypergraph(3)
    whole = set(zip(*(c.tolist() for c in hypergraph.relations["joins"].tensor.coords)))
    seen: list[set[tuple[int, ...]]] = []

    def note(relation: Relation) -> None:
        seen.append(set(zip(*(c.tolist() for c in relation.tensor.coords))))

    def noting_fit(part, *rest, **named):  # type: ignore[no-untyped-def]
        note(part.relations["joins"])
        return fit(part, *rest, **named)

    def noting_gather(relations, *rest):  # type: ignore[no-untyped-def]
        note(relations["joins"])
        return gather_evidence(relations, *rest)

    def noting_learn(model, evidence, relation, tuples):  # type: ignore[no-untyped-def]
        seen.append(set(zip(*(c.tolist() for c in tuples.coords))))
        return learn_weights(model, evidence, relation, tuples)

    model = trained(hypergraph)
    monkeypatch.setattr(learning, "fit", noting_fit)
    monkeypatch.setattr(learning, "gather_evidence", noting_gather)
    monkeypatch.setattr(learning, "learn_weights", noting_learn)
    add_evidence(model, hypergraph, ["joins"], TRAINING)
    fitted, gathered, held, final = seen
    assert len(held) == len(whole) // 10
    assert fitted == gathered == whole - held
    assert final == whole


def test_the_others_known_are_no_rivals() -> None:
    relation = random_hypergraph(3).relations["joins"]
    rows = np.stack(relation.tensor.coords, axis=1)
    tuples = relation.tensor[np.arange(0, relation.nnz, 5)]
    found = learning._others_known(relation, 2, tuples).toarray() > 0
    for own, line in zip(np.stack(tuples.coords, axis=1), found):
        known = {row[2] for row in rows if (row[:2] == own[:2]).all()} - {own[2]}
        assert set(np.flatnonzero(line)) == known


def test_a_graph_that_has_seen_what_is_held_out_has_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    hypergraph = random_hypergraph(3)
    graphs: list[list[str]] = []

    def noting_fit(part, problem, training):  # type: ignore[no-untyped-def]
        graphs.append([*part.graphs, *problem.graph_weights])
        return fit(part, problem, training)

    monkeypatch.setattr(learning, "fit", noting_fit)
    model = add_evidence(trained(hypergraph), hypergraph, ["joins"], TRAINING, {"a": ["joins"]})
    assert graphs == [[]]
    assert not model.evidence["joins"].votes


def test_off_nothing_changes() -> None:
    hypergraph = random_hypergraph(3)
    model = trained(hypergraph)
    assert add_evidence(model, hypergraph, [], TRAINING) is model
    context = {"a": np.array([0, 1]), "b": np.array([2, -1])}
    np.testing.assert_array_equal(
        model.ranking_scores("joins", "c", context), model.score_targets("joins", "c", context)
    )


def test_a_stored_model_ranks_and_explains_the_same(tmp_path: Path) -> None:
    hypergraph = random_hypergraph(4)
    model = add_evidence(trained(hypergraph), hypergraph, ["joins"], TRAINING)
    save_model(model, tmp_path / "model.zarr", fingerprint="", settings={})
    again = open_model(tmp_path / "model.zarr")
    given = {"a": "a1", "b": "b2", "c": "c3"}
    ranking = rank(model, "d", given)
    assert rank(again, "d", given) == ranking
    assert [row.why for row in rank(again, "d", given).rows] == [row.why for row in ranking.rows]
    assert again.evidence["joins"].weights == model.evidence["joins"].weights


@pytest.mark.parametrize("given", [{"a": "a1", "b": "b2"}, {"b": "b0"}])
def test_the_explanation_sums_to_the_score(given: dict[str, str]) -> None:
    hypergraph = random_hypergraph(3)
    model = add_evidence(trained(hypergraph), hypergraph, ["joins"], TRAINING)
    ranking = rank(model, "c", given)
    names = ["factors", "popularity", "counts of a", "counts of b", "neighbours of a"]
    names += [REGRESSION, *VOTES.values()]
    for row in ranking.rows:
        assert list(row.why) == names
        assert sum(row.why.values()) == pytest.approx(row.score)
    # Another question to the same relation is the factors' alone.
    assert list(rank(model, "a", {"b": "b0"}).rows[0].why) == ["factors"]


def test_what_evidence_needs() -> None:
    hypergraph = random_hypergraph(3)
    model = trained(hypergraph)
    with pytest.raises(InputError, match=r"relations\.joins\.evidence: needs a target \(one of a, b, c\)"):
        add_evidence(dataclasses.replace(model, targets={}), hypergraph, ["joins"], TRAINING)
    few = hypergraph_of(np.eye(3, dtype=int)[:, :2], (3, 3), {})
    with pytest.raises(InputError, match="at least 10 hyperedges"):
        add_evidence(dataclasses.replace(trained(few), targets={"joins": "b"}), few, ["joins"], TRAINING)


def test_the_estimator_takes_it_as_a_setting() -> None:
    hypergraph = random_hypergraph(3)
    model = HyperLearn(rank=2, sweeps=3, relations={"joins": {"target": "c", "evidence": True}})
    row = model.fit(hypergraph).rank("c", {"a": "a1", "b": "b1"}).rows[0]
    assert "counts of b" in row.why and sum(row.why.values()) == pytest.approx(row.score)
    rated = HyperLearn(relations={"joins": {"absent": "unknown", "target": "c", "evidence": True}}, sweeps=3)
    with pytest.raises(InputError, match='has no meaning with absent = "unknown"'):
        rated.fit(hypergraph)
