"""The worker's side of training: what a worker keeps, and how it runs a step.

What a step makes stays in the worker's memory; Dask is given a *receipt*, the result without whatever
is large. So nothing large is in the scheduler's books, and what a worker has lost is noticed
(:class:`~hyperlearn_dask.training.executor.Lost`) instead of being made again from far back.
"""

from __future__ import annotations

import dataclasses
import threading
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from distributed import Worker, get_worker

from hyperlearn_dask.backend import (
    Array,
    Device,
    check_device,
    each_array,
    memory_in_one_line,
    synchronize,
    to_device,
    to_host,
)
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.shards import Shard, on_device
from hyperlearn_dask.hypergraph.store import read_entries, read_graph
from hyperlearn_dask.monitor.gauges import count_step
from hyperlearn_dask.training.executor import (
    Key,
    Lost,
    ShardPlace,
    laplacian_as,
    move,
    part_of,
    together,
)
from hyperlearn_dask.training.workers.parcels import pack, unpack

# Arrays up to this size ride in receipts and orders.
SMALL = 1 << 16

# Between events of what steps took: each costs the scheduler and the client as much as a small task.
TOLD_SECONDS = 0.1

# How a result travels: between workers of the CPU, between workers with devices, to the client.
Form = Literal["as it is", "parcel", "on the host"]


@dataclass(frozen=True)
class Run:
    """A training as workers know it: whose it is, and how often it was placed anew."""

    client: str
    number: int
    attempt: int


@dataclass(frozen=True)
class Kept:
    """An argument that the worker has: part of an earlier result."""

    number: int
    path: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Given:
    """An argument that comes with the step, from another worker; kept under a number if there is one."""

    at: int
    item: int | None = None  # of what a bundle gives
    path: tuple[Key, ...] = ()
    keep_as: int | None = None
    packed: bool = False  # as a parcel


@dataclass(frozen=True)
class Moved:
    """Rows that the worker can make itself: ``start + alpha along``."""

    start: Kept | Given
    along: Kept
    alpha: float | Kept | Given
    keep_as: int


@dataclass(frozen=True)
class Together:
    """What the parts of a modality gave: see :func:`..executor.together`."""

    parts: tuple[Any, ...]
    rows: bool


@dataclass(frozen=True)
class Order:
    """One step, with everything but what comes from other workers."""

    run: Run
    topic: str
    name: str
    number: int  # under which the result is kept
    drop: tuple[int, ...]  # results nobody will ask for again
    whole: bool  # whether the receipt is the whole result, large or not
    load: tuple[Any, ...]  # a function and its arguments, for the step's data
    step: Callable[..., Any]
    args: tuple[Any, ...]
    sent: tuple[tuple[int, int | None], ...] = ()  # all that comes along, as in Given


@dataclass(frozen=True)
class Piece:
    """Part of an earlier result, to be handed out to another worker or the client."""

    run: Run
    result: int
    path: tuple[Key, ...]
    form: Form
    name: str = "send"


@dataclass(frozen=True)
class Work:
    """The steps and pieces of a task, and for each the places of what it is given; Dask does not look."""

    what: list[Order | Piece]
    given: list[list[int]]


@dataclass
class Memory:
    """What a worker keeps for one training."""

    attempt: int
    results: dict[int, Any] = field(default_factory=dict)
    data: dict[Any, Any] = field(default_factory=dict)  # shards and Laplacians, by where they are from
    spent: list[dict[str, Any]] = field(default_factory=list)  # by steps, and not told yet
    told: float = 0.0  # when it was told last

    def load(self, function: Callable[..., Any], *what: Any) -> Any:
        """The data of a step, read when it is first asked for."""
        if (function, what) not in self.data:
            self.data[function, what] = function(*what)
        return self.data[function, what]

    def get(self, number: int) -> Any:
        """An earlier result."""
        if number not in self.results:
            raise Lost("a worker has started again and lost what it had")
        return self.results[number]


class _Over(Exception):
    """A step comes of a training that is over: it was ahead of what was asked for."""


