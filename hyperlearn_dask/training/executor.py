"""Where the steps of a sweep run: one interface, two short implementations.

A step is a pure function of the mathematics. It runs *at* a place, a modality (where the Laplacian
is) or a shard (where the entries are), and its result stays where it was made until another step or
:meth:`Executor.gather` asks for it.
"""

from __future__ import annotations

import operator
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Protocol

import numpy as np

from hyperlearn_dask.backend import Array, Device, array_module, each_array, to_device, to_host
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.grams import moved
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.shards import ContextShard, EntryShard, Shard, contexts_of, on_device
from hyperlearn_dask.factorization.streamed import StreamedShard
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.events import Where

HERE = "this process"
Handle = Any  # a value in process, what stands for one on a cluster
Key = str | tuple[int, int | None]  # of a part: a field's name, a dict's key, or first and last row


class Lost(Exception):
    """What workers kept is gone: what was done since the last safe point must be done again."""


class Joined(Lost):
    """What workers kept is given up, for there are more of them now."""


class SchedulerLost(InputError):
    """The scheduler does not answer: nothing goes on from here, but from a checkpoint elsewhere."""


@dataclass(frozen=True)
class ShardPlace:
    """Entries ``start`` to ``stop`` of a relation, or the contexts in them: some rows of its sort mode.

    It gives its part of F along a step and, if ``products``, those of all its modes; or, of a
    ``modality``, the products for that one alone.
    """

    relation: str
    number: int
    start: int
    stop: int
    first_row: int
    rows: int
    target_mode: int = -1  # of a shard of contexts
    sort_mode: int = 0
    stretch: int = 0  # shards of one stretch are for one worker
    products: bool = True
    modality: str = ""

    def reads(self, mode: int) -> tuple[int, int | None]:
        """The first and last row (exclusive) of a mode's factor that the shard has entries in."""
        return (self.first_row, self.first_row + self.rows) if mode == self.sort_mode else (0, None)

    @property
    def holds_contexts(self) -> bool:
        return self.target_mode >= 0

    @property
    def name(self) -> str:
        number = "whole" if self.modality else self.number
        return f"{self.relation}-{'contexts-' if self.holds_contexts else ''}{number}"

    @property
    def data(self) -> ShardPlace:
        """The same for all places with the same entries."""
        return replace(self, number=0, stretch=0, products=True, modality="")

    def contexts(self, target_mode: int) -> ShardPlace:
        """The place of the same rows' contexts."""
        return replace(self, target_mode=target_mode)

    def cut(self, tensor: SparseTensor, offset: float, dtype: str) -> Shard:
        """The shard out of the relation's entries from ``start`` to ``stop``."""
        # What need not change is not copied: the entries are the largest arrays there are.
        with np.errstate(over="ignore"):  # training begins by looking whether they are too large
            values = np.subtract(tensor.values, offset, dtype=np.float64) if offset else tensor.values
            values = values.astype(dtype, copy=False)
        own = replace(tensor.of_rows(self.first_row, self.first_row + self.rows), values=values)
        if not self.holds_contexts:
            return EntryShard(self.relation, own, self.first_row)
        # Contexts without the sort mode's rows count theirs from 0.
        first_row = 0 if self.target_mode == own.sort_mode else self.first_row
        return ContextShard(self.relation, contexts_of(own, self.target_mode), first_row)


@dataclass(frozen=True)
class Setting:
    """What every place must know to have its data ready."""

    dtype: str
    offsets: Mapping[str, float]  # per relation, subtracted from its values
    target_modes: Mapping[str, int]  # per relation with contexts, the mode they leave out
    device: Device = "cpu"  # where steps compute, and data and factors are kept


