"""Workers die, hang, come and go; the scheduler dies: what becomes of training then."""

import contextlib
import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest

from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.training.checkpoint import Checkpoints
from hyperlearn_dask.training.executor import Lost, SchedulerLost
from hyperlearn_dask.training.fit import fit
from hyperlearn_dask.training.workers import watch
from hyperlearn_dask.training.workers.distributed import LINEAGE
from hyperlearn_dask.training.workers.recovery import IN_VAIN, SafePoints, over_losses
from tests.training.made_up import SIZES, two_relations, two_relations_problem

SWEEPS = 10


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "hypergraph.zarr"
    save_hypergraph(two_relations(), path)
    return open_hypergraph(path)


@pytest.fixture
def cluster():
    with open_scheduler("local", list(SIZES), workers=2) as client:
        yield client


def pids(client):
    return sorted(client.run(os.getpid).values())


def at_sweep(actions):
    """An ``on_sweep`` that does something at some sweeps, the first time they are done; what it saw."""
    seen = []

    def on_sweep(report):
        seen.append(report.sweep)
        if report.sweep in actions:
            actions.pop(report.sweep)()

    return on_sweep, seen


def assert_same_factors(got, expected):
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(got.factors[m], factor, rtol=0, atol=1e-6 * np.abs(factor).max())
    if expected.draws is not None:
        for m, draws in expected.draws.items():
            np.testing.assert_allclose(got.draws[m], draws, rtol=0, atol=1e-5)


def kill(client, which, sig=signal.SIGKILL, after=0.0):
    """Kill workers: between sweeps, or somewhere in the next one."""

    def act():
        victims = [pids(client)[i] for i in which]
        timer = threading.Timer(after, lambda: [os.kill(pid, sig) for pid in victims])
        timer.start()
        if not after:
            timer.join()

    return act


@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": "sequential"}, {"sweeps": 3, "draws": 7, "burn_in": 1}],
    ids=["parallel", "sequential", "posterior"],
)
def test_killed_workers_change_nothing_and_cost_a_sweep(stored, cluster, changes, monkeypatch):
    monkeypatch.setattr("hyperlearn_dask.training.workers.recovery.CHEAP_SECONDS", 60.0)
    problem, training = two_relations_problem(stored, **{"sweeps": SWEEPS, **changes})
    expected = fit(two_relations(), problem, training)
    told = []
    kills = {2: kill(cluster, [0]), 4: kill(cluster, [1], after=0.03), 7: kill(cluster, [0, 1])}
    on_sweep, seen = at_sweep(kills)
    got = fit(stored, problem, training, client=cluster, on_sweep=on_sweep, tell=told.append)
    assert_same_factors(got, expected)
    assert not kills  # all have been done
    assert told and all("worker" in line.partition(";")[0] for line in told)
    # At most the sweep that was being done is done again, and its report may have been out.
    repeated = sum(later <= earlier for earlier, later in itertools.pairwise(seen))
    assert repeated <= len(told) + 1
    assert all(later >= earlier for earlier, later in itertools.pairwise(seen) if later > 1)


def test_a_hanging_worker_is_noticed_and_replaced(stored, cluster, monkeypatch):
    monkeypatch.setattr(watch, "HANGING_SECONDS", 3.0)
    problem, training = two_relations_problem(stored, sweeps=SWEEPS)
    expected = fit(two_relations(), problem, training)
    hung = pids(cluster)[0]
    told, at = [], []

    def hang():
        os.kill(hung, signal.SIGSTOP)
        at.append(time.monotonic())

    def tell(line):
        told.append(line)
        at.append(time.monotonic())

    on_sweep, _ = at_sweep({5: hang})
    try:
        got = fit(stored, problem, training, client=cluster, on_sweep=on_sweep, tell=tell)
    finally:
        with contextlib.suppress(ProcessLookupError):  # its nanny was quicker
            os.kill(hung, signal.SIGKILL)
    assert "lost the worker" in told[0]
    assert at[1] - at[0] < 20
    assert_same_factors(got, expected)


