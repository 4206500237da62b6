"""How training scales with modalities, workers and shards, and what ``hyperlearn plan`` says of it.

``python -m benchmarks.scaling --json FILE [--quick] [--modalities N] [--workers N]``. Workers are processes
of this machine with a thread each, and more of them than there are cores, so every case is trained all at
once, for the time of a sweep,

    seconds_per_sweep = critical_path + waiting + rest,

and with a step at a time, so that none takes another's cache, for what steps compute. As machines are faster
and slower from minute to minute, that is the least of several trainings, and the rates of the plan are the
best of those measured between them.

*critical_path*: in each stage of a sweep (see :mod:`hyperlearn_dask.training.placing.plan`) the processor
seconds of the worker with most of them, added up: what a sweep would take at least if every worker had a
machine. *waiting*: how much longer the slowest workers of the stages took by the clock when all were at
work, and machines no faster than usual. *rest*: the driver, the scheduler, and what travels. Beside each
stands the plan, by the rates that a thread has here.

Two experiments, and the plan for clusters we do not have:

``modalities``: a chain of equal modalities in which relation k joins m_k and m_(k-1); a worker owns m_k
and holds relation k. ``others_change`` is the largest change of the processor seconds of a worker that
was there before m_k came (``of_each``: m_0's first, which holds no relation and has a tenth of the work of
others), ``others_together_change`` that of their sum, ``critical_path_change`` that of the critical path, as
shares: the chains with and without it are trained side by side for that, sweep by sweep. Beside them stand
the changes of the plan, which counts what there is to do.

``workers``: one relation of three modalities on 1 to 4 workers, in 1 to 8 stretches, placed by
``shards`` or, as published, by ``owner``.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks.output import Detail, Row, table, write_rows
from hyperlearn_dask.cluster import local_cluster
from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.factorization.problem import Problem, build_problem
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph, read_indptr, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.executor import Executor, LocalExecutor, Setting, held
from hyperlearn_dask.training.memory import memory_of_machine
from hyperlearn_dask.training.placing.arrange import counts_of
from hyperlearn_dask.training.placing.cost import Counts, Machine
from hyperlearn_dask.training.placing.machine import PRESETS, measure
from hyperlearn_dask.training.placing.plan import HOPS, STAGES, Plan, plan
from hyperlearn_dask.training.schedule import sweeps
from hyperlearn_dask.training.workers.distributed import DaskExecutor
from hyperlearn_dask.training.workers.on_worker import desk_of, tell_at_once

if TYPE_CHECKING:
    from distributed import Client, Worker

RANK = 32
DTYPE = "float32"
WARM = 3  # sweeps in which workers load their shards and kernels are compiled
SWEEPS = 23
TURNS = 9  # sweeps with a step at a time
# How often they are trained: one case by itself, and chains, that are compared.
ROUNDS, ROUNDS_OF_CHAINS = 3, 8
STAGE_OF = {
    "mttkrp": "products",
    "normal": "products",
    "turn": "direction",
    **{stage: stage for stage in STAGES},
}


@dataclass(frozen=True)
class Case:
    """One training: ``entries`` of each relation; ``one_each``: the owner of m_k shall hold relation k."""

    task: str
    sizes: Mapping[str, int]
    relations: Mapping[str, tuple[str, ...]]
    entries: int
    workers: int
    spec: PlacementSpec
    one_each: bool = False

    def placed(self, addresses: Sequence[str]) -> PlacementSpec:
        """The placement wanted on workers of these addresses.

        Of the owners of its modalities, which are as good, a relation goes to the first by address.
        """
        owners = dict(zip(self.sizes, sorted(addresses, reverse=True))) if self.one_each else {}
        return replace(self.spec, owners=owners)

    @property
    def problem(self) -> Problem:
        return build_problem(self.sizes, dict(self.relations), {}, {"all": RANK}, {}, 1e-2)


@dataclass(frozen=True)
class Measured:
    """A sweep of a training, in seconds and bytes: the mean of sweeps.

    ``cpu``, the least of each step, and ``clock``, medians: by stage and worker; ``memory``: peaks of
    workers; ``workers``: their addresses, in order.
    """

    workers: tuple[str, ...]
    seconds: float
    cpu: Mapping[tuple[str, str], float]
    clock: Mapping[tuple[str, str], float]
    exchanged: float
    memory: Mapping[str, float]

    def on(self, workers: tuple[str, ...]) -> Measured:
        """The same by the addresses of other workers, in their order."""
        there = dict(zip(self.workers, workers))
        cpu, clock = (
            {(stage, there[w]): s for (stage, w), s in one.items()} for one in (self.cpu, self.clock)
        )
        return replace(
            self, workers=workers, cpu=cpu, clock=clock, memory={there[w]: m for w, m in self.memory.items()}
        )

    @property
    def critical_path(self) -> float:
        return self._path(self.cpu)

    @property
    def waiting(self) -> float:
        return self._path(self.clock) - self.critical_path

    @property
    def rest(self) -> float:
        return self.seconds - self._path(self.clock)

    def computed(self, worker: str) -> float:
        """Processor seconds of a worker."""
        return sum(self.cpu.get((stage, worker), 0.0) for stage in STAGES)

    def _path(self, spent: Mapping[tuple[str, str], float]) -> float:
        return sum(max(spent.get((stage, w), 0.0) for w in self.workers) for stage in STAGES)


@dataclass(frozen=True)
class Sizes:
    """How large the experiments are."""

    chain: int
    chain_entries: int
    shape: tuple[int, int, int]
    entries: int
    modalities: tuple[int, ...]
    workers: tuple[int, ...]
    shards: tuple[int, ...]


FULL = Sizes(
    50_000, 3_000_000, (200_000, 20_000, 2_000), 4_000_000, (2, 3, 4, 5, 6), (1, 2, 3, 4), (1, 2, 4, 8)
)
QUICK = Sizes(10_000, 300_000, (40_000, 5_000, 500), 500_000, (2, 3), (2,), (2,))

# Clusters of GPUs: shape, hyperedges, workers. Every modality must fit its owner, with a product of it
# from each shard where it is not the longest.
CLUSTERS = {
    "1 billion hyperedges on 8 h100": ((20_000_000, 5_000_000, 1_000_000), 10**9, 8),
    "100 billion hyperedges on 256 h100": ((50_000_000, 1_000_000, 200_000), 10**11, 256),
}


@click.command()
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--quick", is_flag=True, help="Small, and few of each.")
@click.option("--modalities", type=int, multiple=True, help="Only chains of so many, and no others' parts.")
@click.option("--workers", type=int, multiple=True, help="Only so many workers, and no others' parts.")
def main(output: Path | None, quick: bool, modalities: tuple[int, ...], workers: tuple[int, ...]) -> None:
    """Measure and plan."""
    sizes = QUICK if quick else FULL
    if modalities or workers:
        sizes = replace(sizes, modalities=modalities, workers=workers)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="hyperlearn-scaling-") as folder:
        for part in (chain_rows(sizes, Path(folder)), worker_rows(sizes, Path(folder))):
            for row in part:
                rows.append(row)
                if output is not None:
                    write_rows(rows, output)
    rows += cluster_rows()
    if output is not None:
        write_rows(rows, output)
    click.echo(table(rows))
    for row in rows:
        if "assumptions" in row.details and row.metric == "seconds_per_sweep":
            click.echo(f"{row.task}: {row.details['assumptions']}")


def chain_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """What one more modality, with a relation and a worker of its own, changes."""
    chains = [chain(count, sizes.chain, sizes.chain_entries) for count in sizes.modalities]
    for before, case in zip([[], *([each] for each in chains)], chains):
        (found, *without), planned = yield from _compared(case, folder, *before)
        for old, old_plan in zip(without, planned[1:]):
            for metric, value, more in changes(old, found):
                yield _row(case, "hyperlearn", metric, value, **more)
            for metric, value, more in changes(old_plan, planned[0]):
                yield _row(case, "hyperlearn plan", metric, value, **more)


def worker_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Workers, shards and placements."""
    for workers, shards, scheme in itertools.product(sizes.workers, sizes.shards, ("shards", "owner")):
        case = Case(
            f"{workers} workers, {shards} shards, by {scheme}",
            dict(zip(("long", "middle", "short"), sizes.shape)),
            {"joined": ("long", "middle", "short")},
            sizes.entries,
            workers,
            PlacementSpec(scheme, shards),  # type: ignore[arg-type]
        )
        yield from _compared(case, folder)


