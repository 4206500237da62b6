"""Training on worker processes gives the factors of training in this process."""

import contextlib
import itertools

import numba
import numpy as np
import pytest
from distributed import SchedulerPlugin

from hyperlearn_dask import HyperLearn
from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.kernels.cpu import FORMED_AT_ONCE
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.training.executor import Setting
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.placing import arrange as arranging
from hyperlearn_dask.training.workers import distributed
from hyperlearn_dask.training.workers.distributed import DaskExecutor
from hyperlearn_dask.training.workers.on_worker import tell_at_once
from tests.factorization.made_up import random_tensor
from tests.training.made_up import SETTINGS, SIZES, hypergraph_of, two_relations, two_relations_problem


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "hypergraph.zarr"
    save_hypergraph(two_relations(), path)
    return open_hypergraph(path)


@pytest.fixture(scope="module")
def two_workers():
    with open_scheduler("local", list(SIZES), workers=2) as client:
        yield client


def assert_same_factors(got, expected):
    for m, factor in expected.factors.items():
        scale = np.abs(factor).max()
        np.testing.assert_allclose(got.factors[m], factor, rtol=0, atol=1e-6 * scale)
        np.testing.assert_array_equal(got.informed[m], expected.informed[m])


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_factors_of_one_process(stored, workers, request):
    with contextlib.ExitStack() as stack:
        if workers == 2:
            client = request.getfixturevalue("two_workers")
        else:
            client = stack.enter_context(open_scheduler("local", list(SIZES), workers=workers))
        client.run(tell_at_once)
        for schedule in ("parallel", "sequential"):
            problem, training = two_relations_problem(stored, schedule=schedule, sweeps=4)
            reports = []
            here = fit(two_relations(), problem, training)
            there = fit(stored, problem, training, client=client, on_sweep=reports.append)
            assert_same_factors(there, here)
            assert [r.objective for r in reports] == pytest.approx([h["objective"] for h in here.history])
            assert any(name.startswith("solve-a") for r in reports for name in r.seconds_by)


def test_placements_that_were_chosen_give_the_factors_of_one_process(stored, two_workers):
    wanted = PlacementSpec("owner", owners={"a": "1", "b": "1"}), PlacementSpec(shards=5)
    problem, training = two_relations_problem(stored, sweeps=4)
    here = fit(two_relations(), problem, training)
    for spec in wanted:
        told = []
        there = fit(stored, problem, training, client=two_workers, placement=spec, on_placement=told.append)
        assert_same_factors(there, here)
        shares = told[0].by_worker()
        if spec.owners:
            assert shares["1"].modalities[:2] == ("a", "b")
            assert sum(share.entries for share in shares.values()) == 3 * 300 + 2 * 120
        else:
            assert sum(len(share.shards) for share in shares.values()) >= 5


@pytest.mark.parametrize("large", [False, True])
def test_more_workers_than_tell_each_other_everything_give_the_same(large, stored, two_workers, monkeypatch):
    monkeypatch.setattr(distributed, "FEW", 1)
    if large:
        monkeypatch.setattr(distributed, "SMALL", 64)  # bytes: no result travels whole
    for schedule in ("parallel", "sequential"):
        problem, training = two_relations_problem(stored, schedule=schedule, sweeps=4)
        there = fit(stored, problem, training, client=two_workers)
        assert_same_factors(there, fit(two_relations(), problem, training))


class Ended(SchedulerPlugin):
    """The keys of the tasks that have ended."""

    name = "ended"

    def __init__(self):
        self.keys = []

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "memory":
            self.keys.append(key)


def test_workers_meet_three_times_a_sweep(stored, two_workers):
    two_workers.register_plugin(Ended())
    try:
        for sweeps in (8, 8 + 2 * distributed.LINEAGE):
            problem, training = two_relations_problem(stored, sweeps=sweeps)
            fit(stored, problem, training, client=two_workers)
        keys = two_workers.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["ended"].keys)
    finally:
        two_workers.unregister_scheduler_plugin(Ended.name)
    trainings = [key[1] for key in keys if isinstance(key, tuple)]  # those of steps are tuples
    few, many = (trainings.count(which) for which in list(dict.fromkeys(trainings))[-2:])
    # Three of each worker and one that the driver asks for; moves go by themselves when all are let end.
    assert (many - few) / (2 * distributed.LINEAGE) == 3 * 2 + 1 + 2 / distributed.LINEAGE


