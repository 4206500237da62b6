"""Our page on the Dask dashboard: curves over the sweeps, who has what, where time and bytes go."""

from __future__ import annotations

from datetime import UTC, datetime

from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import Div

from hyperlearn_dask.monitor.board import Board
from hyperlearn_dask.monitor.curves import Curves
from hyperlearn_dask.monitor.tables import headline, line, places_table, title, told_table, workers_table

EVERY_MILLISECONDS = 1000
NONE_YET = "No training yet. The next one on this scheduler shows here, for example: "


class Page:
    """What one browser sees, kept up to date with a board."""

    def __init__(self, board: Board, scheduler: str) -> None:
        self._board = board
        self._none_yet = f"{NONE_YET}hyperlearn run DATASET --out DIR --scheduler {scheduler}"
        self._shown: tuple[int, int] | None = None
        self._curves = Curves()
        self._head, self._workers, self._places, self._told = (
            Div(sizing_mode="stretch_width") for _ in range(4)
        )
        tables = column(self._workers, self._places, self._told, sizing_mode="stretch_width")
        self._body = row(self._curves.grid, tables, sizing_mode="stretch_width", spacing=20, visible=False)
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
        self._curves.show(training.points)
        self._workers.text = workers_table(training)
        self._places.text = places_table(training)
        self._told.text = told_table(training)
        self._body.visible = True


def add_to(board: Board, scheduler: str, document: Document) -> None:
    """Fill a new document, and keep it up to date for as long as somebody looks at it."""
    page = Page(board, scheduler)
    document.title = "HyperLearn"
    document.add_root(page.root)
    document.add_periodic_callback(page.update, EVERY_MILLISECONDS)
