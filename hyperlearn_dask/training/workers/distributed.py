"""Steps on Dask workers: each owns modalities (factor, Laplacian, block solve) and holds shards.

1. Workers read their shards and Laplacians straight from the store, once, when a step first asks.
2. A step is one task, named as the paper would (``mttkrp-made-0``, ``solve-artist``), pinned to the
   worker that has its data. Its result stays there, see :mod:`~hyperlearn_dask.training.workers.on_worker`.
3. A step that reads what another worker made depends on a task there that hands it out. Only rows,
   partial products, Grams and scalars travel, from worker to worker; a shard that has rows of a factor
   and of its direction makes the next factor's rows itself.
4. Steps are sent together, once somebody waits for a result: a graph costs the scheduler more than
   the tasks in it.
5. A step depends on those before it only while they have not ended, and now and then all are let end:
   as Dask keeps a task until those after it are forgotten, it forgets them then. Nothing is made again:
   what is lost with a worker is :class:`..executor.Lost`, and the driver goes on from the last safe
   point on the workers that are there.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import finalize

import numpy as np
from dask import annotate
from distributed import Client, Future, Scheduler
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
    part_of,
)
from hyperlearn_dask.training.memory import Site
from hyperlearn_dask.training.placing.arrange import arrange, counts_of, make_shards
from hyperlearn_dask.training.placing.placement import Placement
from hyperlearn_dask.training.workers.on_worker import (
    SMALL,
    Form,
    Given,
    Kept,
    Large,
    Moved,
    Order,
    Piece,
    Run,
    carry_out,
    forget,
    greet,
    has_large,
    read_laplacian,
    read_shard,
    receipt_of,
    worker_device,
)
from hyperlearn_dask.training.workers.watch import LOSSES, Watch

CHECK_SECONDS = 2.0  # between looks for workers that have come
GOODBYE_SECONDS = 5.0  # that workers are given to free what they keep
ROOM = 1 << 28  # bytes: workers have room for all factors of one sweep more, if they are no larger
LINEAGE = 8  # sweeps of which one step leads to the next, before all are let end
_runs = itertools.count()
_UNKNOWN = Large()  # of a receipt that is not here


@dataclass(eq=False)
class _Result:
    """A result on a worker: under which number, and the future of its receipt.

    ``value``: the receipt itself once it is here, so that nobody asks for it again; ``readers``: the
    receipts of the steps that read it, after which it may be dropped; ``copies``: rows of it that
    other workers have, by address and path.
    """

    address: str
    number: int
    receipt: Future | None = None
    value: Any = _UNKNOWN
    readers: list[Future] = field(default_factory=list)
    copies: dict[tuple[str, tuple[Any, ...]], _Result | _Sum] = field(default_factory=dict)


@dataclass(eq=False)
class _Sum:
    """Rows of a moved factor that a worker can make of what it has."""

    factor: _Result
    direction: _Result
    alpha: _Part | float


@dataclass(frozen=True, eq=False)
class _Task:
    """A task on its way: its future, what is to be done with what is given, and the worker to do it."""

    future: Future
    what: Order | Piece
    given: list[Future]
    address: str


@dataclass(frozen=True)
class _Part:
    """What a step is given and gives: (part of) a result.

    ``shared``: its readers shall keep a copy; ``told``: it is in the receipt, so small is it.
    """

    result: _Result
    path: tuple[Key, ...] = ()
    shared: bool = False
    told: bool = False


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
        self._garbage: dict[str, deque[tuple[int, list[Future]]]] = defaultdict(deque)
        self._outbox: list[_Task] = []
        self._checked = time.monotonic()
        self.seconds: dict[str, float] = defaultdict(float)
        self.received: dict[str, int] = defaultdict(int)
        self._topic = f"hyperlearn-{client.id}-{self._run.number}"
        client.subscribe_topic(self._topic, self._on_event)
        workers = self._watch.workers()
        # The cuts stay as they are, whatever becomes of the workers: sums do not change with them.
        self._problem, self._spec = problem, placement or PlacementSpec()
        self._on_placement = on_placement
        self._counts = counts_of(hypergraph, setting.dtype)
        indptrs = {name: read_indptr(hypergraph.path, name) for name in hypergraph.relations}
        self.places = make_shards(problem, self._counts, indptrs, self._spec, len(workers))
        self.placement = self._place(workers, strict=True)
        with contextlib.suppress(ImportError):  # a scheduler without our package cannot tell
            self._everywhere(greet, self._watch.at_scheduler(_clients), seconds=GOODBYE_SECONDS)

    # Steps.

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        digest = self._digests[f"graphs/{modality}"] if modality in self._graphs else None
        load = (read_laplacian, self._path, modality, digest, self._setting.dtype, self.device)
        return self._submit(name, self.placement.owners[modality], load, step, args)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        offset = self._setting.offsets[place.relation]
        digest = self._digests[f"relations/{place.relation}"]
        load = (read_shard, self._path, place.data, digest, offset, self._setting.dtype, self.device)
        return self._submit(name, self.placement.holders[place], load, step, args)

    def hold(self, name: str, modality: str, value: Any) -> Handle:
        owner = self.placement.owners[modality]
        scatter = partial(self._client.scatter, [value], workers=[owner], direct=True, hash=False)
        [sent] = self._watch.result(scatter, [owner])
        handle: _Part = self.at_modality(name, modality, _hold, sent, self.device)
        handle.result.value = value if self.whole else receipt_of(value)
        return handle

    def pick(self, handle: _Part, key: Key) -> Handle:
        return _Part(handle.result, (*handle.path, key))

    def small(self, handle: _Part, nbytes: int) -> Handle:
        return replace(handle, told=nbytes <= SMALL)

    def rows(self, handle: _Part, place: ShardPlace, mode: int) -> Handle:
        return _Part(handle.result, (*handle.path, place.reads(mode)), shared=True)

    def moved(self, modality: str, factor: _Part, direction: _Part, alpha: _Part | float) -> Handle:
        handle: _Part = self.at_modality(f"step-{modality}", modality, move, factor, direction, alpha)
        for (address, path), rows in factor.result.copies.items():
            along = direction.result.copies.get((address, (*direction.path, path[-1])))
            if isinstance(rows, _Result) and isinstance(along, _Result):
                handle.result.copies[address, (path[-1],)] = _Sum(rows, along, alpha)
        return handle

    def gather(self, handles: Any) -> Any:
        """Receipts where they hold all that is asked for, else the results themselves."""
        parts: list[_Part] = []
        _visit(handles, parts.append)
        new = list({p.result.number: p.result for p in parts if p.result.value is _UNKNOWN}.values())
        for result, value in zip(new, self._bring([result.receipt for result in new])):
            result.value = value
        values = [_within(part.result.value, part.path) for part in parts]
        large = [i for i, value in enumerate(values) if has_large(value)]
        form: Form = "as it is" if self.device == "cpu" else "on the host"
        for i, value in zip(large, self._bring([self.hand_out(parts[i], form) for i in large])):
            values[i] = value
        following = iter(values)
        return _visit(handles, lambda part: next(following))

    def ahead(self, sweep: int) -> int:
        return 1 if self._roomy and sweep % LINEAGE else 0

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

    def sites(self) -> list[Site]:
        """What each worker's GPU has free, and what shall be there."""
        sites = []
        for address, free in self._ask(free_memory).items():
            owned = tuple(m for m, owner in self.placement.owners.items() if owner == address)
            places = tuple(p for p in self.places if self.placement.holders[p] == address)
            # L has both directions of an edge, and a diagonal.
            edges = sum(2 * self._edges[m] + self._sizes[m] for m in owned if m in self._edges)
            sites.append(Site(f"worker {address}", free, owned, places, edges))
        return sites

    def where(self) -> Where:
        placement = self.placement
        holders = {shard.name: address for shard, address in placement.holders.items()}
        return Where(placement.workers, dict(placement.owners), holders)

    def close(self) -> None:
        """Free what the workers keep for this executor."""
        if not self._watch.scheduler_lost:
            self._client.unsubscribe_topic(self._topic)
            self._everywhere(forget, self._run, seconds=GOODBYE_SECONDS)

    def _place(self, workers: dict[str, dict[str, float]], *, strict: bool = False) -> Placement:
        self._checked = time.monotonic()
        placement = arrange(
            self._problem,
            self._counts,
            self.places,
            workers,
            self._spec,
            self._watch.names(),
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

    def _everywhere(self, function: Callable[..., Any], *args: Any, seconds: float) -> None:
        """Run a function on every worker, without trust in any."""
        futures = [
            self._client.submit(function, *args, workers=[address], pure=False)
            for address in self.placement.workers
        ]
        deadline = time.monotonic() + seconds
        for future in futures:
            try:
                future.exception(timeout=max(0.1, deadline - time.monotonic()))
            except (*LOSSES, RuntimeError):
                continue

    # Tasks.

    def _submit(
        self, name: str, address: str, load: tuple[Any, ...], step: Callable[..., Any], args: tuple[Any, ...]
    ) -> _Part:
        letter = _Letter(self, address)
        arguments = tuple(_visit(arg, letter.enclose) for arg in args)
        number = next(self.numbers)
        drop = self._drop(address)
        sent = tuple(letter.sent)
        order = Order(self._run, self._topic, name, number, drop, self.whole, load, step, arguments, sent)
        receipt = self._task(name, order, letter.given, address)
        for result in letter.reads:
            result.readers.append(receipt)
        for copy in letter.copies:
            copy.receipt = receipt
        return _Part(self.result(address, number, receipt))

    def _task(self, name: str, what: Order | Piece, given: list[Future], address: str) -> Future:
        """The future of a task that is sent with the next ones."""
        key = (name, f"{self._topic}-{self._run.attempt}", what.number)
        task = _Task(Future(key, self._client), what, given, address)
        self._outbox.append(task)
        return task.future

    def _send(self) -> None:
        """Send all tasks that wait to be, as one graph."""
        tasks, self._outbox = self._outbox, []
        if not tasks:
            return
        keys = [task.future.key for task in tasks]
        places = {task.future.key: task.address for task in tasks}
        try:
            # Each key's worker, asked for by the scheduler.
            with annotate(workers=places.__getitem__):
                self._client.map(
                    carry_out, [t.what for t in tasks], [t.given for t in tasks], key=keys, pure=False
                )
        except ClosedClientError:
            self._watch.workers()  # says that the scheduler is lost
            raise

    def hand_out(self, part: _Part, form: Form) -> Future:
        """A part of a large result as a task's own."""
        result = part.result
        piece = Piece(self._run, next(self.numbers), result.number, part.path, form)
        earlier = [] if _ended(result.receipt) else [result.receipt]
        return self._task("send", piece, earlier, result.address)

    def _bring(self, futures: list[Future]) -> list[Any]:
        """The values of futures, straight from the workers."""
        if not futures:
            return []
        self._send()
        bring = partial(self._client.gather, futures, direct=True)
        values: list[Any] = self._watch.result(bring, self.placement.workers)
        return values

    def result(self, address: str, number: int, receipt: Future | None = None) -> _Result:
        """A result that is dropped from its worker when nobody here knows of it any more."""
        result = _Result(address, number, receipt)
        finalize(result, self._garbage[address].append, (number, result.readers)).atexit = False
        return result

    def _drop(self, address: str) -> tuple[int, ...]:
        """Results on a worker that nobody will ask for again, all their readers having ended."""
        garbage = self._garbage[address]
        numbers = []
        for _ in range(len(garbage)):
            number, readers = garbage.popleft()
            if all(_ended(reader) for reader in readers):
                numbers.append(number)
            else:
                garbage.append((number, readers))
        return tuple(numbers)

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        _, record = event
        self.seconds[record["name"]] += record["seconds"]
        if record["bytes"]:
            self.received[record["name"]] += record["bytes"]


class _Letter:
    """The arguments of one step on their way to its worker."""

    def __init__(self, executor: DaskExecutor, address: str) -> None:
        self._executor = executor
        self._address = address
        self.given: list[Future] = []
        self.sent: list[int] = []  # those of them that come from elsewhere
        self.reads: list[_Result] = []
        self.copies: list[_Result] = []

    def enclose(self, part: _Part | Future) -> Any:
        """What stands for a part in the order, and what must come along."""
        if isinstance(part, Future):
            return self._sent(part, (), None)
        result = part.result
        if result.address == self._address:
            return self._kept(result, part.path)
        copy = result.copies.get((self._address, part.path))
        if isinstance(copy, _Result):
            return self._kept(copy, ())
        new = self._executor.result(self._address, next(self._executor.numbers)) if part.shared else None
        if new is not None:
            result.copies[self._address, part.path] = new
            self.copies.append(new)
        keep_as = None if new is None else new.number
        if isinstance(copy, _Sum) and keep_as is not None:
            factor, direction = self._kept(copy.factor, ()), self._kept(copy.direction, ())
            alpha = self.enclose(copy.alpha) if isinstance(copy.alpha, _Part) else copy.alpha
            return Moved(factor, direction, alpha, keep_as)
        if part.told and not has_large(value := _within(result.value, part.path)):
            return value  # it has been here, so this step depends on none before
        self.reads.append(result)
        if self._executor.whole or part.told:
            return self._sent(result.receipt, part.path, keep_as)
        form: Form = "as it is" if self._executor.device == "cpu" else "parcel"
        return self._sent(self._executor.hand_out(part, form), (), keep_as, packed=form == "parcel")

    def _sent(
        self, future: Future, path: tuple[Key, ...], keep_as: int | None, packed: bool = False
    ) -> Given:
        self.sent.append(len(self.given))
        self.given.append(future)
        return Given(self.sent[-1], path, keep_as, packed)

    def _kept(self, result: _Result, path: tuple[Key, ...]) -> Kept:
        self.reads.append(result)
        if result.receipt is not None and not _ended(result.receipt):
            self.given.append(result.receipt)
        return Kept(result.number, path)


def _visit(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value of lists and dicts with every part or future in it changed."""
    if isinstance(value, _Part | Future):
        return change(value)
    if isinstance(value, dict):
        return {name: _visit(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_visit(item, change) for item in value]
    return value


def _within(receipt: Any, path: tuple[Key, ...]) -> Any:
    """What a receipt says about a part of the result."""
    for key in path:
        if isinstance(receipt, Large):
            break
        receipt = part_of(receipt, (key,))
    return receipt


def _ended(future: Future) -> bool:
    return future.status != "pending"


def _hold(_: Array | None, value: Any, device: Device) -> Any:
    return held_on(device, value)


def _clients(dask_scheduler: Scheduler) -> list[str]:
    """Those that the scheduler knows; runs there."""
    return list(dask_scheduler.clients)
