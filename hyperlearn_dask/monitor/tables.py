"""The words and tables of our page, as HTML."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from html import escape

from hyperlearn_dask.monitor.board import Load, Training

_CELL = "padding: 2px 12px 2px 0; text-align: left; vertical-align: top; font-weight: normal;"
_BAR = "display: inline-block; height: 9px; margin-right: 6px; border-radius: 2px;"
_BAR_PIXELS = 70
_COLUMNS = ("at work, a sweep", "received, a sweep")


def headline(training: Training, now: datetime) -> str:
    """Which sweep, how well, since when, of what."""
    facts = []
    if training.points:
        last = training.points[-1]
        facts += [] if last.objective is None else [f"objective {last.objective:,.6g}"]
        facts += [] if last.step is None else [f"step {last.step:.3g}"]
    if training.recent:
        facts.append(f"{training.seconds:.2g} s a sweep")
    facts.append(f"{len(training.workers)} worker{'s' * (len(training.workers) != 1)}")
    if training.began is not None:
        until = training.ended or now
        took = duration((until - training.began).total_seconds())
        when = f"began {training.began:%Y-%m-%d %H:%M:%S} UTC"
        facts.append(f"{when}, {f'took {took}' if training.ended else f'{took} ago'}")
    of = [f"{name} with {count:,} hyperedges" for name, count in training.hyperedges.items()]
    data = ", ".join(of) + (f", from {training.data}" if training.data else "")
    return title(f"HyperLearn: {training.state}") + line(" · ".join(facts)) + line(data)


def workers_table(training: Training) -> str:
    """Each worker with what it owns and holds, and its load."""
    loads = training.loads()
    totals = [sum((loads[place] for place in training.places_of(w)), Load()) for w in training.workers]
    rows = [
        [
            _short(worker),
            ", ".join(m for m, at in training.owners.items() if at == worker) or "-",
            ", ".join(s for s, at in training.holders.items() if at == worker) or "-",
        ]
        for worker in training.workers
    ]
    return _table("Workers", ["worker", "owns", "holds shards", *_COLUMNS], rows, totals)


def places_table(training: Training) -> str:
    """Each modality with its owner and each shard with its holder, and what they cost."""
    loads = training.loads()
    placed = {**training.owners, **training.holders}
    rows = [
        [
            place,
            f"{training.entities[place]:,} entities" if place in training.entities else "shard",
            _short(worker),
        ]
        for place, worker in placed.items()
    ]
    header = ["modality or shard", "", "on worker", *_COLUMNS]
    return _table("Modalities and shards", header, rows, [loads[place] for place in placed])


def told_table(training: Training) -> str:
    """The last things that happened, the latest first."""
    rows = [[f"{when:%H:%M:%S}", text] for when, text in reversed(training.told)]
    return _table("What happened (UTC)", ["", ""], rows, [])


def title(text: str) -> str:
    """A heading."""
    return f'<div style="font-size: 20px; font-weight: bold; margin: 4px 0;">{escape(text)}</div>'


def line(text: str) -> str:
    """A line of text."""
    return f'<div style="font-size: 14px; color: #444; margin: 2px 0;">{escape(text)}</div>'


def _table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], loads: Collection[Load]
) -> str:
    """A table whose last two columns are loads, if there are any, as bars beside the largest."""
    most = Load(max((x.seconds for x in loads), default=0), max((x.received for x in loads), default=0))
    cells = [[escape(cell) for cell in row] for row in rows]
    for row, load in zip(cells, loads):
        row.append(_bar(seconds(load.seconds), load.seconds, most.seconds, "#1f6f8b"))
        row.append(_bar(size(load.received), load.received, most.received, "#99582a"))
    heads = "".join(f'<th style="{_CELL} color: #777;">{escape(name)}</th>' for name in header)
    lines = ["".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) for row in cells]
    body = "".join(f"<tr>{line}</tr>" for line in (heads, *lines))
    return (
        f'<div style="font-size: 15px; font-weight: bold; margin: 8px 0 2px 0;">{escape(caption)}</div>'
        f'<table style="font-size: 13px; border-collapse: collapse;">{body}</table>'
    )


def _bar(text: str, value: float, most: float, colour: str) -> str:
    pixels = round(_BAR_PIXELS * value / most) if most else 0
    # A frame as long as the longest bar, so that numbers stand below each other.
    return (
        f'<span style="white-space: nowrap;">'
        f'<span style="display: inline-block; width: {_BAR_PIXELS + 6}px;">'
        f'<span style="{_BAR} width: {pixels}px; background: {colour};"></span></span>{escape(text)}</span>'
    )


def _short(address: str) -> str:
    """An address without its protocol."""
    return address.partition("://")[2] or address


def seconds(value: float) -> str:
    """A short time for a person.

    >>> seconds(0.0123), seconds(3.456), seconds(0)
    ('12.3 ms', '3.46 s', '0 ms')
    """
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def size(value: float) -> str:
    """Bytes for a person.

    >>> size(512), size(2048), size(3.5e6)
    ('512 B', '2.05 kB', '3.5 MB')
    """
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def duration(value: float) -> str:
    """A span for a person.

    >>> duration(42), duration(192), duration(7300)
    ('42 s', '3 min 12 s', '2 h 1 min')
    """
    whole = max(0, round(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
