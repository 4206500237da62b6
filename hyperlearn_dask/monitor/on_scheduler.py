"""The scheduler's side: takes what trainings tell, and shows it on a page and to Prometheus."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from hyperlearn_dask.monitor.board import Board
from hyperlearn_dask.monitor.gauges import Collector

NAME = "hyperlearn"
PATH = "/hyperlearn"


class Monitor(SchedulerPlugin):
    """Puts our page beside those of the dashboard, and our gauges to the scheduler's metrics.

    ``dask scheduler`` needs nothing for it but this package: clients bring it along.
    """

    name = NAME
    idempotent = True

    async def start(self, scheduler: Scheduler) -> None:
        """Begin to listen; a dashboard that is not there, or not as we know it, is left alone."""
        self._board = Board()
        self._gauges = Collector(self._board)
        self._gauges.register()
        self._shown = False
        scheduler.handlers["hyperlearn_tell"] = self._tell
        scheduler.handlers["hyperlearn_shown"] = self._is_shown
        with contextlib.suppress(ImportError, AttributeError, TypeError, ValueError):
            _add_page(scheduler, self._board)
            self._shown = True

    async def close(self) -> None:
        """Leave the metrics of this process, which others may go on with."""
        self._gauges.unregister()

    def _tell(self, run: str, record: Mapping[str, Any]) -> None:
        """A record of a training, called by its client."""
        self._board.hear(run, record)

    def _is_shown(self) -> bool:
        return self._shown


def _add_page(scheduler: Scheduler, board: Board) -> None:
    """An application of Bokeh's beside the dashboard's own, as that cannot be added to."""
    from bokeh.server.tornado import BokehTornado
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables
    from tornado.ioloop import IOLoop

    from hyperlearn_dask.monitor.page import add_to

    web = scheduler.http_application
    dashboard = next((a for a in web.applications if isinstance(a, BokehTornado)), None)
    if dashboard is None:
        raise ValueError("the scheduler has no dashboard")
    variables = template_variables(scheduler)
    document = partial(_document, partial(add_to, board, scheduler.address))
    application = BokehApplication(
        {PATH: document}, scheduler, prefix=dashboard.prefix, template_variables=variables
    )
    web.add_application(application)
    application.initialize(IOLoop.current())
    application.start()
    # The dashboard remembers these variables: its own pages have a link to ours as well.
    if NAME not in variables["pages"]:
        variables["pages"].append(NAME)


def _document(fill: Callable[[Any], None], _: Scheduler, extra: Mapping[str, Any], document: Any) -> None:
    """One browser's page, in the frame of the dashboard's pages."""
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    document.template = env.get_template("simple.html")
    document.template_variables.update(extra)
    document.theme = BOKEH_THEME
    fill(document)