def chain(count: int, entities: int, entries: int) -> Case:
    """Relation k joins m_k and m_(k-1), one shard and one worker each."""
    sizes = {f"m{k}": entities for k in range(count)}
    relations = {f"r{k}": (f"m{k}", f"m{k - 1}") for k in range(1, count)}
    spec = PlacementSpec(shards=count - 1)
    return Case(f"{count} modalities", sizes, relations, entries, count, spec, one_each=True)


def changes(
    before: Measured | Plan, after: Measured | Plan
) -> Iterator[tuple[str, float, dict[str, Detail]]]:
    """What one more modality changes, as shares: of workers that were there before, and the critical path."""
    pairs = list(zip(seconds_by_owner(before), seconds_by_owner(after)))
    shares = [new / old - 1 for old, new in pairs]
    each = " ".join(f"{share:+.1%}" for share in shares)
    yield "others_change", max(shares, key=abs), {"of_each": each}
    old, new = map(sum, zip(*pairs))
    yield "others_together_change", new / old - 1, {}
    yield "critical_path_change", after.critical_path / before.critical_path - 1, {}


def seconds_by_owner(found: Measured | Plan) -> list[float]:
    """What workers of a chain compute, the owner of m_0 first."""
    if isinstance(found, Measured):  # see Case.placed
        return [found.computed(worker) for worker in reversed(found.workers)]
    return [w.seconds for w in sorted(found.workers, key=lambda worker: int(worker.modalities[0][1:]))]