def test_workers_that_join_are_used(stored, processes, monkeypatch):
    monkeypatch.setattr("hyperlearn_dask.training.workers.distributed.CHECK_SECONDS", 0.0)
    # Safe points are rare; that workers come costs none of the sweeps since the last.
    monkeypatch.setattr("hyperlearn_dask.training.workers.recovery.CHEAP_SECONDS", 0.0)
    monkeypatch.setattr("hyperlearn_dask.training.workers.recovery.SHARE", 1e-6)
    problem, training = two_relations_problem(stored, sweeps=SWEEPS)
    told, address = [], processes.scheduler()
    processes.worker(address)
    data = {}
    with open_scheduler(address, list(SIZES)) as client:
        looks = {sweep: lambda sweep=sweep: data.update({sweep: client.run(_data)}) for sweep in (4, 9)}
        on_sweep, seen = at_sweep({5: lambda: processes.worker(address), **looks})
        spec = PlacementSpec("shards", 2)
        got = fit(
            stored, problem, training, client=client, on_sweep=on_sweep, tell=told.append, placement=spec
        )
    # Whoever was there has fewer shards now, and keeps no others.
    assert sum(map(sum, data[9].values())) == sum(map(sum, data[4].values()))
    assert [shards for shards in data[9].values() if not shards] == []
    assert told == ["1 worker has joined; going on from sweep 5"]
    assert seen == list(range(1, SWEEPS + 1))
    assert_same_factors(got, fit(two_relations(), problem, training))


def test_nothing_stays_on_the_workers(stored, cluster):
    problem, training = two_relations_problem(stored, sweeps=5)
    left = []
    for at in (None, 3):

        def on_sweep(report, at=at):
            if report.sweep == at:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            fit(stored, problem, training, client=cluster, on_sweep=on_sweep)
        left += cluster.run(_memories).values()
    assert left == [0] * 4


@pytest.mark.parametrize("safe_points", ["every sweep", "rare"])
def test_what_is_kept_does_not_grow_with_the_sweeps(stored, cluster, safe_points, monkeypatch):
    if safe_points == "rare":
        monkeypatch.setattr("hyperlearn_dask.training.workers.recovery.CHEAP_SECONDS", 0.0)
        monkeypatch.setattr("hyperlearn_dask.training.workers.recovery.SHARE", 1e-6)
    # Of so many sweeps each, as what is kept goes up and down.
    early, late = range(LINEAGE, 2 * LINEAGE), range(4 * LINEAGE, 5 * LINEAGE)
    problem, training = two_relations_problem(stored, sweeps=late.stop)
    sizes = {early: [], late: []}

    def on_sweep(report):
        for phase, seen in sizes.items():
            if report.sweep in phase:
                tasks = cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
                seen.append((sum(cluster.run(_results).values()), tasks))

    fit(stored, problem, training, client=cluster, on_sweep=on_sweep)
    for before, after in zip(np.max(sizes[early], axis=0), np.max(sizes[late], axis=0)):
        assert after <= before * 1.2 + 5


def _memories(dask_worker):
    from hyperlearn_dask.training.workers.on_worker import _desks

    return len(_desks[dask_worker].memories)


def _data(dask_worker):
    """The sizes of the shards that a worker has."""
    from hyperlearn_dask.training.workers.on_worker import _desks

    [memory] = _desks[dask_worker].memories.values()
    return [data.tensor.nnz for data in memory.data.values() if hasattr(data, "tensor")]


def _results(dask_worker):
    from hyperlearn_dask.training.workers.on_worker import _desks

    return sum(len(memory.results) for memory in _desks[dask_worker].memories.values())


def test_a_lost_scheduler_is_one_line_and_the_last_sweep_is_safe(stored, tmp_path, processes):
    address = processes.scheduler()
    processes.worker(address)
    problem, training = two_relations_problem(stored, sweeps=SWEEPS)
    checkpoints = Checkpoints(tmp_path / "checkpoints", "this one")
    with open_scheduler(address, list(SIZES)) as client:
        on_sweep, _ = at_sweep({5: processes.kill_scheduler})
        with pytest.raises(SchedulerLost, match="the scheduler is lost"):
            fit(stored, problem, training, client=client, on_sweep=on_sweep, checkpoints=checkpoints)
    told = []
    again = Checkpoints(tmp_path / "checkpoints", "this one", tell=told.append)
    got = fit(stored, problem, training, checkpoints=again)
    assert told[0].startswith("going on from sweep ") and int(told[0].split()[-1]) >= 4
    assert_same_factors(got, fit(two_relations(), problem, training))


class Mortal:
    """An executor that only counts how often it recovers."""

    recovered = 0

    def recover(self):
        self.recovered += 1


def test_training_gives_up_when_it_never_gets_on():
    executor = Mortal()

    def train(safe):
        raise Lost("killed by the system")

    with pytest.raises(Exception, match=r"without a sweep between.*killed by the system.*memory"):
        over_losses(train, executor, SafePoints(None, mortal=True, leads_on=bool), None)
    assert executor.recovered == IN_VAIN - 1
