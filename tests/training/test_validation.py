"""Stopping by held-out hyperedges: what is returned, and that nothing but training hyperedges is used."""

import dataclasses

import numpy as np
import pytest

from hyperlearn_dask import HyperLearn
from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.holdout import HoldOut, hold_out, write_held_out
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, RowIndex, SparseTensor
from hyperlearn_dask.training.checkpoint import Checkpoints
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.use.evaluate import evaluate

SIZES = {"user": 40, "item": 30, "tag": 12}
SETTINGS = {
    "rated": TermSettings("unknown", 1.0, {"taste": ("user", "item")}, "mean"),
    "tagged": TermSettings("zero", 1.0, {"tags": ("item", "tag")}, target="tag"),
}
TASKS = {"rated": "rmse", "tagged": "mrr"}


def noisy(seed=0):
    """Ratings of rank 2 with much noise, and tags of items; both have test tuples as well."""
    rng = np.random.default_rng(seed)
    users, items, tags = (rng.normal(size=(n, 2)) for n in SIZES.values())

    def split(cells, shape, values):
        coords = tuple(c.astype(np.int32) for c in np.unravel_index(cells, shape))
        tensor = SparseTensor(coords, values, shape)
        test = rng.random(len(cells)) < 0.1
        return tensor[~test], tensor[test]

    rated = np.flatnonzero(rng.random(40 * 30) < 0.4)
    stars = (users @ items.T).ravel()[rated] + rng.normal(size=len(rated))
    liked = np.argsort(-(items @ tags.T + 0.7 * rng.normal(size=(30, 12))), axis=1)[:, :4]
    tagged = np.sort((np.arange(30)[:, None] * 12 + liked).ravel())
    parts = {
        "rated": (("user", "item"), (40, 30), split(rated, (40, 30), stars)),
        "tagged": (("item", "tag"), (30, 12), split(tagged, (30, 12), np.ones(len(tagged)))),
    }
    return Hypergraph(
        {m: Modality(m, np.array([f"{m}{i}" for i in range(n)])) for m, n in SIZES.items()},
        {
            name: Relation(name, modalities, shape, train.nnz, lambda t=train: t, lambda t=test: t)
            for name, (modalities, shape, (train, test)) in parts.items()
        },
        {},
    )


def settings(hypergraph, **changes):
    training = TrainingSpec(
        **{
            "groups": {"taste": 8, "tags": 8},
            "ridge": 1e-3,
            "sweeps": 80,
            "tolerance": 0.0,
            "patience": 6,
            "held_out": 0.2,
            **changes,
        }
    )
    return problem_of(hypergraph, SETTINGS, training, {}), training


def train(hypergraph, *, client=None, checkpoints=None, on_sweep=None, **changes):
    problem, training = settings(hypergraph, **changes)
    return fit(
        hypergraph,
        problem,
        training,
        targets={"tagged": "tag"},
        client=client,
        checkpoints=checkpoints,
        on_sweep=on_sweep,
    )


def assert_same(got, expected, tolerance=1e-9):
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(got.factors[m], factor, rtol=0, atol=tolerance * np.abs(factor).max())
        np.testing.assert_array_equal(got.informed[m], expected.informed[m])
    for of in ("sweep", "best"):
        assert [row[of] for row in got.history] == [row[of] for row in expected.history]
    figures = [[row["validation"] for row in model.history] for model in (got, expected)]
    np.testing.assert_allclose(*figures, rtol=1e-6)


@pytest.mark.parametrize("name", TASKS)
def test_training_stops_early_and_the_best_state_is_returned(name):
    hypergraph = noisy()
    model = train(hypergraph, validation=name)
    figures = [row["validation"] for row in model.history]
    best = int(np.argmin(figures) if name == "rated" else np.argmax(figures))
    assert len(figures) == best + 1 + 6 < 80
    assert model.kept["sweep"] == best + 1
    # The factors are those of a training that ends there, and the figure is the evaluation's.
    rest = hold_out(hypergraph, HoldOut(name, 0.2, 0))
    problem, training = settings(hypergraph, sweeps=best + 1)
    there = fit(rest, problem, training, targets={"tagged": "tag"})
    for m, factor in there.factors.items():
        np.testing.assert_array_equal(model.factors[m], factor)
    [figure] = [metric.value for metric in evaluate(there, rest) if metric.metric == TASKS[name]]
    assert figure == pytest.approx(figures[best], rel=1e-12)


