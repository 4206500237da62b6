"""What stands on the driver for results on workers: parts of them, and what the parts of a modality gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np
from distributed import Future

from hyperlearn_dask.training.executor import Key, ShardPlace, part_of
from hyperlearn_dask.training.workers.on_worker import Large
from hyperlearn_dask.training.workers.outbox import Bundle

UNKNOWN = Large()  # of a receipt that is not here


@dataclass(eq=False)
class Result:
    """A result on a worker: under which number, and the place of its receipt in what a bundle gives.

    ``leads``: whether steps that read it may go with what makes it, see :mod:`.outbox`; ``value``: the
    receipt itself once it is here, so that nobody asks for it again; ``readers``: the bundles of the steps
    that read it, after which it may be dropped; ``copies``: rows of it that other workers have, by address
    and path; ``place``: the shard that it is of.
    """

    address: str
    number: int
    receipt: Bundle | None = None
    item: int = 0
    leads: bool = False
    value: Any = UNKNOWN
    readers: list[Bundle] = field(default_factory=list)
    copies: dict[tuple[str, tuple[Any, ...]], Result | Sum] = field(default_factory=dict)
    place: ShardPlace | None = None

    @property
    def made_in(self) -> Bundle:
        assert self.receipt is not None, "copies are read where they are"
        return self.receipt


@dataclass(eq=False)
class Sum:
    """Rows of ``start + alpha along`` that a worker can make itself: it has those of the latter."""

    start: Part
    along: Result
    alpha: Part | Anywhere | float


@dataclass(frozen=True)
class Part:
    """What a step is given and gives: (part of) a result.

    ``shared``: its readers shall keep a copy; ``told``: it is in the receipt, so small is it.
    """

    result: Result
    path: tuple[Key, ...] = ()
    shared: bool = False
    told: bool = False

    def pick(self, key: Key) -> Part:
        return Part(self.result, (*self.path, key))


@dataclass(frozen=True)
class Split:
    """What a step gave for each part of a modality.

    ``kind``: whether these are ``rows``, which belong below each other, a ``sum``'s summands, or have
    ``fields``, of which those of ``by_rows`` are rows and the others summands. ``firsts``: the first row
    of each, counted from that of the first.
    """

    parts: tuple[Part, ...]
    firsts: tuple[int, ...]
    kind: Literal["rows", "sum", "fields"]
    by_rows: tuple[str, ...] = ()

    def pick(self, key: Key) -> Split:
        kind = self.kind
        if kind == "fields":
            kind = "rows" if key in self.by_rows else "sum"
        return replace(self, parts=tuple(part.pick(key) for part in self.parts), kind=kind)

    def rows(self, first: int, stop: int | None) -> Part | Split:
        """Some of its rows."""
        found, firsts = [], []
        for part, start, end in zip(self.parts, self.firsts, [*self.firsts[1:], None]):
            if (end is None or first < end) and (stop is None or start < stop):
                last = None if stop is None or (end is not None and end <= stop) else stop - start
                firsts.append(max(first, start) - first)
                found.append(replace(part.pick((max(first - start, 0), last)), shared=True))
        return found[0] if len(found) == 1 else Split(tuple(found), tuple(firsts), "rows")


@dataclass(frozen=True)
class Anywhere:
    """What a step gave on every worker, by address, or on one of them alone.

    ``asked``: the same, made by itself for whoever asks for it.
    """

    parts: Mapping[str, Part]
    asked: Part

    def pick(self, key: Key) -> Anywhere:
        return Anywhere(
            {address: part.pick(key) for address, part in self.parts.items()}, self.asked.pick(key)
        )

    def at(self, address: str) -> Part:
        """What to read on a worker."""
        return self.parts.get(address, self.asked)


Handles = Part | Split | Anywhere | Future


def visit(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value of lists and dicts with every handle in it changed."""
    if isinstance(value, Handles):
        return change(value)
    if isinstance(value, dict):
        return {name: visit(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [visit(item, change) for item in value]
    return value


def parts_in(values: Any) -> list[Part]:
    """All parts in a value of lists and dicts, one after the other."""
    found: list[Part] = []
    visit(values, lambda one: found.extend(_parts_of(one)))
    return found


def _parts_of(handle: Part | Split | Anywhere) -> Sequence[Part]:
    if isinstance(handle, Anywhere):
        return [handle.asked]
    return handle.parts if isinstance(handle, Split) else [handle]


def share(arg: Any, number: int, modality: str, mode_of: Callable[[str], int], rows: tuple[int, int]) -> Any:
    """What a step of one part of a modality is given of an argument: its part of all that has rows.

    ``mode_of``: a relation's mode for the modality; ``rows``: the first and last (exclusive) of the part.
    """
    if isinstance(arg, Split):
        return arg if arg.kind == "sum" else arg.parts[number]
    if isinstance(arg, Part):
        of_shard = arg.result.place is not None and arg.path == (modality,)
        return arg.pick(rows) if of_shard else arg
    if isinstance(arg, dict):
        return {name: share(item, number, modality, mode_of, rows) for name, item in arg.items()}
    if isinstance(arg, list):
        own = [item for item in arg if not _has_none_of(item, modality, mode_of, rows)]
        return [share(item, number, modality, mode_of, rows) for item in own]
    return arg


def _has_none_of(arg: Any, modality: str, mode_of: Callable[[str], int], rows: tuple[int, int]) -> bool:
    """Whether this is a product for other rows of the modality than these."""
    place = arg.result.place if isinstance(arg, Part) and arg.path == (modality,) else None
    if place is None:
        return False
    first, stop = place.reads(mode_of(place.relation))
    return first >= rows[1] or (stop is not None and stop <= rows[0])


def rows_of(value: Any, first: int, stop: int) -> Any:
    """Some rows of an array, or of every array of a dataclass."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value)}
        arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
        return replace(value, **{name: part[first:stop] for name, part in arrays.items()})
    return value[first:stop]


def within(receipt: Any, path: Sequence[Key]) -> Any:
    """What a receipt says about a part of the result."""
    for key in path:
        if isinstance(receipt, Large):
            break
        receipt = part_of(receipt, (key,))
    return receipt
