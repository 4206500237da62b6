"""What training would do on a cluster: who has what, memory, seconds and bytes of a sweep, the bottleneck.

A sweep of the parallel schedule has five stages; each waits for all of the one before, so it takes as
long as the worker with most to do in it:

    products (shards) -> solve (owners) -> direction (owners) -> line (shards) -> step (owners)

Between the first two products travel, before the line proposals do: as long as the link with most to
carry takes. Over all lies what Dask needs: the driver for every task, and its messages for the three times
in a sweep that steps wait for each other: solves for products, lines for directions, the step for lines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.training.executor import ShardPlace
from hyperlearn_dask.training.placing import cost
from hyperlearn_dask.training.placing.arrange import arrange, make_shards, split_rows
from hyperlearn_dask.training.placing.cost import Counts, Machine, Work
from hyperlearn_dask.training.placing.placement import Part, Placement

STAGES = ("products", "solve", "direction", "line", "step")
HOPS = 3
# Rows that cuts are looked for in; longer modes are cut on a grid.
MOST_ROWS = 1 << 22

Path = tuple[str, Part, int, int]  # a worker, and the rows of a part elsewhere that are there as well


@dataclass(frozen=True)
class WorkerPlan:
    """What one worker has and does in a sweep: bytes, and seconds at work."""

    name: str
    modalities: tuple[str, ...]
    shards: int
    entries: int
    memory: float
    seconds: float
    received: float


@dataclass(frozen=True)
class Plan:
    """The prediction.

    ``stages``: seconds of each stage at the worker with most to do, of ``exchange`` and of ``dask``;
    ``bottleneck``: on what most time goes; ``does_not_fit``: why not, empty if it fits.
    """

    workers: tuple[WorkerPlan, ...]
    stages: Mapping[str, float]
    spent: Mapping[str, float]
    exchanged: float
    does_not_fit: str

    @property
    def seconds(self) -> float:
        """Of a sweep."""
        return sum(self.stages.values())

    @property
    def critical_path(self) -> float:
        """Seconds of a sweep that workers compute, one after the other."""
        return sum(self.stages[stage] for stage in STAGES)

    @property
    def bottleneck(self) -> str:
        return max(self.spent, key=lambda what: self.spent[what])


def plan(
    problem: Problem,
    counts: Counts,
    machine: Machine,
    workers: int,
    spec: PlacementSpec | None = None,
    indptrs: Mapping[str, np.ndarray] | None = None,
) -> Plan:
    """Predict a training.

    Parameters
    ----------
    machine
        What each worker can do.
    workers
        How many.
    indptrs
        Per relation where each row of its longest mode starts (rows + 1); by default all are alike.
    """
    spec = spec or PlacementSpec()
    shards = make_shards(problem, counts, indptrs or even_rows(problem, counts), spec, workers)
    shards = [_stretched(problem, shard) for shard in shards]
    digits = len(str(workers - 1))
    names = {f"{number:0{digits}d}": str(number) for number in range(workers)}
    splits = split_rows(problem, counts, shards, spec)
    placement = arrange(
        problem, counts, shards, {address: {} for address in names}, spec, names, splits=splits
    )
    work = _work(problem, counts, placement)
    messages = list(_messages(problem, counts, placement))
    between = {
        "exchange": sum(_longest_link(messages, stage, machine) for stage in ("products", "line")),
        "dask": _tasks(work, messages) * machine.task + HOPS * machine.hop,
    }
    stages, spent = {}, dict(between)
    for stage in STAGES:
        slowest = max(placement.workers, key=lambda w: machine.total(work[stage, w]))
        seconds = machine.seconds(work[stage, slowest])
        stages[stage] = sum(seconds.values())
        for what, value in seconds.items():
            spent[what] = spent.get(what, 0.0) + value
    received: dict[str, float] = defaultdict(float)
    for _, _, to, size in messages:
        received[to] += size
    shares = placement.by_worker()
    planned = []
    for address, (name, share) in zip(placement.workers, shares.items()):
        at_work = sum(machine.total(work[stage, address]) for stage in STAGES)
        memory = machine.base + memory_of(problem, counts, machine, placement, address)
        number = len(share.shards)
        planned.append(
            WorkerPlan(name, share.modalities, number, share.entries, memory, at_work, received[address])
        )
    return Plan(
        tuple(planned),
        stages | between,
        spent,
        sum(received.values()),
        _too_large(planned, machine),
    )


def even_rows(problem: Problem, counts: Counts) -> dict[str, np.ndarray]:
    """Where rows of each relation's longest mode would start if all had as many entries."""
    return {
        name: np.linspace(
            0, counts.entries[name], 1 + min(MOST_ROWS, max(problem.sizes[m] for m in term.modalities))
        ).astype(np.int64)
        for name, term in problem.terms.items()
    }


