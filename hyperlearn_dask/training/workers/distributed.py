"""Steps on Dask workers: each owns modalities (factor, Laplacian, block solve) and holds shards.

1. Workers read their shards and Laplacians straight from the store, once, when a step first asks.
2. A step is named as the paper would (``mttkrp-made-0``, ``solve-artist``) and pinned to the worker that
   has its data; steps that a worker can do one after the other are one task, see :mod:`.outbox`. Its
   result stays there, see :mod:`.on_worker`.
3. A step that reads what another worker made depends on a task there that hands it out. Only rows,
   partial products, Grams and scalars travel, from worker to worker; a shard makes the rows of a direction
   itself, of the proposal's and those of the direction before, and with them the next factor's. How far all
   turn and go is made by each worker itself, of the numbers that all tell each other.
4. A modality in parts has a step for each, and a :class:`..handles.Split` stands for what they give.
   Rows stay where they are; what adds up is added up by whoever reads it, always in the order of the parts.
5. Steps are sent together, once somebody waits for a result: a graph costs the scheduler more than
   the tasks in it.
6. A step depends on those before it only while they have not ended, and now and then all are let end:
   as Dask keeps a task until those after it are forgotten, it forgets them then. Nothing is made again:
   what is lost with a worker is :class:`..executor.Lost`, and the driver goes on from the last safe
   point on the workers that are there.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from weakref import finalize

import numpy as np
from distributed import Client, Scheduler, fire_and_forget
from distributed.client import ClosedClientError

from hyperlearn_dask.backend import Array, Device, free_memory
from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import read_indptr, unit_attributes, unit_digests
from hyperlearn_dask.training.events import Where
from hyperlearn_dask.training.executor import (
    Handle,
    Joined,
    Key,
    Setting,
    ShardPlace,
    held_on,
    move,
    together,
)
from hyperlearn_dask.training.memory import Site
from hyperlearn_dask.training.placing.arrange import arrange, counts_of, make_shards, split_rows
from hyperlearn_dask.training.placing.placement import Placement
from hyperlearn_dask.training.steps import BY_ROWS
from hyperlearn_dask.training.workers.handles import (
    UNKNOWN,
    Anywhere,
    Part,
    Result,
    Split,
    Sum,
    parts_in,
    rows_of,
    share,
    visit,
    within,
)
from hyperlearn_dask.training.workers.letters import Letter
from hyperlearn_dask.training.workers.on_worker import (
    SMALL,
    Form,
    Order,
    Piece,
    Run,
    forget,
    greet,
    has_large,
    keep_only,
    read_laplacian,
    read_shard,
    receipt_of,
    worker_device,
)
from hyperlearn_dask.training.workers.outbox import Bundle, Outbox
from hyperlearn_dask.training.workers.watch import LOSSES, Watch

CHECK_SECONDS = 2.0  # between looks for workers that have come
GOODBYE_SECONDS = 5.0  # that workers are given to free what they keep
ROOM = 1 << 28  # bytes: workers have room for all factors of one sweep more, if they are no larger
FEW = 4  # workers: among so many all tell each other, among more all tell one
LINEAGE = 8  # sweeps of which one step leads to the next, before all are let end
_runs = itertools.count()


class DaskExecutor:
    """Steps as pinned tasks on the workers of a client. See :class:`..executor.Executor`.

    ``problem``: what placement weighs its steps by; ``on_placement`` is told of every placement.
    """

    mortal = True

    def __init__(
        self,
        client: Client,
        hypergraph: Hypergraph,
        setting: Setting,
        problem: Problem,
        placement: PlacementSpec | None = None,
        on_placement: Callable[[Placement], None] | None = None,
    ) -> None:
        if hypergraph.path is None:
            raise InputError("a hypergraph in memory cannot train on a cluster; save it first")
        self._client = client
        self._path = str(hypergraph.path.resolve())
        self._setting = setting
        self.device: Device = setting.device
        self._digests = unit_digests(hypergraph.path)
        self._graphs = set(hypergraph.graphs)
        attributes = unit_attributes(hypergraph.path)
        self._edges = {m: int(attributes[f"graphs/{m}"]["edges"]) for m in self._graphs}
        self._sizes = {m: len(entities) for m, entities in hypergraph.modalities.items()}
        # Receipts are small and on the host; what is on a device is not for them.
        longest = max(self._sizes.values()) * np.dtype(setting.dtype).itemsize
        self.whole = self.device == "cpu" and longest <= SMALL // 16
        factors = sum(self._sizes.values()) * problem.rank * np.dtype(setting.dtype).itemsize
        self._roomy = factors <= ROOM
        self._watch = Watch(client)
        self._run = Run(client.id, next(_runs), 0)
        self.numbers = itertools.count()
        self._garbage: dict[str, deque[tuple[int, list[Bundle]]]] = defaultdict(deque)
        self._outbox = Outbox(client)
        self._checked = time.monotonic()
        self.seconds: dict[str, float] = defaultdict(float)
        self.received: dict[str, int] = defaultdict(int)
        self._topic = f"hyperlearn-{client.id}-{self._run.number}"
        workers = self._watch.workers()
        # The cuts stay as they are, whatever becomes of the workers: sums do not change with them.
        self._problem, self._spec = problem, placement or PlacementSpec()
        self._on_placement = on_placement
        self._counts = counts_of(hypergraph, setting.dtype)
        indptrs = {name: read_indptr(hypergraph.path, name) for name in hypergraph.relations}
        self.places = make_shards(problem, self._counts, indptrs, self._spec, len(workers))
        self._splits = split_rows(problem, self._counts, self.places, self._spec)
        self.placement = self._place(workers, strict=True)
        client.subscribe_topic(self._topic, self._on_event)
        with contextlib.suppress(ImportError):  # a scheduler without our package cannot tell
            self._everywhere(greet, self._watch.at_scheduler(_clients), seconds=GOODBYE_SECONDS)

    # Steps.

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        if step in BY_ROWS and modality in self.placement.parts:
            return self._by_rows(name, modality, step, args, BY_ROWS[step])
        return self._submit(name, self.placement.owners[modality], self._graph(modality), step, args)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        handle = self._submit(name, self.placement.holders[place], self._shard(place), step, args)
        handle.result.place = place
        return handle

    def everywhere(self, name: str, step: Callable[..., Any], *args: Any, asked: bool = False) -> Handle:
        workers, load = self.placement.workers, self._load("", None)
        parts = {}
        if not asked or len(workers) <= FEW:
            parts = {a: self._submit(name, a, load, step, args, leads=True) for a in workers}
        if not asked:
            return Anywhere(parts, parts[workers[0]])
        # By itself: whoever asks for it does not wait for what goes with the others.
        return Anywhere(parts, self._submit(name, workers[0], load, step, args, alone=True))

    def hold(self, name: str, modality: str, value: Any) -> Handle:
        parts = self.placement.parts.get(modality)
        if not parts:
            return self._held(name, modality, self.placement.owners[modality], value)
        held = [self._held(p.name, modality, p.owner, rows_of(value, p.first, p.stop)) for p in parts]
        kind: Literal["rows", "fields"] = "rows" if isinstance(value, np.ndarray) else "fields"
        return Split(tuple(held), tuple(p.first for p in parts), kind, ("direction",))

    def settle(self, name: str, modality: str, handle: Part) -> Handle:
        parts = self.placement.parts.get(modality)
        if not parts:
            return self.at_modality(name, modality, _hold, handle, self.device)
        settled = []
        for p in parts:
            args = (handle.pick((p.first, p.stop)), self.device)
            settled.append(self._submit(name, p.owner, self._load(modality, None), _hold, args))
        return Split(tuple(settled), tuple(p.first for p in parts), "rows")

    def pick(self, handle: Part | Split | Anywhere, key: Key) -> Handle:
        return handle.pick(key)

    def small(self, handle: Part | Split | Anywhere, nbytes: int) -> Handle:
        if isinstance(handle, Anywhere):
            return replace(handle, asked=self.small(handle.asked, nbytes))
        if isinstance(handle, Split):
            return replace(handle, parts=tuple(self.small(part, nbytes) for part in handle.parts))
        return replace(handle, told=nbytes <= SMALL)

    def rows(self, handle: Part | Split, place: ShardPlace, mode: int) -> Handle:
        if isinstance(handle, Split):
            return handle.rows(*place.reads(mode))
        return replace(handle.pick(place.reads(mode)), shared=True)

    def moved(
        self,
        name: str,
        modality: str,
        start: Part | Split,
        along: Part | Split,
        alpha: Part | Anywhere | float,
        *,
        spent: bool = False,
    ) -> Handle:
        # What is spent is left as it is all the same: shards may still read rows of it.
        if isinstance(start, Split) and isinstance(along, Split):
            steps = zip(self.placement.parts[modality], start.parts, along.parts)
            moved = [self._moved(f"{name}-{p.name}", p.owner, a, d, alpha) for p, a, d in steps]
            return replace(start, parts=tuple(moved), kind="rows")
        assert isinstance(start, Part) and isinstance(along, Part), "both are in parts or neither"
        return self._moved(f"{name}-{modality}", self.placement.owners[modality], start, along, alpha)

    def _moved(self, name: str, owner: str, start: Part, along: Part, alpha: Part | Anywhere | float) -> Part:
        args = (start, along, alpha)
        handle = self._submit(name, owner, self._load("", None), move, args, leads=True)
        for (address, path), copy in along.result.copies.items():
            if isinstance(copy, Result) and path[:-1] == along.path:
                handle.result.copies[address, (path[-1],)] = Sum(start.pick(path[-1]), copy, alpha)
        return handle

    def gather(self, handles: Any) -> Any:
        """Receipts where they hold all that is asked for, else the results themselves."""
        parts = parts_in(handles)
        new = list({p.result.number: p.result for p in parts if p.result.value is UNKNOWN}.values())
        for result, value in zip(new, self._bring([(result.made_in, result.item) for result in new])):
            result.value = value
        values = [within(part.result.value, part.path) for part in parts]
        large = [i for i, value in enumerate(values) if has_large(value)]
        form: Form = "as it is" if self.device == "cpu" else "on the host"
        for i, value in zip(large, self._bring([self.hand_out(parts[i], form, "client") for i in large])):
            values[i] = value
        following = iter(values)

        def found(handle: Part | Split) -> Any:
            if isinstance(handle, Split):
                return together([next(following) for _ in handle.parts], rows=handle.kind == "rows")
            return next(following)

        return visit(handles, found)

    def ahead(self, sweep: int) -> int:
        if sweep % LINEAGE == 0:  # all are let end, the moves too
            self._bring([(leading, 0) for leading in self._outbox.leading])
            return 0
        return int(self._roomy)

    # What becomes of the workers.

    def check(self) -> None:
        if time.monotonic() - self._checked < CHECK_SECONDS:
            return
        self._checked = time.monotonic()
        new = set(self._watch.workers()) - set(self.placement.workers)
        if new:
            raise Joined(f"{len(new)} worker{'s have' if len(new) > 1 else ' has'} joined")

    def recover(self) -> None:
        self._run = Run(self._run.client, self._run.number, self._run.attempt + 1)
        self._garbage.clear()
        self._outbox.clear()
        self.placement = self._place(self._watch.wait_for_workers(len(self.placement.workers)))
        for address in self.placement.workers:
            loads = [
                self._shard(place) for place, holder in self.placement.holders.items() if holder == address
            ]
            loads += [self._graph(m) for m, owner in self.placement.owners.items() if owner == address]
            word = self._client.submit(keep_only, self._run, loads, workers=[address], pure=False)
            fire_and_forget(word)

    def sites(self) -> list[Site]:
        """What each worker's GPU has free, and what shall be there."""
        sites = []
        for address, free in self._ask(free_memory).items():
            owned: dict[str, int] = defaultdict(int)
            for part in self.placement.owned(self._sizes):
                if part.owner == address:
                    owned[part.modality] += part.rows
            places = tuple(p for p in self.places if self.placement.holders[p] == address)
            # L has both directions of an edge, and a diagonal.
            edges = sum(2 * self._edges[m] + self._sizes[m] for m in owned if m in self._edges)
            sites.append(Site(f"worker {address}", free, owned, places, edges))
        return sites

    def where(self) -> Where:
        placement = self.placement
        holders = {shard.name: address for shard, address in placement.holders.items()}
        return Where(placement.workers, placement.places, holders)

    def close(self) -> None:
        """Free what the workers keep for this executor."""
        self._outbox.clear()
        if not self._watch.scheduler_lost:
            self._client.unsubscribe_topic(self._topic)
            self._everywhere(forget, self._run, seconds=GOODBYE_SECONDS, surely=True)

    def _place(self, workers: dict[str, dict[str, float]], *, strict: bool = False) -> Placement:
        self._checked = time.monotonic()
        placement = arrange(
            self._problem,
            self._counts,
            self.places,
            workers,
            self._spec,
            self._watch.names(),
            splits=self._splits,
            strict=strict,
        )
        if self.device != "cpu":
            for address, lacks in self._ask(worker_device, self.device, of=placement.workers).items():
                if lacks is not None:
                    raise InputError(f"{lacks}; asked for with device cuda", key=f"worker {address}")
        if self._on_placement is not None:
            self._on_placement(placement)
        return placement

    def _ask(
        self, function: Callable[..., Any], *args: Any, of: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """What a function gives on every worker, by address."""
        addresses = list(self.placement.workers if of is None else of)
        asked = [self._client.submit(function, *args, workers=[a], pure=False) for a in addresses]
        bring = partial(self._client.gather, asked, direct=True)
        return dict(zip(addresses, self._watch.result(bring, addresses)))

    def _everywhere(
        self, function: Callable[..., Any], *args: Any, seconds: float, surely: bool = False
    ) -> None:
        """Run a function on every worker, without trust in any; ``surely``: on those that are late too."""
        futures = [
            self._client.submit(function, *args, workers=[address], pure=False)
            for address in self.placement.workers
        ]
        if surely:
            fire_and_forget(futures)
        deadline = time.monotonic() + seconds
        for future in futures:
            try:
                future.exception(timeout=max(0.1, deadline - time.monotonic()))
            except (*LOSSES, RuntimeError):
                continue

    # Tasks.

    def _shard(self, place: ShardPlace) -> tuple[Any, ...]:
        """What a shard is read by."""
        offset, digest = self._setting.offsets[place.relation], self._digests[f"relations/{place.relation}"]
        return read_shard, self._path, place.data, digest, offset, self._setting.dtype, self.device

    def _graph(self, modality: str) -> tuple[Any, ...]:
        """What a modality's Laplacian is read by, if it has one."""
        return self._load(modality, self._digests[f"graphs/{modality}"] if modality in self._graphs else None)

    def _load(self, modality: str, digest: str | None) -> tuple[Any, ...]:
        return read_laplacian, self._path, modality, digest, self._setting.dtype, self.device

    def _held(self, name: str, modality: str, owner: str, value: Any) -> Part:
        scatter = partial(self._client.scatter, [value], workers=[owner], direct=True, hash=False)
        [sent] = self._watch.result(scatter, [owner])
        handle = self._submit(name, owner, self._load(modality, None), _hold, (sent, self.device))
        handle.result.value = value if self.whole else receipt_of(value)
        return handle

    def _by_rows(
        self,
        name: str,
        modality: str,
        step: Callable[..., Any],
        args: tuple[Any, ...],
        by_rows: tuple[str, ...],
    ) -> Handle:
        """A step at every part of a modality, if what it is given is in parts; else at the modality."""
        parts = self.placement.parts[modality]
        load = self._load(modality, None)
        if not any(isinstance(arg, Split) and arg.kind != "sum" for arg in args):
            return self._submit(name, self.placement.owners[modality], load, step, args)

        def mode_of(relation: str) -> int:
            return self._problem.terms[relation].mode(modality)

        made = []
        for number, part in enumerate(parts):
            own = tuple(share(arg, number, modality, mode_of, (part.first, part.stop)) for arg in args)
            made.append(self._submit(f"{name}-{number}", part.owner, load, step, own))
        kind: Literal["fields", "sum"] = "fields" if by_rows else "sum"
        return Split(tuple(made), tuple(part.first for part in parts), kind, by_rows)

    def _submit(
        self,
        name: str,
        address: str,
        load: tuple[Any, ...],
        step: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        leads: bool = False,
        alone: bool = False,
    ) -> Part:
        letter = Letter(self, address)
        arguments = tuple(visit(arg, letter.enclose) for arg in args)
        number = next(self.numbers)
        drop = self._drop(address)
        sent = tuple(letter.sent)
        order = Order(self._run, self._topic, name, number, drop, self.whole, load, step, arguments, sent)
        leading = [r.receipt for r in letter.reads if r.leads and isinstance(r.receipt, Bundle)]
        others = [r.receipt for r in letter.reads if not r.leads and isinstance(r.receipt, Bundle)]
        others += [one for one in letter.given if isinstance(one, Bundle)]
        bundle = self._outbox.bundle(address, leading, others, alone=alone)
        receipt, item = bundle.add(order, letter.given, letter.after, leads=leads)
        for result in letter.reads:  # in place: what drops the result holds the same list
            result.readers[:] = [*(reader for reader in result.readers if not reader.ended), receipt]
        for copy in letter.copies:
            copy.receipt = receipt
            copy.readers.append(receipt)
        return Part(self.result(address, number, receipt, item, leads=leads))

    def _key(self, name: str, number: int) -> tuple[str, str, int]:
        return name, f"{self._topic}-{self._run.attempt}", number

    def _send(self, wanted: Collection[Bundle]) -> None:
        """Send the steps that wait to be, those in any case that somebody waits for."""
        try:
            self._outbox.send(self._key, wanted)
        except ClosedClientError:
            self._watch.workers()  # says that the scheduler is lost
            raise

    def hand_out(self, part: Part, form: Form, to: str) -> tuple[Bundle, int]:
        """A part of a large result as a task's own, for a worker or the client."""
        made_in = part.result.made_in
        piece = Piece(self._run, part.result.number, part.path, form)
        return self._outbox.pieces(made_in, to).add(piece, [], [made_in])

    def _bring(self, items: list[tuple[Bundle, int]]) -> list[Any]:
        """What is at some places of what bundles give, straight from the workers."""
        if not items:
            return []
        bundles = list(dict.fromkeys(bundle for bundle, _ in items))
        self._send(bundles)
        bring = partial(self._client.gather, [bundle.future for bundle in bundles], direct=True)
        values = dict(zip(bundles, self._watch.result(bring, self.placement.workers)))
        return [values[bundle][item] for bundle, item in items]

    def result(
        self, address: str, number: int, receipt: Bundle | None = None, item: int = 0, *, leads: bool
    ) -> Result:
        """A result that is dropped from its worker when nobody here knows of it any more."""
        result = Result(address, number, receipt, item, leads)
        if receipt is not None:
            result.readers.append(receipt)  # not to be dropped before it is made
        finalize(result, self._garbage[address].append, (number, result.readers)).atexit = False
        return result

    def _drop(self, address: str) -> tuple[int, ...]:
        """Results on a worker that nobody will ask for again, all their readers having ended."""
        garbage = self._garbage[address]
        numbers = []
        for _ in range(len(garbage)):
            number, readers = garbage.popleft()
            if all(reader.ended for reader in readers):
                numbers.append(number)
            else:
                garbage.append((number, readers))
        return tuple(numbers)

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        for record in event[1]["steps"]:
            self.seconds[record["name"]] += record["seconds"]
            if record["bytes"]:
                self.received[record["name"]] += record["bytes"]


def _hold(_: Array | None, value: Any, device: Device) -> Any:
    return held_on(device, value)


def _clients(dask_scheduler: Scheduler) -> list[str]:
    """Those that the scheduler knows; runs there."""
    return list(dask_scheduler.clients)
