"""The training display, on a terminal and without one."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from hyperlearn_dask.training.progress import TrainingProgress, duration, relative_change
from hyperlearn_dask.training.report import SweepReport


def report(sweep: int, objective: float) -> SweepReport:
    return SweepReport(
        sweep, objective, {"fit made": objective - 1, "ridge": 1.0}, 1.25, 0.5, {"artist": 0.3, "step": 0.1}
    )


def shown(*, terminal: bool, sweeps: int = 40, until: int = 25) -> str:
    file = io.StringIO()
    with TrainingProgress(Console(file=file, force_terminal=terminal, width=100), sweeps) as progress:
        for sweep in range(1, until + 1):
            progress(report(sweep, 1000.0 / sweep))
    return file.getvalue()


def test_without_a_terminal_there_is_a_line_every_few_sweeps_and_one_for_the_last() -> None:
    lines = shown(terminal=False).splitlines()
    assert [line.split(",")[0].strip() for line in lines] == [f"sweep {n}/40" for n in (1, 10, 20, 25)]
    assert "F 50 (-5 %)" in lines[2]
    assert "fit made 49, ridge 1, step 1.25, 0.5 s a sweep, at most 10 s left" in lines[2]


def test_the_first_sweep_says_nothing_of_the_time_left() -> None:
    """It compiles kernels and loads the shards."""
    file = io.StringIO()
    with TrainingProgress(Console(file=file, width=100), 11) as progress:
        progress(dataclasses.replace(report(1, 9.0), seconds=60.0))
        progress(report(10, 5.0))
    first, last = file.getvalue().splitlines()
    assert first.endswith("60 s a sweep")
    assert last.endswith("0.5 s a sweep, at most 0.5 s left")


def test_slow_sweeps_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperlearn_dask.training.progress.EVERY_SECONDS", 0.0)
    assert len(shown(terminal=False, until=5).splitlines()) == 5


def test_the_live_display_has_it_all() -> None:
    text = shown(terminal=True)
    for part in ("25 of at most 40", "objective", "fit made 39", "step length", "1.25", "artist 0.3", "8 s"):
        assert part in text.replace("7.5 s", "8 s")


def test_an_error_is_not_followed_by_a_late_line() -> None:
    file = io.StringIO()
    with pytest.raises(ValueError, match="boom"), TrainingProgress(Console(file=file), 9) as progress:
        for sweep in (1, 2):
            progress(report(sweep, 5.0))
        raise ValueError("boom")
    assert "sweep 2" not in file.getvalue()


def test_a_start_at_zero_has_no_relative_change() -> None:
    assert relative_change(0.0, 0.0) == "+0"
    assert relative_change(None, 3.0) == "first"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