def _compared(
    case: Case, folder: Path, *beside: Case
) -> Generator[Row, None, tuple[list[Measured], list[Plan]]]:
    """The rows of a case: measured, planned, and one over the other.

    Returns what was measured, and planned, of it and of others that were trained in turn with it.
    """
    click.echo(case.task, err=True)
    cases = [(each, stored(each, folder)) for each in (case, *beside)]
    for each, _ in cases:
        compile_kernels(each, folder)
    with workers_of(case) as client:
        [together] = measured([(*cases[0], client)], SWEEPS)
    (alone, *others), machine = in_turns(
        cases, folder / "turn", ROUNDS_OF_CHAINS if case.one_each else ROUNDS
    )
    found = replace(together.on(alone.workers), cpu=alone.cpu)
    planned = [planned_for(each, path, machine) for each, path in cases]
    yield from rows_of(case, found, planned[0])
    return [found, *others], planned


@contextmanager
def workers_of(case: Case) -> Iterator[Client]:
    """A client of workers for a case, with a thread each."""
    from distributed import Client

    cluster = local_cluster("local", (), workers=case.workers, threads=1)
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


def in_turns(cases: Sequence[tuple[Case, Path]], lock: Path, count: int) -> tuple[list[Measured], Machine]:
    """Trainings side by side, a step of any at a time: of each step the least seconds of so many rounds.

    Each round has workers of its own, as the places of memory that a process happens to have make it faster
    or slower for good. And what a thread of this machine can do at its best.
    """
    rounds, rates = [], []
    for _ in range(count):
        with ExitStack() as stack:
            trainings = [(case, path, stack.enter_context(workers_of(case))) for case, path in cases]
            for _, _, client in trainings:
                client.run(take_turns, str(lock))
            rounds.append(measured(trainings, TURNS))
        rates.append(measure(1, memory_of_machine()))
    found = []
    for first, *others in zip(*rounds):
        again = [first, *(one.on(first.workers) for one in others)]
        cpu = {step: min(one.cpu[step] for one in again) for step in first.cpu}
        found.append(replace(first, cpu=cpu))
    return found, at_best(rates)


def at_best(rates: Sequence[Machine]) -> Machine:
    """The best of each rate that was measured."""
    return replace(
        rates[0],
        stream=max(rate.stream for rate in rates),
        gather=tuple((same[0][0], max(rate for _, rate in same)) for same in zip(*(r.gather for r in rates))),
        arithmetic=max(rate.arithmetic for rate in rates),
    )


