"""Who does what on a cluster: an owner for every modality, a holder for every shard.

Two schemes. ``shards``: all relations laid end to end make one line of work, cut into as many equal
stretches as there are workers; a shard gives the products of all its modes in one pass. ``owner``, as
published: every owner walks the whole of its modalities' relations for their products alone (the line
along the step, which is not in the publication, stays with the shards).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.executor import ShardPlace

# A cut this near to a relation's end, in stretches, is made there: no shard is a sliver.
SLIVER = 0.03
# Workers whose loads differ by less than this, in stretches, are as good as each other.
ALIKE = 0.05


@dataclass(frozen=True)
class Part:
    """Rows ``first`` to ``stop`` of a modality, and the address of their owner."""

    name: str
    modality: str
    first: int
    stop: int
    owner: str

    @property
    def rows(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class Placement:
    """The address of every modality's owner and of every shard's holder, among ``workers``.

    ``names``: what a worker is called, where that is not its address; ``parts``: in their order, those of
    modalities whose rows have owners of their own. The first of them does what cannot be done in parts.
    """

    owners: dict[str, str]
    holders: dict[ShardPlace, str]
    workers: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, str]:
        """The owner of every modality, or of every part where it is in parts."""
        owners: dict[str, str] = {}
        for m, owner in self.owners.items():
            owners |= {part.name: part.owner for part in self.parts.get(m, ())} or {m: owner}
        return owners

    def owned(self, sizes: Mapping[str, int]) -> list[Part]:
        """The same, each with its rows; ``sizes``: how many every modality has."""
        whole = {m: (Part(m, m, 0, sizes[m], owner),) for m, owner in self.owners.items()}
        return [part for m in whole for part in self.parts.get(m, whole[m])]

    def lines(self) -> list[str]:
        """Who does what, a line for each worker, for a person."""
        lines = []
        parts = itertools.chain.from_iterable(self.parts.values())
        rows = {p.name: f"{p.modality} (rows {p.first:,} to {p.stop:,})" for p in parts}
        for name, share in self.by_worker().items():
            names = [rows.get(m, m) for m in share.modalities]
            owned = f"owns {', '.join(names)}" if names else "owns none"
            shards = f"{len(share.shards)} shard{'s' * (len(share.shards) != 1)}"
            lines.append(f"worker {name} {owned}; {share.entries:,} hyperedges in {shards}")
        return lines

    def by_worker(self) -> dict[str, WorkerShare]:
        """What every worker has, by its name."""
        entries = dict.fromkeys(self.workers, 0)
        for place, address in self.holders.items():
            if place.products and not place.holds_contexts:
                entries[address] += place.stop - place.start
        return {
            self.names.get(address, address): WorkerShare(
                tuple(m for m, owner in self.places.items() if owner == address),
                tuple(place.name for place, holder in self.holders.items() if holder == address),
                entries[address],
            )
            for address in self.workers
        }


@dataclass(frozen=True)
class WorkerShare:
    """A worker's modalities, or parts of them, and shards, and how many entries it walks for products."""

    modalities: tuple[str, ...]
    shards: tuple[str, ...]
    entries: int


@dataclass(frozen=True)
class RowCosts:
    """Seconds of a relation's entry, of its contexts per entry, and of a row of its sort mode."""

    entry: float = 1.0
    context: float = 1.0
    row: float = 0.0


