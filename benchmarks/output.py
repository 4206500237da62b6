"""What every benchmark prints and writes: a table, and rows of one figure each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from hyperlearn_dask.errors import InputError

Detail = str | int | float | None


@dataclass(frozen=True)
class Row:
    """One figure. ``value`` is None for a method that could not run; ``details`` then says why.

    ``spread``: half the range over the seeds, None for a single run; ``seconds``: of fitting, one run.
    """

    benchmark: str
    data: str
    task: str
    method: str
    metric: str
    value: float | None
    spread: float | None = None
    seeds: int = 1
    seconds: float | None = None
    details: dict[str, Detail] = field(default_factory=dict)

    def flat(self) -> dict[str, Detail]:
        """The row as it is written."""
        fields = ("benchmark", "data", "task", "method", "metric", "value", "spread", "seeds", "seconds")
        return {name: getattr(self, name) for name in fields} | self.details


def row_of_runs(row: Row, values: Sequence[float | None], seconds: Sequence[float]) -> Row:
    """A row with the mean, spread and time of several runs filled in."""
    known = [value for value in values if value is not None]
    return Row(
        row.benchmark,
        row.data,
        row.task,
        row.method,
        row.metric,
        sum(known) / len(known) if known else None,
        (max(known) - min(known)) / 2 if len(known) > 1 else None,
        len(values),
        sum(seconds) / len(seconds),
        row.details,
    )


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write ``{"rows": [...]}``."""
    text = json.dumps({"rows": [row.flat() for row in rows]}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def report(rows: Iterable[Row], path: Path | None) -> None:
    """Write rows as they come, if wanted, and print all at the end; wrong input is one line."""
    known: list[Row] = []
    try:
        for row in rows:
            known.append(row)
            if path is not None:
                write_rows(known, path)
    except (InputError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(table(known))


def table(rows: Sequence[Row]) -> str:
    """The rows as text: a line per task and method, a column per metric."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault((row.task, row.method), {"task": row.task, "method": row.method})
        if row.value is None:
            line["note"] = str(row.details.get("note", "no figure"))
            continue
        line[row.metric] = f"{row.value:.4f}" + ("" if row.spread is None else f" ±{row.spread:.4f}")
        if row.seconds is not None:
            line["seconds"] = f"{row.seconds:.1f}"
    columns = ["task", "method", *metrics, "seconds", "note"]
    used = [c for c in columns if c == "method" or any(c in line for line in lines.values())]
    cells = [used] + [[line.get(c, "") for c in used] for line in lines.values()]
    widths = [max(len(row[c]) for row in cells) for c in range(len(used))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in cells)