class Executor(Protocol):
    """Runs steps and remembers how long they took and what they were given from elsewhere.

    Everything but the attributes can raise :class:`Lost`, after which handles are worth nothing and
    :meth:`recover` must be called, if ``mortal``.
    """

    places: list[ShardPlace]
    seconds: dict[str, float]  # by step name, since they were last cleared
    received: dict[str, int]  # bytes from other workers, likewise
    mortal: bool  # whether anything can be lost
    device: Device  # where steps compute

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        """``step(laplacian or None, *args)``, where the modality is.

        Its rows may be in several places: a step of :data:`..steps.BY_ROWS` is then made at each.
        """
        ...

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        """``step(shard, *args)``, where the shard is."""
        ...

    def everywhere(self, name: str, step: Callable[..., Any], *args: Any, asked: bool = False) -> Handle:
        """``step(None, *args)`` of small values, made wherever it is read: it need not travel.

        ``asked``: it is going to be gathered as well.
        """
        ...

    def hold(self, name: str, modality: str, value: Any) -> Handle:
        """A handle of a value, where a modality is."""
        ...

    def settle(self, name: str, modality: str, handle: Handle) -> Handle:
        """Rows of a modality on the host, wherever they were made: where it is."""
        ...

    def pick(self, handle: Handle, key: Key) -> Handle:
        """A part of what a step gives: a field, an item of a dict."""
        ...

    def small(self, handle: Handle, nbytes: int) -> Handle:
        """The same; it is said to hold no array of more bytes, so it may travel with less ado."""
        ...

    def rows(self, handle: Handle, place: ShardPlace, mode: int) -> Handle:
        """What a shard needs of a factor or direction: of its sort mode only its rows."""
        ...

    def moved(
        self, name: str, modality: str, start: Handle, along: Handle, alpha: Handle, *, spent: bool = False
    ) -> Handle:
        """``start + alpha along``, also at the shards that have rows of ``along``.

        ``spent``: nobody asks for ``along`` again, and what there is of it may be overwritten.
        """
        ...

    def gather(self, handles: Any) -> Any:
        """The values of handles, in whatever lists and dicts they stand."""
        ...

    def ahead(self, sweep: int) -> int:
        """How many sweeps may be without a report once it has been given this one's steps."""
        ...

    def recover(self) -> None:
        """Be ready for new handles after something was lost."""
        ...

    def check(self) -> None:
        """Raise :class:`Lost` if it is worth placing everything anew, for workers have come or gone."""
        ...

    def where(self) -> Where:
        """Who does what."""
        ...

    def close(self) -> None:
        """Free what the places keep."""
        ...


def whole_places(hypergraph: Hypergraph, setting: Setting) -> list[ShardPlace]:
    """A place for all entries of each relation, and one for all contexts of each that has them."""
    whole = [
        ShardPlace(name, 0, 0, relation.nnz, 0, max(relation.shape), sort_mode=int(np.argmax(relation.shape)))
        for name, relation in hypergraph.relations.items()
    ]
    targets = setting.target_modes
    return whole + [p.contexts(targets[p.relation]) for p in whole if p.relation in targets]


def entry_places(executor: Executor) -> list[ShardPlace]:
    """Where the entries of every relation are, each once."""
    return [place for place in executor.places if not place.holds_contexts and not place.modality]


def held(executor: Executor, values: Mapping[str, Any]) -> dict[str, Handle]:
    """Handles of values, each where its modality is."""
    return {m: executor.hold(f"factor-{m}", m, value) for m, value in values.items()}