def _stretched(problem: Problem, shard: ShardPlace) -> ShardPlace:
    """A shard cut on a grid, with its true number of rows."""
    rows = problem.sizes[problem.terms[shard.relation].modalities[shard.sort_mode]]
    if rows <= MOST_ROWS:
        return shard
    first, last = (round(r * rows / MOST_ROWS) for r in (shard.first_row, shard.first_row + shard.rows))
    return replace(shard, first_row=first, rows=last - first)


def _too_large(planned: list[WorkerPlan], machine: Machine) -> str:
    most = max(planned, key=lambda worker: worker.memory)
    if most.memory <= machine.memory:
        return ""
    return f"worker {most.name} would need {most.memory / 1e9:,.1f} GB and has {machine.memory / 1e9:,.1f} GB"


def _work(problem: Problem, counts: Counts, placement: Placement) -> dict[tuple[str, str], Work]:
    """The work of every stage and worker."""
    work: dict[tuple[str, str], Work] = defaultdict(Work)
    for shard, holder in placement.holders.items():
        work["products", holder] += cost.products_work(problem, counts, shard)
        work["line", holder] += cost.line_work(problem, counts, shard)
    for path in _kept_rows(problem, placement):
        # P + beta D before the line, A + alpha D before the products
        for stage in ("line", "products"):
            work[stage, path[0]] += Work(3 * _rows_bytes(problem, counts, path))
    for part in placement.owned(problem.sizes):
        m, share = part.modality, part.rows / max(1, problem.sizes[part.modality])
        arriving = sum(_rows_given(problem, shard, part) for shard in placement.holders) / max(1, part.rows)
        work["solve", part.owner] += cost.solve_work(problem, counts, m, arriving).times(share)
        work["direction", part.owner] += cost.direction_work(problem, counts, m).times(share)
        work["step", part.owner] += cost.step_work(problem, counts, m).times(share)
    return work


def _rows_given(problem: Problem, shard: ShardPlace, part: Part) -> int:
    """Of how many of a part's rows a shard gives products."""
    if not _gives(problem, shard, part.modality):
        return 0
    first, stop = _common_rows(problem, shard, part)
    return max(0, stop - first)


def _common_rows(problem: Problem, shard: ShardPlace, part: Part) -> tuple[int, int]:
    """The first and last row (exclusive) of a part that a shard reads, if it reads any."""
    first, stop = shard.reads(problem.terms[shard.relation].mode(part.modality))
    return max(first, part.first), part.stop if stop is None else min(stop, part.stop)


def _gives(problem: Problem, shard: ShardPlace, modality: str) -> bool:
    members = problem.terms[shard.relation].modalities
    return shard.products and modality in members and shard.modality in ("", modality)


def _kept_rows(problem: Problem, placement: Placement, worker: str = "") -> set[Path]:
    """Rows of modalities owned elsewhere of which a worker, or each, has both factor and direction."""
    return _rows_read(problem, placement, worker, line=True)


def _rows_read(problem: Problem, placement: Placement, worker: str = "", *, line: bool) -> set[Path]:
    """The rows from elsewhere that a worker, or each, reads for its lines, or for its products."""
    found: set[Path] = set()
    parts = placement.owned(problem.sizes)
    for shard, holder in placement.holders.items():
        if worker not in ("", holder) or (line and shard.modality) or not (line or shard.products):
            continue
        members = problem.terms[shard.relation].modalities
        for part in parts:
            if part.modality in members and part.owner != holder:
                first, stop = _common_rows(problem, shard, part)
                if stop > first:
                    found.add((holder, part, first, stop))
    return found


def _rows_bytes(problem: Problem, counts: Counts, path: Path) -> float:
    _, _, first, stop = path
    return float((stop - first) * problem.rank * counts.itemsize)