def place(
    work: Mapping[str, float],
    shards: Sequence[ShardPlace],
    workers: Mapping[str, Mapping[str, float]],
    *,
    shard_work: Mapping[ShardPlace, float] | None = None,
    traffic: Mapping[ShardPlace, Mapping[str, float]] | None = None,
    chosen: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
) -> Placement:
    """Place modalities and shards on workers.

    A modality's owner is the worker that was chosen for it, else the one that declares a resource of
    its name and no other's. The modalities left over go, the most work first, to the worker with the
    least so far. So do the stretches of shards; where workers are alike, to the one whose own
    modalities they need most.

    Parameters
    ----------
    work
        What the block of each modality takes, in any unit.
    workers
        The declared resources of each worker, by its address.
    shard_work
        The same of shards; by default the number of their entries.
    traffic
        Bytes between a shard and the owner of each of its modalities, were they apart.
    chosen
        The addresses of owners that are not to be computed.
    """
    if not workers:
        raise InputError("the cluster has no workers; start at least one (dask worker ADDRESS)")
    addresses = sorted(workers)
    owners = _declared(work, workers) | dict(chosen or {})
    load = {a: sum(work[m] for m, owner in owners.items() if owner == a) for a in addresses}
    for modality in sorted(work.keys() - owners.keys(), key=lambda m: (-work[m], m)):
        owners[modality] = min(addresses, key=lambda a: load[a])
        load[owners[modality]] += work[modality]
    cut_shards = [shard for shard in shards if not shard.modality]
    weights = shard_work or {shard: float(shard.stop - shard.start) for shard in cut_shards}
    holders = _share_out(cut_shards, weights, traffic or {}, owners, addresses)
    holders |= {shard: owners[shard.modality] for shard in shards if shard.modality}
    return Placement({m: owners[m] for m in work}, holders, tuple(addresses), names or {})


