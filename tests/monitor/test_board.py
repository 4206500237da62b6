"""What the page shows follows from the records, whatever order of losses and lengths they come in."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from hyperlearn_dask.monitor.board import RECENT, TRAININGS, Board, Training
from hyperlearn_dask.monitor.curves import curves
from hyperlearn_dask.monitor.page import Page
from hyperlearn_dask.monitor.tables import headline, workers_table
from hyperlearn_dask.training.events import Finished, Recovered, Started, Stopped, Where, WorkersLost, record
from hyperlearn_dask.training.report import SweepReport

FIRST = Where(("tcp://h:1", "tcp://h:2"), {"a": "tcp://h:1", "b-c": "tcp://h:2"}, {"made-0": "tcp://h:2"})
ALONE = Where(("tcp://h:2",), dict.fromkeys(["a", "b-c"], "tcp://h:2"), {"made-0": "tcp://h:2"})


def started(**changes):
    given = {"data": "h.zarr", "entities": {"a": 40, "b-c": 25}, "hyperedges": {"made": 300}}
    settings = {"sweeps": 50, "draws": 6, "burn_in": 2}
    return Started(**{**given, "settings": settings, "going_on_from": None, "where": FIRST, **changes})


def sweep(number, objective=1.0, step=0.5, seconds_by=None, bytes_by=None):
    return SweepReport(number, objective, {}, step, 0.25, seconds_by or {}, bytes_by or {})


def told(*events):
    training = Training()
    for event in events:
        training.hear(record(event))
    return training


def test_seconds_and_bytes_are_those_of_places_and_their_workers():
    steps = {"solve-a": 1.0, "step-b-c": 2.0, "mttkrp-made-0": 4.0, "normal-b-c-made-0": 8.0, "squares": 99.0}
    training = told(
        started(), *(sweep(n, seconds_by=steps, bytes_by={"solve-a": 1000 * n}) for n in range(1, 31))
    )
    loads = training.loads()
    assert {place: load.seconds for place, load in loads.items()} == pytest.approx(
        {"a": 1, "b-c": 2, "made-0": 12}
    )
    last = range(31 - RECENT, 31)
    assert loads["a"].received == pytest.approx(1000 * sum(last) / len(last))
    table = workers_table(training)
    assert table.index("h:1") < table.index("1 s") < table.index("20.5 kB") < table.index("h:2")
    assert "14 s" in table.partition("h:2")[2]


def test_sweeps_done_again_after_a_loss_count_once_and_means_begin_anew():
    before = [sweep(n, seconds_by={"solve-a": 1.0}) for n in (1, 2, 3)]
    after = [sweep(n, 2.0, seconds_by={"solve-a": 5.0}) for n in (2, 3)]
    training = told(started(), *before, WorkersLost("one is gone"), Recovered("sweep 1", ALONE), *after)
    assert [(p.sweep, p.objective) for p in training.points] == [(1, 1.0), (2, 2.0), (3, 2.0)]
    assert training.loads()["a"].seconds == 5.0
    assert training.workers == ("tcp://h:2",)
    happened = [text for _, text in training.told]
    assert happened == ["started", "lost: one is gone", "recovered, going on from sweep 1"]


def test_draws_stand_behind_the_sweeps_and_what_no_logarithm_has_is_left_out():
    training = told(
        started(), sweep(1, 8.0), sweep(2, 4.0), sweep(1, 5.0, None), sweep(2, float("nan"), None)
    )
    columns = curves(training.points)
    assert columns["sweep"] == [1, 2, 3, 4]
    assert columns["fall"][1] == 1.0
    assert [math.isnan(x) for x in columns["fall"]] == [True, False, True, True]
    assert [math.isnan(x) for x in columns["step"]] == [False, False, True, True]
    assert training.state == "posterior draw 2 of 8"


def test_a_long_training_keeps_its_shape_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("hyperlearn_dask.monitor.board.POINTS", 40)
    training = told(started(), *(sweep(n) for n in range(1, 301)))
    numbers = [p.sweep for p in training.points]
    assert 20 <= len(numbers) <= 40
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (1, 300)
    board = Board()
    for run in range(3 * TRAININGS):
        board.hear(str(run), record(started()))
    assert list(board.trainings) == [str(run) for run in range(2 * TRAININGS, 3 * TRAININGS)]


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (Finished(3, 0, 1.0, 60.0), "sweep 3 of at most 50, finished"),
        (Stopped("no disk"), "stopped: no disk"),
    ],
)
def test_the_headline_says_where_it_is_and_how_it_ended(end, says):
    training = told(started(), sweep(3, 1234.5), end)
    text = headline(training, datetime.now(UTC))
    for part in (says, "objective 1,234.5", "step 0.5", "2 workers", "took 0 s", "made with 300 hyperedges"):
        assert part in text


def test_the_page_is_sensible_at_every_moment_and_names_are_only_text():
    board = Board()
    page = Page(board, "tcp://h:0")
    assert "No training yet" in page._head.text
    assert "--scheduler tcp://h:0" in page._head.text
    assert not page._body.visible
    name = "<script>alert(1)</script>"
    where = Where(("tcp://h:1",), {name: "tcp://h:1"}, {})
    board.hear("1", record(started(entities={name: 1}, where=where)))
    page.update()
    assert "preparing the first sweep" in page._head.text
    assert page._body.visible
    assert "<script>" not in page._places.text
    assert "&lt;script&gt;" in page._places.text
    for n in range(1, 6):
        board.hear("1", record(sweep(n, 10.0**-n)))
    page.update()
    assert list(page._curves.source.data["sweep"]) == [1, 2, 3, 4, 5]
    assert type(page._curves.charts["objective"].yaxis[0].ticker).__name__ == "LogTicker"