def _messages(
    problem: Problem, counts: Counts, placement: Placement
) -> Iterator[tuple[str, str, str, float]]:
    """What travels in a sweep: for which stage, from and to which worker, and how many bytes."""
    parts = placement.owned(problem.sizes)
    for shard, holder in placement.holders.items():
        for part in parts:
            if part.owner != holder and _rows_given(problem, shard, part):
                yield "products", holder, part.owner, _given_bytes(problem, counts, shard, part)
    along = _kept_rows(problem, placement)
    for path in sorted(along, key=str):
        yield "line", path[1].owner, path[0], _rows_bytes(problem, counts, path)
    # Rows that a worker has no direction of it cannot move: they come anew.
    for path in sorted(_rows_read(problem, placement, line=False) - along, key=str):
        yield "products", path[1].owner, path[0], _rows_bytes(problem, counts, path)


def _given_bytes(problem: Problem, counts: Counts, shard: ShardPlace, part: Part) -> float:
    """Of what a shard gives for a part."""
    every = cost.rows_of(problem, shard, part.modality)
    share = _rows_given(problem, shard, part) / max(1, every)
    return share * cost.product_bytes(problem, counts, shard, part.modality)


def _longest_link(messages: list[tuple[str, str, str, float]], stage: str, machine: Machine) -> float:
    """Seconds of the busiest link, each way by itself."""
    out: dict[str, float] = defaultdict(float)
    into: dict[str, float] = defaultdict(float)
    for of, sender, receiver, size in messages:
        if of == stage:
            out[sender] += size
            into[receiver] += size
    return max([*out.values(), *into.values()], default=0.0) / machine.link


def _tasks(work: Mapping[tuple[str, str], Work], messages: list[tuple[str, str, str, float]]) -> int:
    """Tasks of a sweep: what a worker does of a stage is one, and what it hands out to another then.

    Directions go with the line, moves with the products they are for; how far all move is a task once more.
    (Rows so few that they come with what made them are handed out by no task: these are taken for more.)
    """
    handed_out = {(stage, sender, receiver) for stage, sender, receiver, _ in messages}
    goes_with = {"direction": "line", "step": "products"}
    worked = {
        (goes_with.get(stage, stage), worker) for (stage, worker), done in work.items() if done != Work()
    }
    return len(worked) + len(handed_out) + 1


def memory_of(problem: Problem, counts: Counts, machine: Machine, placement: Placement, worker: str) -> float:
    """Bytes of a worker's data at their most, besides what every process has."""
    s, rank = counts.itemsize, problem.rank
    held = [shard for shard, holder in placement.holders.items() if holder == worker]
    stored, loading = 0.0, 0.0
    for shard in {shard.data for shard in held}:
        term = problem.terms[shard.relation]
        modes = len(term.modalities) - shard.holds_contexts
        # Kernels that go along rows do without the sort mode's indices.
        along = machine.by_row and term.background == 1 and not shard.holds_contexts
        own = cost.entries_of(shard) * (cost.INDEX * (modes - along) + (8 if shard.holds_contexts else s))
        stored += own + 8 * shard.rows
        # As they are read: values as they are stored, maybe in float64
        loading = max(loading, 8.0 * cost.entries_of(shard))
    owned = [part for part in placement.owned(problem.sizes) if part.owner == worker]
    sweeping = 0.0
    for part in owned:
        m, n = part.modality, part.rows
        links, f = counts.links.get(m, 0), len(problem.free_columns(m))
        stored += links * (s + cost.INDEX) + 4 * n
        # A, P and D, and of each the one before
        stored += 6 * n * rank * s
        grams = cost.grams_held(problem, counts, m, n)
        # The products from elsewhere, the system they make, and its solution
        sweeping += sum(
            _given_bytes(problem, counts, shard, part)
            for shard, holder in placement.holders.items()
            if holder != worker and _rows_given(problem, shard, part)
        )
        sweeping += 2 * n * f * s + 2 * grams + (2 * n * f * s if links else 0)
    for shard in held:
        term = problem.terms[shard.relation]
        members = [m for m in term.modalities if _gives(problem, shard, m)]
        sweeping += sum(cost.product_bytes(problem, counts, shard, m) for m in members)
        if shard.holds_contexts or term.background != 1:
            stored += sum(8 * (cost.entries_of(shard) + cost.rows_of(problem, shard, m)) for m in members)
    # Rows from elsewhere: of the factor, P, D and the D before
    for path in _kept_rows(problem, placement, worker):
        stored += 4 * _rows_bytes(problem, counts, path)
    return stored + max(loading, sweeping)