def rows_of(case: Case, found: Measured, planned: Plan) -> Iterator[Row]:
    """The figures of a case, and those of its plan."""
    figures = {
        "critical_path": (found.critical_path, planned.critical_path),
        "waiting": (found.waiting, None),
        "rest": (found.rest, planned.stages["exchange"] + planned.stages["dask"]),
        "seconds_per_sweep": (found.seconds, planned.seconds),
        "busiest_worker": (
            max(found.computed(w) for w in found.workers),
            max(w.seconds for w in planned.workers),
        ),
        "exchanged_MB": (found.exchanged / 1e6, planned.exchanged / 1e6),
        "memory_MB": (max(found.memory.values()) / 1e6, max(w.memory for w in planned.workers) / 1e6),
    }
    for metric, (value, said) in figures.items():
        yield _row(case, "hyperlearn", metric, value)
        if said is not None:
            yield _row(case, "hyperlearn plan", metric, said)
            if said and metric not in ("rest", "busiest_worker"):
                yield _row(case, "hyperlearn over its plan", metric, value / said)


def cluster_rows() -> Iterator[Row]:
    """The plan for clusters of GPUs, with what it assumes."""
    for task, (shape, entries, workers) in CLUSTERS.items():
        sizes = {f"m{k}": n for k, n in enumerate(shape)}
        problem = build_problem(sizes, {"joined": tuple(sizes)}, {}, {"all": RANK}, {}, 1e-2)
        machine = PRESETS["h100"]
        found = plan(problem, Counts({"joined": entries}, itemsize=4), machine, workers)
        details: dict[str, Detail] = {
            "shape": " x ".join(f"{n:,}" for n in shape),
            "bottleneck": found.bottleneck,
            "does_not_fit": found.does_not_fit or None,
            "assumptions": _assumptions(machine, shape, found),
        }
        figures = {
            "critical_path": found.critical_path,
            "rest": found.stages["exchange"] + found.stages["dask"],
            "seconds_per_sweep": found.seconds,
            "busiest_worker": max(w.seconds for w in found.workers),
            "exchanged_MB": found.exchanged / 1e6,
            "memory_MB": max(w.memory for w in found.workers) / 1e6,
        }
        for metric, value in figures.items():
            described = details | {"rank": RANK, "dtype": DTYPE, "workers": workers}
            yield Row("scaling", "planned", task, "hyperlearn plan", metric, value, details=described)


def _assumptions(machine: Machine, shape: Sequence[int], found: Plan) -> str:
    said = (
        f"{' x '.join(f'{n:,}' for n in shape)}, rank {RANK}, {DTYPE}, no graphs",
        "every worker one h100 at half the rates of its data sheet, nothing was measured on one",
        f"{machine.stream / 1e12:.3g} TB/s in order, {machine.gather[-1][1] / 1e12:.3g} for rows anywhere",
        f"{machine.memory / 1e9:.3g} GB of memory",
        f"{machine.link / 1e9:.3g} GB/s each way between any two, and nothing travels while others compute",
        f"Dask takes {machine.task * 1e3:.2g} ms a task, and {HOPS} times a sweep {machine.hop * 1e3:.2g} ms",
        "entries go anywhere in each modality",
        f"bottleneck: {found.bottleneck}",
    )
    return "; ".join(said)


def planned_for(case: Case, path: Path, machine: Machine) -> Plan:
    """What the plan says of a case."""
    counts = counts_of(open_hypergraph(path), DTYPE)
    indptrs = {name: read_indptr(path, name) for name in case.relations}
    addresses = [str(number) for number in range(case.workers)]
    return plan(case.problem, counts, machine, case.workers, case.placed(addresses), indptrs)


def measured(trainings: Sequence[tuple[Case, Path, Client]], count: int) -> list[Measured]:
    """Train for a few sweeps on the workers of clients: a sweep of each, then the next."""
    found = []
    with ExitStack() as stack:
        executors, runs = [], []
        for case, path, client in trainings:
            addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
            setting = Setting(DTYPE, dict.fromkeys(case.relations, 0.0), {})
            client.run(tell_at_once)
            executor = Recorder(client, open_hypergraph(path), setting, case.problem, case.placed(addresses))
            stack.callback(executor.close)
            executors.append(executor)
            runs.append(trained(case, executor))
        seconds = list(itertools.islice(zip(*runs), count))
        for (_, _, client), executor, own in zip(trainings, executors, zip(*seconds)):
            found.append(summed(executor.steps, own, client.run(peak_memory)))
    return found


