"""What training tells about itself as it goes: events, and the plain records that others read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from hyperlearn_dask.training.report import SweepReport


@dataclass(frozen=True)
class Where:
    """Who does what: the owner of every modality and the holder of every shard, among ``workers``."""

    workers: tuple[str, ...]
    owners: Mapping[str, str]
    holders: Mapping[str, str]


@dataclass(frozen=True)
class Started:
    """Training begins, anew or from a checkpoint (``going_on_from``).

    ``entities`` per modality, ``hyperedges`` per relation, ``data``: the store they are read from.
    """

    kind: ClassVar[str] = "started"
    data: str | None
    entities: Mapping[str, int]
    hyperedges: Mapping[str, int]
    settings: Mapping[str, Any]
    going_on_from: str | None
    where: Where


@dataclass(frozen=True)
class WorkersLost:
    """Workers are gone or hang."""

    kind: ClassVar[str] = "lost"
    why: str


@dataclass(frozen=True)
class WorkersJoined:
    """Workers have come: everything is placed anew."""

    kind: ClassVar[str] = "joined"
    why: str


@dataclass(frozen=True)
class Recovered:
    """Training goes on from its last safe point, on the workers that are there."""

    kind: ClassVar[str] = "recovered"
    going_on_from: str
    where: Where


@dataclass(frozen=True)
class CheckpointWritten:
    """The state of training is on disk."""

    kind: ClassVar[str] = "checkpoint"
    path: str
    place: str


@dataclass(frozen=True)
class Finished:
    """Training has come to its end."""

    kind: ClassVar[str] = "finished"
    sweeps: int
    draws: int
    objective: float
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """Training was interrupted or has failed."""

    kind: ClassVar[str] = "stopped"
    why: str


Event = (
    Started | SweepReport | WorkersLost | WorkersJoined | Recovered | CheckpointWritten | Finished | Stopped
)
OnEvent = Callable[[Event], None]


def record(event: Event) -> dict[str, Any]:
    """An event as plain values, with the time it happened at and what it is.

    >>> record(Stopped("interrupted"))["event"]
    'stopped'
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "event": event.kind, **_plain(dataclasses.asdict(event))}


def _plain(value: Any) -> Any:
    """A value that JSON has: lists for tuples, null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):  # of NumPy's too
        return float(value) if math.isfinite(value) else None
    return value
