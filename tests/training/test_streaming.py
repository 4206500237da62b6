"""Relations larger than memory: read shard by shard, and the same model comes out."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.kernels import cpu
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.executor import LocalExecutor, Setting, ShardPlace
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.memory import memory_left, memory_of_machine
from hyperlearn_dask.training.streaming import IN_FLIGHT, SHARE, bytes_of, streams

from .made_up import SETTINGS, SIZES, hypergraph_of, two_relations, two_relations_problem


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("streaming") / "hypergraph.zarr"
    save_hypergraph(two_relations(), path)
    return path


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_a_streamed_training_is_the_one_in_memory(stored, schedule):
    said: list[str] = []
    held, streamed = open_hypergraph(stored), open_hypergraph(stored)
    problem, training = two_relations_problem(held, sweeps=6, schedule=schedule)
    expected = fit(held, problem, training)
    found = fit(streamed, problem, training, memory_limit=3000, tell=said.append)
    assert len(said) == 2 and all("streaming relation '" in line for line in said)
    assert all(relation._tensor is None for relation in streamed.relations.values())
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(found.factors[m], factor, rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(found.informed[m], expected.informed[m])
    np.testing.assert_allclose(
        [row["objective"] for row in found.history], [row["objective"] for row in expected.history]
    )


def test_rows_without_entries_are_known_in_every_shard(tmp_path):
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(0, 90, 3), 10).astype(np.int32)
    coords = (rows, *(rng.integers(0, n, len(rows)).astype(np.int32) for n in (7, 9)))
    relation = (("a", "b", "c"), SparseTensor(coords, rng.random(len(rows)), (90, 7, 9)))
    save_hypergraph(hypergraph_of({"joins": relation}, {"a": 90, "b": 7, "c": 9}), tmp_path / "h.zarr")
    hypergraph = open_hypergraph(tmp_path / "h.zarr")
    said: list[str] = []
    training = TrainingSpec(groups={"all": 2}, sweeps=2)
    problem = problem_of(hypergraph, {"joins": TermSettings()}, training, {})
    model = fit(hypergraph, problem, training, memory_limit=4000, tell=said.append)
    assert any("streaming relation 'joins'" in line for line in said)
    np.testing.assert_array_equal(np.flatnonzero(model.informed["a"]), np.arange(0, 90, 3))


def test_with_validation_too(stored):
    said: list[str] = []
    held, streamed = open_hypergraph(stored), open_hypergraph(stored)
    problem, training = two_relations_problem(held, sweeps=6, validation="rated")
    expected = fit(held, problem, training)
    found = fit(streamed, problem, training, memory_limit=3000, tell=said.append)
    assert any("streaming relation 'made'" in line for line in said)
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(found.factors[m], factor, rtol=1e-7, atol=1e-9)
    assert [row["validation"] for row in found.history] == pytest.approx(
        [row["validation"] for row in expected.history]
    )
    assert not list(stored.parent.glob("*rest*"))


@pytest.mark.parametrize("target", ["a", "c"])
def test_contexts_are_streamed_too(stored, target):
    # "a" is what entries are sorted by: contexts without it run across all shards
    settings = {**SETTINGS, "made": type(SETTINGS["made"])("context", 1.0, None, 0.0, target, 0.2)}
    hypergraph = open_hypergraph(stored)
    _, training = two_relations_problem(hypergraph, sweeps=4)
    problem = problem_of(hypergraph, settings, training, {})
    expected, found = (fit(hypergraph, problem, training, memory_limit=limit) for limit in (None, 6000))
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(found.factors[m], factor, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("absent", ["zero", "unknown"])
def test_two_shards_are_in_memory_at_a_time(stored, absent, monkeypatch):
    monkeypatch.setattr(cpu, "FORMED_AT_ONCE", 0)  # products of an unknown relation refer to its entries
    hypergraph = open_hypergraph(stored)
    settings = {**SETTINGS, "made": TermSettings(absent, 1.0)}
    _, training = two_relations_problem(hypergraph)
    problem = problem_of(hypergraph, settings, training, {})
    rng = np.random.default_rng(0)
    factors = {m: rng.normal(size=(n, problem.rank)) for m, n in SIZES.items()}
    relation = hypergraph.relations["made"]
    alive, most = [], 0
    runs = relation.runs

    def watched(bounds):
        nonlocal most
        for tensor in runs(bounds):
            # Views keep a copy alive, not what it is a view of.
            own = replace(tensor, coords=(*tensor.coords[:2], tensor.coords[2].copy()))
            alive.append(weakref.ref(own.coords[2], lambda _: None))
            most = max(most, sum(ref() is not None for ref in alive))
            yield own
            del tensor, own

    monkeypatch.setattr(relation, "runs", watched)
    parts = streams(hypergraph, "float64", 6000)
    assert len(parts["made"]) > 5
    executor = LocalExecutor(hypergraph, Setting("float64", {"made": 0.0, "rated": 0.0}, {}), streams=parts)
    [place] = [p for p in executor.places if p.relation == "made"]
    nnz = executor.at_shard("count", place, lambda shard: sum(shard.each(lambda part: part.tensor.nnz)))
    assert nnz == relation.nnz and len(alive) == len(parts["made"]) and most <= 2
    executor.at_shard("products", place, lambda shard: shard.products(problem, factors, ["b", "c"], {}))
    executor.at_shard("line", place, lambda shard: shard.line(problem, factors, factors))
    assert len(alive) == 3 * len(parts["made"]) and most <= 2


def test_what_fits_is_held_the_small_ones_first(stored):
    hypergraph = open_hypergraph(stored)
    bytes_made, bytes_rated = 300 * (3 * 4 + 8), 120 * (2 * 4 + 8)
    assert streams(hypergraph, "float64", int((bytes_made + bytes_rated) / SHARE) + 1) == {}
    found = streams(hypergraph, "float64", int(bytes_made / SHARE))
    assert list(found) == ["made"]
    places = found["made"]
    assert all(isinstance(p, ShardPlace) for p in places) and len(places) == IN_FLIGHT
    assert [p.start for p in places[1:]] == [p.stop for p in places[:-1]]
    assert streams(two_relations(), "float64", 1) == {}  # in memory already


def test_sizes_are_read():
    assert [bytes_of(text) for text in ("1", "2GiB", "1.5 kb", "3M")] == [1, 2**31, 1500, 3_000_000]
    for text in ("", "GiB", "-1GB", "2 boxes", "0"):
        with pytest.raises(InputError, match="no size of memory"):
            bytes_of(text)


def test_a_container_has_the_memory_of_its_limit_and_files_that_were_read_do_not_take_it(
    tmp_path, monkeypatch
):
    figures = {
        "max": "3000\n",
        "current": "2500\n",
        "stat": "anon 900\ninactive_file 1000\nactive_file 600\n",
    }
    for figure, text in figures.items():
        (tmp_path / f"memory.{figure}").write_text(text)
    monkeypatch.setattr("hyperlearn_dask.training.memory._CGROUP", tmp_path)
    assert (memory_left(), memory_of_machine()) == (2100, 3000)
    (tmp_path / "memory.max").write_text("max\n")
    assert min(memory_left(), memory_of_machine()) > 2**20


def test_the_command_says_what_it_streams(hyperlearn, tmp_path):
    data, out = tmp_path / "planted", tmp_path / "out"
    assert hyperlearn("synth", data, "--sizes", "a=60,b=20", "--hyperedges", "900").code == 0
    command = ("run", data, "--out", out, "--sweeps", "3", "--memory-limit")
    assert hyperlearn(*command, "much").code == 2
    assert "streaming relation '" in hyperlearn(*command, "8KiB").err


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_offsets_are_taken_from_values_as_they_are_read_as_from_those_held(dtype):
    place = ShardPlace("r", 0, 0, 1, 0, 1)
    cut = [
        place.cut(SparseTensor((np.zeros(1, np.int32),), np.full(1, 0.125, stored), (1,)), 0.1, dtype)
        for stored in (np.float32, np.float64)
    ]
    assert [shard.tensor.values.tolist() for shard in cut] == [[np.dtype(dtype).type(0.125 - 0.1)]] * 2