@dataclass
class _Desk:
    """A worker's memories, by training, and whether it is at work: a step has all of its cores."""

    busy: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    memories: dict[tuple[str, int], Memory] = field(default_factory=dict)
    over: set[tuple[str, int]] = field(default_factory=set)  # trainings that steps may still come of


_desks: WeakKeyDictionary[Worker, _Desk] = WeakKeyDictionary()


def desk_of(worker: Worker) -> _Desk:
    """What a worker keeps."""
    return _desks.setdefault(worker, _Desk())


def carry_out(work: Work, came: list[Any]) -> list[Any] | None:
    """The task of a bundle: what becomes of each of its steps for Dask and for whoever depends on it.

    ``came``: what comes from other workers, and what is only waited for.
    """
    worker = get_worker()
    desk = desk_of(worker)
    try:
        found = []
        for what, places in zip(work.what, work.given):
            if isinstance(what, Piece):
                found.append(_piece(what, worker, desk))
                continue
            result, took = _step(what, [came[at] for at in places], desk, worker.state.nthreads)
            _tell(what, took, worker, desk)
            found.append(result if what.whole else receipt_of(result))
            del result
        return found
    except _Over:
        return None


def _tell(order: Order, took: Spent, worker: Worker, desk: _Desk) -> None:
    """Say what a step took, or keep it for the next time."""
    count_step(order.name, took.seconds, took.bytes)
    step = {"name": order.name, "seconds": took.seconds, "cpu": took.cpu, "bytes": took.bytes}
    with desk.busy:
        memory = _memory(desk, order.run)
        memory.spent.append(step)
        if time.monotonic() < memory.told + TOLD_SECONDS:
            return
        steps, memory.spent, memory.told = memory.spent, [], time.monotonic()
    worker.log_event(order.topic, {"steps": steps})


def tell_at_once() -> None:
    """Have this worker say what each step took when it is done, for measurements."""
    global TOLD_SECONDS
    TOLD_SECONDS = 0.0


def _piece(what: Piece, worker: Worker, desk: _Desk) -> Any:
    part = part_of(_memory(desk, what.run).get(what.result), what.path)
    if what.form == "parcel":
        return pack(part, device_memory=worker.address.startswith("ucx"))
    return each_array(part, to_host) if what.form == "on the host" else part


@dataclass(frozen=True)
class Spent:
    """What a step took.

    ``cpu``: seconds its thread computed; with one thread per worker, ``seconds`` less the wait for a
    core. ``bytes``: that came from elsewhere.
    """

    seconds: float
    cpu: float
    bytes: int


def _step(order: Order, given: list[Any], desk: _Desk, threads: int) -> tuple[Any, Spent]:
    """Run a step and keep its result; that, and what it took."""
    kernels.limit_threads(threads)
    with desk.busy:
        memory = _memory(desk, order.run)
        for number in order.drop:
            memory.results.pop(number, None)
        # Dask may ask again; what a step has overwritten is not there twice.
        if order.number in memory.results:
            return memory.results[order.number], Spent(0.0, 0.0, 0)
        came = {(id(given[at]), item): _item(given[at], item) for at, item in order.sent}
        received = sum(map(size_of, came.values()))
        del came
        with memory_in_one_line():
            data = memory.load(*order.load)
            began, cpu_began = time.perf_counter(), time.thread_time()
            args = [_value(arg, given, memory) for arg in order.args]
        try:
            with memory_in_one_line():
                result = order.step(data, *args)
                synchronize()  # what goes wrong on a device shall do so here, and take its time here
        except Exception as error:
            # The traceback stays as long as the future; what its frames hold must not.
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            del data, args
        spent = Spent(time.perf_counter() - began, time.thread_time() - cpu_began, received)
        memory.results[order.number] = result
    return result, spent


def worker_device(device: Device) -> str | None:
    """Why this worker cannot compute on a device, or None."""
    try:
        check_device(device)
    except InputError as error:
        return error.problem
    return None


def greet(clients: Collection[str]) -> None:
    """Free what is kept for clients that are no more."""
    desk = desk_of(get_worker())
    for client, number in list(desk.memories):
        if client not in clients:
            del desk.memories[client, number]
    desk.over = {training for training in desk.over if training[0] in clients}


