"""What a person sees while training runs: a live display, or plain lines where there is no terminal."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hyperlearn_dask.training.report import SweepReport

EVERY_SWEEPS = 10  # a plain line at least so often ...
EVERY_SECONDS = 5.0  # ... or after so long
_RECENT = 20  # sweeps that the remaining time is judged by
_PLACES_SHOWN = 8


class TrainingProgress:
    """An ``on_sweep`` callback that shows every :class:`SweepReport` on a console.

    Parameters
    ----------
    console
        Where to show it; the display is live if this is a terminal.
    sweeps
        How many sweeps there are at most; training may converge before.
    """

    def __init__(self, console: Console, sweeps: int) -> None:
        self._console = console
        self._sweeps = sweeps
        self._objective: float | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._seconds_by: dict[str, float] = {}
        self._last: str | None = None  # a plain line not shown yet
        self._shown = time.monotonic()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> TrainingProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._last is not None and kind is None:
            self._say(self._last)

    def __call__(self, report: SweepReport) -> None:
        change = relative_change(self._objective, report.objective)
        if self._objective is not None:  # the first compiles and loads, so it says nothing of the others
            self._recent.append(report.seconds)
        self._objective = report.objective
        for name, seconds in report.seconds_by.items():
            self._seconds_by[name] = self._seconds_by.get(name, 0.0) + seconds
        usual = sum(self._recent) / len(self._recent) if self._recent else report.seconds
        left = f"at most {duration((self._sweeps - report.sweep) * usual)}" if self._recent else ""
        if self._live is not None:
            self._live.update(self._table(report, change, usual, left), refresh=True)
            return
        self._last = self._line(report, change, left)
        due = report.sweep == 1 or report.sweep % EVERY_SWEEPS == 0 or report.sweep == self._sweeps
        if due or time.monotonic() - self._shown >= EVERY_SECONDS:
            self._say(self._last)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)
        self._last, self._shown = None, time.monotonic()

    def _line(self, report: SweepReport, change: str, left: str) -> str:
        parts = [f"sweep {report.sweep}/{self._sweeps}", f"F {report.objective:,.6g} ({change})"]
        parts += [f"{name} {value:,.4g}" for name, value in report.parts.items()]
        if report.step is not None:
            parts.append(f"step {report.step:.3g}")
        if report.validation is not None:
            parts.append(f"validation {_judged(report)}")
        parts += [f"{report.seconds:.2g} s a sweep", *([f"{left} left"] if left else [])]
        return "  " + ", ".join(parts)

    def _table(self, report: SweepReport, change: str, usual: float, left: str) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(style="bold")
        table.add_column()
        table.add_row("sweep", f"{report.sweep} of at most {self._sweeps}")
        table.add_row("objective", f"{report.objective:,.6g}  {change}")
        table.add_row("its parts", "  ".join(f"{name} {value:,.4g}" for name, value in report.parts.items()))
        if report.step is not None:
            table.add_row("step length", f"{report.step:.3g}")
        if report.validation is not None:
            table.add_row("validation", _judged(report))
        longest = sorted(by_place(self._seconds_by).items(), key=lambda item: -item[1])[:_PLACES_SHOWN]
        steps = "  ".join(f"{place} {seconds / report.sweep:.2g}" for place, seconds in longest)
        table.add_row("s a sweep", f"{usual:.2g}  ({steps})")
        table.add_row("time left", left or "-")
        return table


def _judged(report: SweepReport) -> str:
    return f"{report.validation:.4f}{' (best)' if report.best else ''}"


def by_step(seconds_by: Mapping[str, float]) -> dict[str, float]:
    """Seconds by step, the shards of a relation taken together.

    >>> by_step({"mttkrp-made-0": 1.0, "mttkrp-made-1": 2.0, "solve-artist": 4.0})
    {'mttkrp-made': 3.0, 'solve-artist': 4.0}
    """
    total: dict[str, float] = {}
    for name, seconds in seconds_by.items():
        step = re.sub(r"-\d+$", "", name)
        total[step] = total.get(step, 0.0) + seconds
    return total


def by_place(seconds_by: Mapping[str, float]) -> dict[str, float]:
    """Seconds by modality or relation, whatever was done there.

    >>> by_place({"solve-artist": 4.0, "gram-artist": 1.0, "line-made-0": 2.0})
    {'artist': 5.0, 'made': 2.0}
    """
    total: dict[str, float] = {}
    for step, seconds in by_step(seconds_by).items():
        place = step.partition("-")[2] or step
        total[place] = total.get(place, 0.0) + seconds
    return total


def relative_change(before: float | None, now: float) -> str:
    """The fall of F as a fraction of what it was, for a person.

    >>> relative_change(200.0, 199.0)
    '-0.5 %'
    """
    if before is None:
        return "first"
    return f"{100 * (now - before) / abs(before):+.2g} %" if before else f"{now - before:+.2g}"


def duration(seconds: float) -> str:
    """A time span for a person.

    >>> duration(0.4), duration(75), duration(7300)
    ('0.4 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