def trained(case: Case, executor: Executor) -> Iterator[float]:
    """The seconds of every sweep from a random start."""
    rng = np.random.default_rng(0)
    factors = {m: rng.random((n, RANK)).astype(DTYPE) for m, n in case.sizes.items()}
    run = sweeps(case.problem, executor, held(executor, factors), "parallel")
    return (report.seconds for report, _, _ in run)


def compile_kernels(case: Case, folder: Path) -> None:
    """Train a little here: what is compiled is kept on disk, so no worker takes memory for compiling."""
    small = replace(case, sizes=dict.fromkeys(case.sizes, 50), entries=500)
    hypergraph = open_hypergraph(stored(small, folder))
    setting = Setting(DTYPE, dict.fromkeys(case.relations, 0.0), {})
    list(itertools.islice(trained(small, LocalExecutor(hypergraph, setting)), 2))


class Recorder(DaskExecutor):
    """Keeps what workers tell of every step."""

    def __init__(self, *args: Any) -> None:
        self.steps: list[dict[str, Any]] = []
        super().__init__(*args)

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        super()._on_event(event)
        self.steps += [{**step, "worker": event[1]["worker"]} for step in event[1]["steps"]]


def summed(
    steps: Sequence[Mapping[str, Any]], seconds: Sequence[float], memory: Mapping[str, float]
) -> Measured:
    """A typical sweep out of the steps of many: each is there once a sweep, but for some of the first."""
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for step in steps:
        kind, _, what = step["name"].partition("-")
        if kind in STAGE_OF:
            # The step along all directions is named after its sweep.
            runs[kind if what.isdecimal() else step["name"], step["worker"]].append(step)
    cpu: dict[tuple[str, str], float] = defaultdict(float)
    clock: dict[tuple[str, str], float] = defaultdict(float)
    exchanged = 0.0
    for (name, worker), times in runs.items():
        if len(times) <= WARM:
            continue
        stage = STAGE_OF[name.partition("-")[0]]
        cpu[stage, worker] += min(float(t["cpu"]) for t in times[WARM:])
        clock[stage, worker] += float(np.median([t["seconds"] for t in times[WARM:]]))
        exchanged += float(np.median([t["bytes"] for t in times[WARM:]]))
    sweep = float(np.mean(seconds[WARM:]))  # those that are given ahead may end together
    return Measured(tuple(sorted(memory)), sweep, cpu, clock, exchanged, memory)


class Turn:
    """A lock that processes share, as a context: a step of any worker at a time."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)  # as long as the worker lives

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)


def take_turns(path: str, dask_worker: Worker) -> None:
    """Let this worker and all others with the same path compute one after the other."""
    desk_of(dask_worker).busy = Turn(path)


def peak_memory() -> float:
    """The most bytes of memory that this process ever had; runs on workers."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024.0 * int(peak)


def stored(case: Case, folder: Path) -> Path:
    """A hypergraph with entries anywhere."""
    path = folder / f"{len(case.relations)} of {'-'.join(case.sizes)}, {case.entries}.zarr"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    relations = {}
    for name, members in case.relations.items():
        shape = tuple(case.sizes[m] for m in members)
        coords = tuple(rng.integers(0, n, case.entries).astype(np.int32) for n in shape)
        tensor = SparseTensor(coords, rng.random(case.entries), shape)
        relations[name] = Relation(name, members, shape, case.entries, lambda tensor=tensor: tensor)
    entities = {m: Modality(m, np.arange(n).astype(str)) for m, n in case.sizes.items()}
    save_hypergraph(Hypergraph(entities, relations, {}), path)
    return path


def _row(case: Case, method: str, metric: str, value: float, **more: Detail) -> Row:
    entities = " x ".join(f"{n:,}" for n in case.sizes.values())
    details: dict[str, Detail] = {"rank": RANK, "dtype": DTYPE, "workers": case.workers, "threads": 1}
    details |= {"shards": case.spec.shards, "scheme": case.spec.scheme, "entries": case.entries, **more}
    return Row("scaling", entities, case.task, method, metric, value, details=details)


if __name__ == "__main__":
    main()