def _declared(modalities: Mapping[str, float], workers: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The owners by resource: of a worker that declares several, which ones is ours to say."""
    by_worker = {a: [r for r in resources if r in modalities] for a, resources in workers.items()}
    everyones = [m for declared in by_worker.values() for m in declared]
    return {d[0]: a for a, d in by_worker.items() if len(d) == 1 and everyones.count(d[0]) == 1}


def _share_out(
    shards: Sequence[ShardPlace],
    weights: Mapping[ShardPlace, float],
    traffic: Mapping[ShardPlace, Mapping[str, float]],
    owners: Mapping[str, str],
    addresses: Sequence[str],
) -> dict[ShardPlace, str]:
    """Stretches to workers."""
    stretches: dict[int, list[ShardPlace]] = {}
    for shard in shards:
        stretches.setdefault(shard.stretch, []).append(shard)
    work = {number: sum(weights[s] for s in stretch) for number, stretch in stretches.items()}
    spared = {number: dict.fromkeys(addresses, 0.0) for number in stretches}
    for number, stretch in stretches.items():
        for modality, sent in itertools.chain.from_iterable(traffic.get(s, {}).items() for s in stretch):
            spared[number][owners[modality]] += sent
    alike = ALIKE * max(work.values(), default=0.0)
    load, number_of = dict.fromkeys(addresses, 0.0), dict.fromkeys(addresses, 0)
    holders: dict[ShardPlace, str] = {}
    # Stretches that are alike go in their order, so that each worker has about as many of them.
    for number in sorted(stretches, key=lambda n: (-round(work[n] / alike) if alike else 0, n)):
        least = min(load.values())
        free = [a for a in addresses if load[a] <= least + alike]
        address = min(free, key=lambda a: (number_of[a], -spared[number][a], a))
        load[address] += work[number]
        number_of[address] += 1
        holders |= dict.fromkeys(stretches[number], address)
    return holders


def cut(
    indptrs: Mapping[str, np.ndarray],
    sort_modes: Mapping[str, int],
    pieces: int,
    target_modes: Mapping[str, int],
    costs: Mapping[str, RowCosts] | None = None,
) -> list[ShardPlace]:
    """All relations in ``pieces`` stretches of about as much work; with shards of contexts, if they have any.

    Parameters
    ----------
    indptrs
        Per relation, where each row of its longest mode starts (rows + 1).
    sort_modes
        Per relation, that mode.
    target_modes
        Per relation with contexts, the mode they leave out. Where it is the sort mode contexts run
        across all rows, and one shard holds them all.
    costs
        Per relation; by default only entries count.
    """
    across = {name for name, target in target_modes.items() if target == sort_modes[name]}
    # Every relation is a line of work along its rows; so are contexts that cannot be cut, of one row.
    lines: list[tuple[str, bool, np.ndarray]] = []
    for name, indptr in indptrs.items():
        cost = (costs or {}).get(name, RowCosts())
        with_contexts = name in target_modes and name not in across
        each = cost.entry + cost.context * with_contexts
        rows = cost.row * np.arange(len(indptr)) if indptr[-1] else 0.0
        lines.append((name, False, each * indptr + rows))
        if name in across:
            lines.append((name, True, np.array([0.0, cost.context * indptr[-1]])))
    left = sum(line[-1] for _, _, line in lines)
    alone: dict[str, int] = {}  # what fills a stretch and cannot be cut
    for name, whole, line in sorted(lines, key=lambda item: -item[2][-1]):
        if whole and pieces > 1 and line[-1] >= left / pieces > 0:
            pieces -= 1
            left -= line[-1]
            alone[name] = pieces
    stretch = left / pieces or 1.0
    shards: list[ShardPlace] = []
    before = 0.0
    for name, whole, line in lines:
        bounds = [0, 1] if whole else _bounds(line, before, stretch)
        numbers = [
            min(pieces - 1, int((before + (line[first] + line[last]) / 2) / stretch))
            for first, last in itertools.pairwise(bounds)
        ]
        if whole and name in alone:
            numbers = [alone[name]]
        else:
            before += line[-1]
        indptr, mode = indptrs[name], sort_modes[name]
        if whole:
            everything = ShardPlace(name, 0, 0, int(indptr[-1]), 0, len(indptr) - 1, sort_mode=mode)
            shards.append(replace(everything.contexts(target_modes[name]), stretch=numbers[0]))
            continue
        runs = _runs(name, indptr, bounds, numbers, mode)
        shards += runs
        if name in target_modes and name not in across:
            shards += [run.contexts(target_modes[name]) for run in runs]
    return shards


def _bounds(line: np.ndarray, before: float, stretch: float) -> list[int]:
    """The rows at which a relation, with so much work before it, is cut."""
    first, last = before / stretch, (before + line[-1]) / stretch
    inside = [k for k in range(int(first) + 1, int(last) + 1) if first + SLIVER < k < last - SLIVER]
    inner = np.searchsorted(line, [k * stretch - before for k in inside])
    return [int(row) for row in np.unique([0, *inner, len(line) - 1])]


def _runs(
    relation: str, indptr: np.ndarray, bounds: Sequence[int], stretches: Sequence[int], sort_mode: int
) -> list[ShardPlace]:
    """Runs of whole rows. None is empty, but for the one of a relation without entries."""
    shards: list[ShardPlace] = []
    for (first, last), stretch in zip(itertools.pairwise(bounds), stretches):
        start, stop = int(indptr[first]), int(indptr[last])
        if stop > start or (indptr[-1] == 0 and not shards):
            shards.append(
                ShardPlace(
                    relation,
                    len(shards),
                    start,
                    stop,
                    first,
                    last - first,
                    sort_mode=sort_mode,
                    stretch=stretch,
                )
            )
    return shards


def walked_by_owners(shards: Sequence[ShardPlace], members: Mapping[str, Sequence[str]]) -> list[ShardPlace]:
    """The published scheme: the products by whole relations, one for each of their modalities.

    ``members``: the modalities of every relation. The shards keep the line alone.
    """
    relations = dict.fromkeys((shard.relation, shard.target_mode) for shard in shards)
    wholes = []
    for relation, target_mode in relations:
        own = [s for s in shards if s.relation == relation and s.target_mode == target_mode]
        rows = max(s.first_row + s.rows for s in own)
        whole = replace(own[0], number=0, stop=max(s.stop for s in own), first_row=0, rows=rows, stretch=0)
        wholes += [replace(whole, modality=m) for m in members[relation]]
    return [*(replace(shard, products=False) for shard in shards), *wholes]