def test_what_is_put_aside_is_of_the_training_hyperedges_and_follows_from_the_seed(tmp_path):
    hypergraph = noisy()
    relation, what = hypergraph.relations["rated"], HoldOut("rated", 0.2, 3)
    rest = hold_out(hypergraph, what)

    def cells(*tensors):
        rows = [(*map(int, at), v) for t in tensors for *at, v in zip(*t.coords, t.values)]
        assert len(set(rows)) == len(rows)
        return set(rows)

    left, aside = rest.relations["rated"].tensor, rest.relations["rated"].test
    assert aside.nnz == int(0.2 * relation.nnz)
    assert cells(left, aside) == cells(relation.tensor)
    assert not cells(aside) & cells(relation.test)
    assert rest.relations["tagged"].test is None, "test tuples of other relations have no place there"
    assert cells(hold_out(hypergraph, HoldOut("rated", 0.2, 4)).relations["rated"].test) != cells(aside)
    # The same from store to store, where a second call finds it done.
    save_hypergraph(hypergraph, tmp_path / "a.zarr")
    write_held_out(tmp_path / "a.zarr", tmp_path / "b.zarr", what)
    made = (tmp_path / "b.zarr").stat().st_mtime_ns
    write_held_out(tmp_path / "a.zarr", tmp_path / "b.zarr", what)
    assert (tmp_path / "b.zarr").stat().st_mtime_ns == made
    stored = open_hypergraph(tmp_path / "b.zarr").relations
    assert cells(stored["rated"].tensor) == cells(left)
    assert cells(stored["rated"].test) == cells(aside)
    assert stored["tagged"].test is None


def test_relations_of_which_nothing_is_put_aside_are_read_as_they_are_stored(tmp_path):
    save_hypergraph(noisy(), tmp_path / "a.zarr")
    rest = hold_out(open_hypergraph(tmp_path / "a.zarr"), HoldOut("rated", 0.2, 3)).relations["tagged"]
    entries = next(iter(rest.runs([0, rest.nnz])))
    assert isinstance(entries.coords[entries.sort_mode], RowIndex), "it was read whole and is kept"
    assert rest.test is None


@pytest.mark.parametrize("name", TASKS)
def test_neither_test_tuples_nor_held_out_values_are_learned_from(name):
    hypergraph = noisy()
    relations = dict(hypergraph.relations)
    relation = relations[name]
    values = relation.tensor.values.copy()
    values[HoldOut(name, 0.2, 0).of(relation.nnz)[:5]] *= -1
    other = SparseTensor(relation.tensor.coords, values, relation.shape)
    relations[name] = Relation(name, relation.modalities, relation.shape, other.nnz, lambda: other)
    changed = dataclasses.replace(hypergraph, relations=relations)
    problem, training = settings(hypergraph, validation=name, sweeps=5)
    models = [fit(h, problem, training, targets={"tagged": "tag"}) for h in (hypergraph, changed)]
    assert [row["objective"] for row in models[0].history] == [row["objective"] for row in models[1].history]
    if name == "rated":
        assert models[0].kept["validation"] != models[1].kept["validation"]


class Stopped(Exception):
    pass


def interrupted(hypergraph, checkpoints, call, client=None, **changes):
    calls = iter(range(1, call + 1))

    def on_sweep(report):
        if next(calls) == call:
            raise Stopped

    with pytest.raises(Stopped):
        train(hypergraph, checkpoints=checkpoints, on_sweep=on_sweep, client=client, **changes)


def test_an_interrupted_one_returns_the_same_best_state(tmp_path):
    def often():
        return Checkpoints(tmp_path / "checkpoints", "this", every=0.0, share=1.0)

    expected = train(noisy(), validation="rated", draws=3, burn_in=1)
    best, last = expected.kept["sweep"], len(expected.history)
    assert best < last - 2
    for call in (best, 3, last - best - 1, 3):  # before the best sweep, after it, while it waits, in draws
        interrupted(noisy(), often(), call, validation="rated", draws=3, burn_in=1)
    got = train(noisy(), checkpoints=often(), validation="rated", draws=3, burn_in=1)
    assert_same(got, expected)
    np.testing.assert_allclose(got.draws["user"], expected.draws["user"], atol=1e-5)


def test_workers_stop_where_one_process_does(tmp_path):
    path = tmp_path / "hypergraph.zarr"
    save_hypergraph(noisy(), path)
    stored = open_hypergraph(path)
    with open_scheduler("local", list(SIZES), workers=2) as client:
        changes = {"validation": "tagged", "sweeps": 6}
        assert_same(train(stored, client=client, **changes), train(stored, **changes), 1e-6)
        # Interrupted after the best sweep there, gone on with here.
        changes = {"validation": "rated", "patience": 4}
        checkpoints = [Checkpoints(tmp_path / "c", "this", every=0.0, share=1.0) for _ in range(2)]
        expected = train(stored, **changes)
        interrupted(stored, checkpoints[0], expected.kept["sweep"] + 3, client, **changes)
        assert_same(train(stored, checkpoints=checkpoints[1], **changes), expected, 1e-6)
    assert not list(tmp_path.glob("*rest*")), "what was put aside for the workers is gone"


def test_what_cannot_be_held_out_is_refused():
    for settings, says in [
        ({"validation": "bought"}, "no relation 'bought'"),
        ({"validation": "tagged", "held_out": 0.001}, "nothing to judge"),
    ]:
        with pytest.raises(InputError, match=says):
            HyperLearn(rank=2, sweeps=2, **settings).fit(noisy())
    with pytest.raises(InputError, match="below 1"):
        HyperLearn(rank=2, validation="rated", held_out=1.5).fit(noisy())
