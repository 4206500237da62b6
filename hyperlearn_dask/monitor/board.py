"""What a scheduler knows of a training, from the records it is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

RECENT = 20  # sweeps that means are of
POINTS = 2000  # of a curve; of a longer one every second is dropped
TOLD = 12  # the last things that happened
TRAININGS = 8  # remembered

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """A sweep on the curves."""

    sweep: int
    draw: bool
    objective: float | None
    step: float | None
    seconds: float


@dataclass(frozen=True)
class Load:
    """Means a sweep: seconds at work, and bytes given from elsewhere."""

    seconds: float = 0.0
    received: float = 0.0

    def __add__(self, other: Load) -> Load:
        return Load(self.seconds + other.seconds, self.received + other.received)


@dataclass
class Training:
    """One training, from its beginning until it ends."""

    data: str | None = None
    began: datetime | None = None
    ended: datetime | None = None
    outcome: str = ""  # in words, once it has ended
    entities: Mapping[str, int] = field(default_factory=dict)
    hyperedges: Mapping[str, int] = field(default_factory=dict)
    settings: Record = field(default_factory=dict)
    workers: tuple[str, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    holders: Mapping[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    told: deque[tuple[datetime, str]] = field(default_factory=lambda: deque(maxlen=TOLD))
    recent: deque[Record] = field(default_factory=lambda: deque(maxlen=RECENT))
    version: int = 0  # goes up with every record

    def hear(self, record: Record) -> None:
        """Take a record in; of a kind that is not known only its time and name."""
        self.version += 1
        now, event = datetime.fromisoformat(record["time"]), record["event"]
        if event in ("sweep", "draw"):
            self._swept(record)
            return
        if event == "started":
            self.began, self.data, self.settings = now, record["data"], record["settings"]
            self.entities, self.hyperedges = record["entities"], record["hyperedges"]
        if "where" in record:
            where = record["where"]
            self.workers = tuple(where["workers"])
            self.owners, self.holders = where["owners"], where["holders"]
            self.recent.clear()  # other workers have the steps now
        if event in ("finished", "stopped"):
            self.ended = now
            self.outcome = "finished" if event == "finished" else f"stopped: {record['why']}"
        self.told.append((now, _words(event, record)))

    def _swept(self, record: Record) -> None:
        draw = record["event"] == "draw"
        point = Point(record["sweep"], draw, record["objective"], record["step"], record["seconds"])
        while self.points and (self.points[-1].draw, self.points[-1].sweep) >= (draw, point.sweep):
            self.points.pop()  # done again after a loss
        self.points.append(point)
        if len(self.points) > POINTS:
            del self.points[1:-1:2]
        self.recent.append(record)

    @property
    def state(self) -> str:
        """Where it is, in words."""
        if not self.points:
            return self.outcome or "preparing the first sweep"
        last = self.points[-1]
        most = self.settings.get("sweeps")
        place = f"sweep {last.sweep}" + (f" of at most {most}" if most else "")
        if last.draw:
            draws = self.settings.get("draws", 0) + self.settings.get("burn_in", 0)
            place = f"posterior draw {last.sweep} of {draws}"
        return f"{place}, {self.outcome}" if self.outcome else place

    @property
    def seconds(self) -> float:
        """The mean of the last sweeps."""
        return sum(record["seconds"] for record in self.recent) / max(1, len(self.recent))

    def loads(self) -> dict[str, Load]:
        """The load of every modality and shard over the last sweeps, the mean of one."""
        found = {place: Load() for place in (*self.owners, *self.holders)}
        share = 1 / max(1, len(self.recent))
        for record in self.recent:
            for name, seconds in record["seconds_by"].items():
                if (place := place_of(name, self.owners, self.holders)) is not None:
                    found[place] += Load(seconds=seconds * share)
            for name, received in record["bytes_by"].items():
                if (place := place_of(name, self.owners, self.holders)) is not None:
                    found[place] += Load(received=received * share)
        return found

    def places_of(self, worker: str) -> list[str]:
        """The modalities and shards that a worker has."""
        return [place for place, at in {**self.owners, **self.holders}.items() if at == worker]


class Board:
    """The trainings that a scheduler was told of, the latest last."""

    def __init__(self) -> None:
        self.trainings: dict[str, Training] = {}

    def hear(self, run: str, record: Record) -> None:
        """Take in a record of a training, which is known by any name that is its own."""
        if run not in self.trainings:
            self.trainings[run] = Training()
            for old in list(self.trainings)[:-TRAININGS]:
                del self.trainings[old]
        self.trainings[run].hear(record)

    @property
    def latest(self) -> Training | None:
        """The training that began last."""
        return next(reversed(self.trainings.values()), None)


def place_of(step: str, modalities: Iterable[str], shards: Iterable[str]) -> str | None:
    """The modality or shard that a step works at, by its name; None of a step of neither.

    >>> place_of("solve-artist", ["artist"], ["made-0"])
    'artist'
    >>> place_of("normal-artist-made-0", ["artist"], ["made-0"])
    'made-0'
    """
    rest = step.partition("-")[2]
    if rest in modalities:
        return rest
    return next((s for s in sorted(shards, key=len, reverse=True) if f"-{step}".endswith(f"-{s}")), None)


def _words(event: str, record: Record) -> str:
    """A record for a person."""
    if event == "started":
        on = record["going_on_from"]
        return "started" if on is None else f"started, going on from {on}"
    if event in ("lost", "joined", "stopped"):
        return f"{event}: {record['why']}"
    if event == "recovered":
        return f"recovered, going on from {record['going_on_from']}"
    if event == "checkpoint":
        return f"checkpoint at {record['place']}"
    return event
