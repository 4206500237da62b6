"""A training as curves over its sweeps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from bokeh.layouts import gridplot
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, LogTicker
from bokeh.plotting import figure

from hyperlearn_dask.monitor.board import Point

WIDE = 30.0  # the ratio from which F is read by powers of ten
NAN = float("nan")
# What is drawn over the sweeps: its title, scale and colour.
_CHARTS = {
    "objective": ("objective F", "log", "#1f6f8b"),
    "fall": ("fall of F in a sweep, relative to F", "log", "#3a7d44"),
    "step": ("step length", "linear", "#5e548e"),
    "seconds": ("seconds a sweep", "log", "#99582a"),  # the first one, which compiles, takes far longer
}


class Curves:
    """Four charts side by side, and what they are drawn from."""

    def __init__(self) -> None:
        self.source = ColumnDataSource({name: [] for name in ("sweep", *_CHARTS)}, name="sweeps")
        self.charts = {name: _chart(self.source, name) for name in _CHARTS}
        self.grid = gridplot(
            list(self.charts.values()), ncols=2, sizing_mode="stretch_width", toolbar_location=None
        )

    def show(self, points: Sequence[Point]) -> None:
        """Draw these sweeps, and draws."""
        self.source.data = curves(points)
        self._choose_ticks(self.source.data["objective"])

    def _choose_ticks(self, objective: Sequence[float]) -> None:
        """Powers of ten where F falls far; else they would be too few to read anything by."""
        axis = self.charts["objective"].yaxis[0]
        known = [value for value in objective if value > 0]
        ticker = LogTicker if known and max(known) > WIDE * min(known) else BasicTicker
        if type(axis.ticker) is not ticker:
            axis.ticker = ticker()


def curves(points: Sequence[Point]) -> dict[str, list[float]]:
    """The columns of the charts; what a chart cannot show is not a number there.

    Posterior draws stand behind the last sweep.
    """
    sweeps = max((p.sweep for p in points if not p.draw), default=0)
    # What a logarithm has: F, and what it falls by.
    objective = [p.objective if p.objective and p.objective > 0 else NAN for p in points]
    falls = [(a - b) / b for a, b in itertools.pairwise(objective)]
    return {
        "sweep": [float(p.sweep + sweeps * p.draw) for p in points],
        "objective": objective,
        "fall": [NAN, *(fall if fall > 0 else NAN for fall in falls)][: len(objective)],
        "step": [NAN if p.step is None else p.step for p in points],
        "seconds": [p.seconds for p in points],
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