def keep_only(run: Run, loads: Collection[tuple[Any, ...]]) -> None:
    """Free the data of a training that others have now; ``loads``: what this worker's is read by."""
    desk = desk_of(get_worker())
    wanted = {(load[0], load[1:]) for load in loads}
    with desk.busy:
        memory = _memory(desk, run)
        memory.data = {key: data for key, data in memory.data.items() if key in wanted}


def forget(run: Run) -> None:
    """Free what is kept for a training."""
    desk = desk_of(get_worker())
    with desk.busy:
        desk.over.add((run.client, run.number))
        desk.memories.pop((run.client, run.number), None)
    arrays.forget()


def _memory(desk: _Desk, run: Run) -> Memory:
    if (run.client, run.number) in desk.over:
        raise _Over
    memory = desk.memories.setdefault((run.client, run.number), Memory(run.attempt))
    if memory.attempt > run.attempt:
        raise Lost("this step belongs to an attempt that was given up")
    if memory.attempt < run.attempt:
        memory.attempt = run.attempt
        memory.results.clear()
    return memory


def _value(arg: Any, given: list[Any], memory: Memory) -> Any:
    if isinstance(arg, Kept):
        return part_of(memory.get(arg.number), arg.path)
    if isinstance(arg, Given):
        value = _item(given[arg.at], arg.item)
        value = part_of(unpack(value) if arg.packed else value, arg.path)
        if arg.keep_as is not None:
            memory.results[arg.keep_as] = value
        return value
    if isinstance(arg, Moved):
        start, along, alpha = (_value(part, given, memory) for part in (arg.start, arg.along, arg.alpha))
        value = memory.results[arg.keep_as] = move(None, start, along, alpha)
        return value
    if isinstance(arg, Together):
        return together([_value(part, given, memory) for part in arg.parts], rows=arg.rows)
    if isinstance(arg, dict):
        return {name: _value(value, given, memory) for name, value in arg.items()}
    if isinstance(arg, list):
        return [_value(value, given, memory) for value in arg]
    return arg


def _item(given: Any, item: int | None) -> Any:
    """What a step is given, out of all that a bundle gave."""
    return given if item is None else given[item]


@dataclass(frozen=True)
class Large:
    """In a receipt, in the place of what stayed on the worker."""


def receipt_of(result: Any) -> Any:
    """A result with :class:`Large` in the place of every large array."""
    if isinstance(result, np.ndarray):
        return result if result.nbytes <= SMALL else Large()
    if isinstance(result, dict):
        return {name: receipt_of(value) for name, value in result.items()}
    if isinstance(result, list | tuple):
        return type(result)(receipt_of(value) for value in result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        names = [f.name for f in dataclasses.fields(result)]
        return dataclasses.replace(result, **{name: receipt_of(getattr(result, name)) for name in names})
    return result if isinstance(result, int | float | str | bool | None) else Large()


def has_large(value: Any) -> bool:
    """Whether something was left out of a receipt."""
    if isinstance(value, dict):
        return any(has_large(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(has_large(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Large):
        return any(has_large(getattr(value, f.name)) for f in dataclasses.fields(value))
    return isinstance(value, Large)


def size_of(value: Any) -> int:
    """The bytes of all arrays in a value, and of its numbers."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(size_of(part) for part in value.values())
    if isinstance(value, list | tuple):
        return sum(size_of(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 8 if isinstance(value, int | float) else 0


def read_shard(path: str, place: ShardPlace, digest: str, offset: float, dtype: str, device: Device) -> Shard:
    """The shard, as long as the store has the relation with this digest."""
    rows = place.first_row, place.first_row + place.rows
    entries = read_entries(path, place.relation, place.start, place.stop, digest, rows)
    return on_device(place.cut(entries, offset, dtype), device)


def read_laplacian(path: str, modality: str, digest: str | None, dtype: str, device: Device) -> Array | None:
    """The Laplacian, as long as the store has it with this digest; None where there is none."""
    if digest is None:
        return None
    return to_device(laplacian_as(read_graph(path, modality, digest).laplacian, dtype), device)
