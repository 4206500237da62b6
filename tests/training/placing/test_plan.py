"""What a plan must say, whatever the machine."""

import json
from dataclasses import replace

import pytest

from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.factorization.problem import build_problem
from hyperlearn_dask.training.placing.cost import NOMINAL, Counts
from hyperlearn_dask.training.placing.plan import plan

SIZES = {"a": 1000, "b": 400, "c": 50}
PROBLEM = build_problem(SIZES, {"r": ("a", "b", "c")}, {}, {"all": 8}, {}, 1e-2)
COUNTS = Counts({"r": 20_000}, itemsize=4)


def test_alone_nothing_travels_and_each_shard_is_walked_once():
    alone = plan(PROBLEM, COUNTS, NOMINAL, 1)
    assert alone.exchanged == 0
    assert [w.entries for w in alone.workers] == [20_000]
    assert alone.critical_path == pytest.approx(alone.workers[0].seconds)
    assert sum(w.entries for w in plan(PROBLEM, COUNTS, NOMINAL, 3).workers) == 20_000
    assert sum(w.entries for w in plan(PROBLEM, COUNTS, NOMINAL, 3, PlacementSpec("owner")).workers) == 60_000


def test_bytes_between_two_workers_are_those_of_products_and_directions():
    found = plan(PROBLEM, COUNTS, NOMINAL, 2, PlacementSpec(owners={"a": "0", "b": "1", "c": "1"}))
    row = 8 * 4
    # Worker 0 reads and gives b and c whole; worker 1 its rows of a.
    rows = SIZES["b"] + SIZES["c"] + SIZES["a"] / 2
    assert found.exchanged == pytest.approx(2 * rows * row, rel=0.02)
    assert sum(w.received for w in found.workers) == found.exchanged


def test_what_does_not_fit_is_said_and_a_slow_link_is_the_bottleneck():
    assert "worker" in plan(PROBLEM, COUNTS, replace(NOMINAL, memory=1e6), 2).does_not_fit
    found = plan(PROBLEM, COUNTS, replace(NOMINAL, link=1e4), 2)
    assert (found.bottleneck, found.does_not_fit) == ("exchange", "")


def test_messages_hold_up_a_sweep_three_times():
    slow, fast = (plan(PROBLEM, COUNTS, replace(NOMINAL, hop=seconds), 2) for seconds in (1.0, 0.0))
    assert slow.seconds - fast.seconds == pytest.approx(3.0)
    assert (slow.bottleneck, slow.critical_path) == ("dask", fast.critical_path)


def test_the_command_by_sizes(hyperlearn):
    sizes = ["plan", "--sizes", "a=2k,b=1k", "--preset", "h100", "--json"]
    ended = hyperlearn(*sizes, "--nnz", "1M", "--memory", "0.5GB", "--workers", "3")
    found = json.loads(ended.out)
    assert not found["fits"] and "would need" in found["does_not_fit"]
    assert sum(w["entries"] for w in found["workers"]) == 1_000_000
    ended = hyperlearn(*sizes, "--nnz", "many")
    assert ended.code == 2 and "'many' is no amount" in ended.err
    assert "goes with --nnz" in hyperlearn(*sizes).err


def test_the_rows_of_a_long_modality_stay_where_their_shards_are_unless_its_owner_is_chosen():
    sizes, row = SIZES | {"a": 500_000}, 8 * 4
    problem = build_problem(sizes, {"r": ("a", "b", "c")}, {}, {"all": 8}, {}, 1e-2)
    counts = Counts({"r": 5_000_000}, itemsize=4)
    in_parts = plan(problem, counts, NOMINAL, 2)
    assert [w.modalities[0] for w in in_parts.workers] == ["a-0", "a-1"]
    # A product each way, and the rows of a direction.
    assert in_parts.exchanged == pytest.approx(2 * (sizes["b"] + sizes["c"]) * row)
    chosen = plan(problem, counts, NOMINAL, 2, PlacementSpec(owners={"a": "0", "b": "1", "c": "1"}))
    assert chosen.exchanged > sizes["a"] * row
    assert chosen.stages["solve"] > 1.9 * in_parts.stages["solve"]
    assert max(w.memory for w in chosen.workers) > max(w.memory for w in in_parts.workers)
