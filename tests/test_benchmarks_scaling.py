"""The scaling benchmark's own code, on small data."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from benchmarks import scaling
from hyperlearn_dask.training.placing.cost import NOMINAL, Machine
from hyperlearn_dask.training.placing.plan import STAGES


def test_a_sweep_is_split_as_it_was_spent() -> None:
    def step(name: str, worker: str, cpu: float, seconds: float, received: int = 0) -> dict[str, object]:
        return {"name": name, "worker": worker, "cpu": cpu, "seconds": seconds, "bytes": received}

    steps = [
        step("squares", "a", 100.0, 100.0),  # no part of a sweep
        *[step("mttkrp-r-0", "a", 3.0, 4.0), step("mttkrp-r-1", "a", 2.0, 2.0)] * 5,
        *[step("mttkrp-s-0", "b", 4.0, 7.0), step("solve-m", "b", 1.0, 1.0, received=8)] * 5,
    ]
    found = scaling.summed(steps, [50.0, 9.0, 9.0, 9.0, 9.0], {"a": 1.0, "b": 2.0})
    # Products take a 5 and b 4, or 6 and 7 by the clock; then b solves.
    assert (found.critical_path, found.waiting, found.rest) == (6.0, 2.0, 1.0)
    assert (found.computed("a"), found.computed("b"), found.exchanged) == (5.0, 5.0, 8.0)


def test_a_chain_is_trained_and_planned_with_the_same_placement(tmp_path: Path) -> None:
    # Of few entities Grams and scalars, which no plan counts, would be much of what travels.
    case = scaling.chain(3, entities=60_000, entries=60_000)
    path = scaling.stored(case, tmp_path)
    cluster = LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address=None)
    with cluster, Client(cluster, set_as_default=False) as client:
        [found] = scaling.measured([(case, path, client)], count=scaling.WARM + 2)
    planned = scaling.planned_for(case, path, NOMINAL)
    assert {w.modalities[0]: w.shards for w in planned.workers} == {"m0": 0, "m1": 1, "m2": 1}
    assert [("products", w) in found.cpu for w in found.workers] == [True, True, False]
    assert all((stage, w) in found.cpu for w in found.workers for stage in ("solve", "direction", "step"))
    assert found.exchanged == pytest.approx(planned.exchanged, rel=0.02)
    rows = {(row.method, row.metric): row.value for row in scaling.rows_of(case, found, planned)}
    split = [rows["hyperlearn", part] for part in ("critical_path", "waiting", "rest")]
    assert sum(split) == pytest.approx(rows["hyperlearn", "seconds_per_sweep"])
    over = rows["hyperlearn", "critical_path"] / rows["hyperlearn plan", "critical_path"]
    assert rows["hyperlearn over its plan", "critical_path"] == pytest.approx(over)


def test_the_least_of_trainings_in_turn_beside_the_best_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each step by itself, and of each rate: a machine may be slow at any moment."""
    seconds = iter([4.0, 10.0, 3.0, 30.0, 5.0, 20.0])  # two trainings in three rounds
    rates = iter([(1.0, 8.0, 5.0), (2.0, 7.0, 9.0), (3.0, 6.0, 4.0)])

    addresses = (f"{case}{turn}" for turn in range(3) for case in "xy")

    def train(trainings: list[tuple[str, Path, Client]], count: int) -> list[scaling.Measured]:
        def one(case: str) -> scaling.Measured:
            taken, worker = next(seconds), next(addresses)
            assert worker.startswith(case)
            cpu = {("solve", worker): taken, ("line", worker): -taken}
            return scaling.Measured((worker,), 1.0, cpu, {}, 0.0, {})

        return [one(case) for case, _, _ in trainings]

    def probe(threads: int, memory: float) -> Machine:
        stream, rows, arithmetic = next(rates)
        return Machine(stream, ((1e6, rows), (1e8, -rows)), arithmetic, memory=memory)

    class Nobody:
        def run(self, *_: object) -> None: ...

    monkeypatch.setattr(scaling, "workers_of", lambda case: nullcontext(Nobody()))
    monkeypatch.setattr(scaling, "measured", train)
    monkeypatch.setattr(scaling, "measure", probe)
    found, machine = scaling.in_turns([("x", Path()), ("y", Path())], Path("turn"), 3)  # type: ignore[list-item]
    assert [dict(of.cpu) for of in found] == [
        {("solve", "x0"): 3.0, ("line", "x0"): -5.0},
        {("solve", "y0"): 10.0, ("line", "y0"): -30.0},
    ]
    assert (machine.stream, machine.gather, machine.arithmetic) == (3.0, ((1e6, 8.0), (1e8, -6.0)), 9.0)


def test_what_was_measured_on_some_workers_stands_by_the_addresses_of_others() -> None:
    cpu, clock = {("solve", "y"): 2.0, ("line", "x"): 1.0}, {("solve", "x"): 3.0}
    found = scaling.Measured(("x", "y"), 9.0, cpu, clock, 5.0, {"x": 7.0, "y": 8.0}).on(("p", "q"))
    assert found.cpu == {("solve", "q"): 2.0, ("line", "p"): 1.0}
    assert (found.clock, found.memory) == ({("solve", "p"): 3.0}, {"p": 7.0, "q": 8.0})
    assert (found.workers, found.critical_path, found.computed("q")) == (("p", "q"), 3.0, 2.0)


def test_what_one_more_modality_changes_is_by_modality(tmp_path: Path) -> None:
    before = scaling.Measured(("x", "y"), 1.0, {("solve", "x"): 2.0, ("solve", "y"): 1.0}, {}, 0.0, {})
    cpu = {("solve", "p"): 9.0, ("solve", "q"): 2.2, ("solve", "r"): 1.0}
    after = scaling.Measured(("p", "q", "r"), 1.0, cpu, {}, 0.0, {})
    found = {metric: (value, more) for metric, value, more in scaling.changes(before, after)}
    assert found["others_change"] == (pytest.approx(0.1), {"of_each": "+0.0% +10.0%"})
    assert found["others_together_change"] == (pytest.approx(0.2 / 3), {})
    assert found["critical_path_change"] == (pytest.approx(9 / 2 - 1), {})
    two, three = (scaling.chain(count, entities=60_000, entries=60_000) for count in (2, 3))
    planned = [scaling.planned_for(case, scaling.stored(case, tmp_path), NOMINAL) for case in (two, three)]
    # m_0 has as much to do as before, the owner of m_1 gets products of one relation more.
    (idle, busy), (idle_then, busier, _) = map(scaling.seconds_by_owner, planned)
    assert idle_then == idle and busy < busier < 1.2 * busy


def test_the_clusters_that_are_planned_for_fit() -> None:
    rows = list(scaling.cluster_rows())
    assert rows and all(row.details["does_not_fit"] is None for row in rows)
    assert set(scaling.STAGE_OF.values()) == set(STAGES)