def test_a_step_uses_the_threads_of_its_worker(stored, two_workers):
    problem, _ = two_relations_problem(stored)
    setting = Setting("float64", {name: term.offset for name, term in problem.terms.items()}, {})
    executor = DaskExecutor(two_workers, stored, setting, problem)
    used = executor.gather(executor.at_modality("threads", "a", _threads))
    workers = two_workers.scheduler_info(n_workers=-1)["workers"].values()
    assert used == min(min(w["nthreads"] for w in workers), numba.config.NUMBA_NUM_THREADS)


def _threads(_):
    return numba.get_num_threads()


def test_a_hypergraph_in_memory_and_contexts_train_on_workers_too(two_workers):
    settings = {
        "groups": {"ac": 3, "bc": 3},
        "relations": {
            "made": {
                "absent": "context",
                "target": "c",
                "interactions": {"ac": ("a", "c"), "bc": ("b", "c")},
            },
            "rated": {"absent": "unknown", "interactions": {"bc": ("b", "c")}},
        },
        "sweeps": 4,
    }
    here = HyperLearn(**settings).fit(two_relations())
    there = HyperLearn(**settings).fit(two_relations(), client=two_workers)
    assert_same_factors(there.model_, here.model_)
    with pytest.raises(InputError, match="in memory"):
        problem, training = two_relations_problem(two_relations())
        fit(two_relations(), problem, training, client=two_workers)


@pytest.mark.parametrize(
    "made",
    [
        TermSettings("zero", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b")}),
        TermSettings("unknown", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b"), "bias": ("b",)}),
        TermSettings("context", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b")}, target="c"),
        TermSettings("context", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b")}, target="a"),
    ],
    ids=["zero", "unknown", "context", "context of the longest"],
)
def test_a_modality_in_parts_gives_the_factors_of_one_process(made, stored, two_workers, monkeypatch):
    monkeypatch.setattr(arranging, "PART_TASKS", 0)  # however short it is
    relations = {"made": made, "rated": SETTINGS["rated"]}
    for changes in ({}, {"schedule": "sequential"}, {"draws": 3, "burn_in": 1, "sweeps": 2}):
        _, training = two_relations_problem(stored, **{"sweeps": 4} | changes)
        problem = problem_of(stored, relations, training, {"b": 2.0})
        told, spec = [], PlacementSpec(shards=3)
        here = fit(two_relations(), problem, training)
        there = fit(stored, problem, training, client=two_workers, placement=spec, on_placement=told.append)
        assert_same_factors(there, here)
        if training.draws:
            np.testing.assert_allclose(there.draws["a"], here.draws["a"], atol=1e-5)
        parts = told[0].parts["a"]
        assert len(parts) > 1 and set(told[0].parts) == {"a"}
        assert (parts[0].first, parts[-1].stop) == (0, SIZES["a"])
        assert all(before.stop == after.first for before, after in itertools.pairwise(parts))
        held = {p.first_row: h for p, h in told[0].holders.items() if p.relation == "made"}
        assert made.target == "a" or all(held[part.first] == part.owner for part in parts)


def test_rows_whose_systems_are_too_large_to_be_held_train_on_workers_too(two_workers):
    """What their systems are made from goes from the shards to the owner."""
    sizes = {"a": 40, "b": 1500, "c": 30}
    tensor = random_tensor(np.random.default_rng(0), tuple(sizes.values()), 4000)
    hypergraph = hypergraph_of({"made": (("a", "b", "c"), tensor)}, sizes)
    settings = {
        "groups": {"ac": 2, "bc": 40},
        "relations": {
            "made": {
                "absent": "context",
                "target": "c",
                "absent_weight": 0.3,
                "interactions": {"ac": ("a", "c"), "bc": ("b", "c")},
            },
        },
        "sweeps": 4,
    }
    assert sizes["b"] * 40**2 * 8 > FORMED_AT_ONCE
    here = HyperLearn(**settings).fit(hypergraph)
    there = HyperLearn(**settings).fit(hypergraph, client=two_workers)
    assert_same_factors(there.model_, here.model_)