class LocalExecutor:
    """Everything in this process, at once; the kernels use all threads.

    ``streams``: the relations that are not held but read in every pass, and the shards they are read in.
    """

    def __init__(
        self,
        hypergraph: Hypergraph,
        setting: Setting,
        streams: Mapping[str, Sequence[ShardPlace]] | None = None,
    ) -> None:
        self.places = whole_places(hypergraph, setting)
        self.seconds: dict[str, float] = defaultdict(float)
        self.received: dict[str, int] = {}
        self.mortal = False
        self.device = setting.device
        self._modalities = tuple(hypergraph.modalities)
        self._laplacians = {
            m: to_device(laplacian_as(g.laplacian, setting.dtype), setting.device)
            for m, g in hypergraph.graphs.items()
        }
        self._hypergraph = hypergraph
        self._setting = setting
        self._shards = {place: self._shard(place, streams or {}) for place in self.places}

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        return self._timed(name, step, self._laplacians.get(modality), *args)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        return self._timed(name, step, self._shards[place], *args)

    def everywhere(self, name: str, step: Callable[..., Any], *args: Any, asked: bool = False) -> Handle:
        return self._timed(name, step, None, *args)

    def hold(self, name: str, modality: str, value: Any) -> Handle:
        return held_on(self.device, value)

    def settle(self, name: str, modality: str, handle: Handle) -> Handle:
        return held_on(self.device, handle)

    def pick(self, handle: Handle, key: Key) -> Handle:
        return part_of(handle, (key,))

    def small(self, handle: Handle, nbytes: int) -> Handle:
        return handle

    def rows(self, handle: Handle, place: ShardPlace, mode: int) -> Handle:
        return part_of(handle, (place.reads(mode),))

    def moved(
        self, name: str, modality: str, start: Handle, along: Handle, alpha: Handle, *, spent: bool = False
    ) -> Handle:
        return self._timed(f"{name}-{modality}", move, None, start, along, alpha, spent)

    def gather(self, handles: Any) -> Any:
        return handles if self.device == "cpu" else each_array(handles, to_host)

    def ahead(self, sweep: int) -> int:
        return 0

    def recover(self) -> None:
        pass

    def check(self) -> None:
        pass

    def where(self) -> Where:
        return Where(
            (HERE,), dict.fromkeys(self._modalities, HERE), dict.fromkeys((p.name for p in self.places), HERE)
        )

    def close(self) -> None:
        self._shards.clear()
        arrays.forget()

    def _shard(self, place: ShardPlace, streams: Mapping[str, Sequence[ShardPlace]]) -> Shard:
        """What is held of a place. Contexts without the sort mode run across all shards: they are held."""
        relation = self._hypergraph.relations[place.relation]
        if place.relation not in streams or place.target_mode == place.sort_mode:
            return self._cut(place, next(iter(relation.runs([0, relation.nnz]))))
        parts = [replace(part, target_mode=place.target_mode) for part in streams[place.relation]]
        return StreamedShard(
            partial(relation.runs, [parts[0].start, *(part.stop for part in parts)]),
            lambda number, entries: self._cut(parts[number], entries),
        )

    def _cut(self, place: ShardPlace, entries: SparseTensor) -> Shard:
        shard = place.cut(entries, self._setting.offsets[place.relation], self._setting.dtype)
        return on_device(shard, self.device)

    def _timed(self, name: str, step: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = step(*args)
        self.seconds[name] += time.perf_counter() - began
        return result


def held_on(device: Device, value: Any) -> Any:
    """A value from the host with its arrays on a device."""
    return value if device == "cpu" else each_array(value, partial(to_device, device=device))


def move(_: Array | None, start: Array, along: Array, alpha: float, spent: bool = False) -> Array:
    """A + alpha D."""
    return moved(start, alpha, along, spent=spent)


def together(values: Sequence[Any], *, rows: bool) -> Any:
    """What a step gave for parts of a modality: rows below each other, all else added up in that order."""
    if rows:
        return array_module(*values).concatenate(values)
    return reduce(operator.add, values)


def part_of(value: Any, path: tuple[Key, ...]) -> Any:
    """What is found in a value along a path of fields, items and rows."""
    for key in path:
        if isinstance(key, tuple):
            value = value[slice(*key)]
        else:
            value = value[key] if isinstance(value, dict) else getattr(value, key)
    return value


def laplacian_as(laplacian: Array, dtype: str) -> Array:
    """A Laplacian in the dtype of the factors, without a copy where it has it already."""
    return laplacian.astype(dtype, copy=False)
