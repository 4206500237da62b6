"""Our page on the Dask dashboard: curves over the sweeps, who has what, where time and bytes go."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime

from bokeh.document import Document
from bokeh.layouts import column, gridplot, row
from bokeh.models import BasicTicker, ColumnDataSource, Div, HoverTool, LogTicker
from bokeh.plotting import figure

from hyperlearn_dask.monitor.board import Board, Training
from hyperlearn_dask.monitor.tables import headline, line, places_table, title, told_table, workers_table

EVERY_MILLISECONDS = 1000
WIDE = 30.0  # the ratio from which F is read by powers of ten
NONE_YET = "No training yet. The next one on this scheduler shows here, for example: "
NAN = float("nan")
# What is drawn over the sweeps: its title, scale and colour.
_CHARTS = {
    "objective": ("objective F", "log", "#1f6f8b"),
    "fall": ("fall of F in a sweep, relative to F", "log", "#3a7d44"),
    "step": ("step length", "linear", "#5e548e"),
    "seconds": ("seconds a sweep", "log", "#99582a"),  # the first one, which compiles, takes far longer
}


class Page:
    """What one browser sees, kept up to date with a board."""

    def __init__(self, board: Board, scheduler: str) -> None:
        self._board = board
        self._none_yet = f"{NONE_YET}hyperlearn run DATASET --out DIR --scheduler {scheduler}"
        self._shown: tuple[int, int] | None = None
        self._source = ColumnDataSource({name: [] for name in ("sweep", *_CHARTS)}, name="sweeps")
        self._charts = {name: _chart(self._source, name) for name in _CHARTS}
        self._head, self._workers, self._places, self._told = (
            Div(sizing_mode="stretch_width") for _ in range(4)
        )
        grid = gridplot(
            list(self._charts.values()), ncols=2, sizing_mode="stretch_width", toolbar_location=None
        )
        tables = column(self._workers, self._places, self._told, sizing_mode="stretch_width")
        self._body = row(grid, tables, sizing_mode="stretch_width", spacing=20, visible=False)
        self.root = column(self._head, self._body, sizing_mode="stretch_width")
        self.update()

    def update(self) -> None:
        """Show what has changed since the last time."""
        training = self._board.latest
        if training is None:
            self._head.text = title("HyperLearn") + line(self._none_yet)
            return
        self._head.text = headline(training, datetime.now(UTC))
        if self._shown == (id(training), training.version):
            return
        self._shown = id(training), training.version
        self._source.data = curves(training)
        self._choose_ticks(self._source.data["objective"])
        self._workers.text = workers_table(training)
        self._places.text = places_table(training)
        self._told.text = told_table(training)
        self._body.visible = True

    def _choose_ticks(self, objective: Sequence[float]) -> None:
        """Powers of ten where F falls far; else they would be too few to read anything by."""
        axis = self._charts["objective"].yaxis[0]
        known = [value for value in objective if value > 0]
        ticker = LogTicker if known and max(known) > WIDE * min(known) else BasicTicker
        if type(axis.ticker) is not ticker:
            axis.ticker = ticker()


def add_to(board: Board, scheduler: str, document: Document) -> None:
    """Fill a new document, and keep it up to date for as long as somebody looks at it."""
    page = Page(board, scheduler)
    document.title = "HyperLearn"
    document.add_root(page.root)
    document.add_periodic_callback(page.update, EVERY_MILLISECONDS)


def curves(training: Training) -> dict[str, list[float]]:
    """The columns of the charts; what a chart cannot show is not a number there.

    Posterior draws stand behind the last sweep.
    """
    sweeps = max((p.sweep for p in training.points if not p.draw), default=0)
    # What a logarithm has: F, and what it falls by.
    objective = [p.objective if p.objective and p.objective > 0 else NAN for p in training.points]
    falls = [(a - b) / b for a, b in itertools.pairwise(objective)]
    return {
        "sweep": [float(p.sweep + sweeps * p.draw) for p in training.points],
        "objective": objective,
        "fall": [NAN, *(fall if fall > 0 else NAN for fall in falls)][: len(objective)],
        "step": [NAN if p.step is None else p.step for p in training.points],
        "seconds": [p.seconds for p in training.points],
    }


def _chart(source: ColumnDataSource, name: str) -> figure:
    text, scale, colour = _CHARTS[name]
    chart = figure(
        title=text,
        y_axis_type=scale,
        x_axis_label="sweep",
        height=240,
        min_width=340,
        sizing_mode="stretch_width",
        tools=[HoverTool(tooltips=[("sweep", "@sweep"), (name, f"@{name}{{0.000000 a}}")], mode="vline")],
        toolbar_location=None,
    )
    chart.line("sweep", name, source=source, color=colour, line_width=2)
    chart.scatter("sweep", name, source=source, color=colour, size=4)
    chart.title.text_font_size = "14px"
    chart.xaxis[0].axis_label_text_font_style = "normal"
    chart.xaxis[0].ticker.min_interval = 1
    return chart
