"""The client's side: a page on its scheduler's dashboard, and records sent there without waiting."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from distributed import Client
from distributed.protocol.pickle import dumps

from hyperlearn_dask.monitor.on_scheduler import NAME, PATH, Monitor

SECONDS = 30.0  # that a scheduler is given to answer: it may be busy, and imports what our page needs
_runs = itertools.count(1)


def add_page(client: Client) -> str | None:
    """Have our page on the dashboard of a client's scheduler; its address if it can be there.

    It cannot be without a dashboard, or on a scheduler that does not have this package; that is no
    reason not to train.
    """
    return _page(client) if _is_shown(client) else None


class Post:
    """Sends the records of one training to the scheduler, in order, by the client's own loop."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._heard = _is_shown(client) is not None
        self._run = f"{client.id.removeprefix('Client-')[:8]}-{next(_runs)}"
        self._turn = asyncio.Lock()  # those who wait for it go in order

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._heard and self._client.status == "running":
            asyncio.run_coroutine_threadsafe(self._send(dict(record)), self._client.loop.asyncio_loop)

    async def _send(self, record: dict[str, Any]) -> None:
        telling = self._client.scheduler.hyperlearn_tell
        async with self._turn:
            try:
                await asyncio.wait_for(telling(run=self._run, record=record), SECONDS)
            except (KeyError, TypeError, ValueError):  # what is there is of another version
                self._heard = False


def _is_shown(client: Client) -> bool | None:
    """Whether our page is shown, once the scheduler was asked to; None if it hears nothing."""
    scheduler, plugin = client.scheduler, dumps(Monitor())

    async def ask() -> bool:
        await scheduler.register_scheduler_plugin(plugin=plugin, name=NAME, idempotent=True)
        shown: bool = await scheduler.hyperlearn_shown()
        return shown

    try:
        asking = asyncio.wait_for(ask(), SECONDS)
        return asyncio.run_coroutine_threadsafe(asking, client.loop.asyncio_loop).result()
    except Exception:  # whatever the scheduler could not do, as it has said itself
        return None


def _page(client: Client) -> str | None:
    status = str(client.dashboard_link)
    return status.removesuffix("/status") + PATH if status.endswith("/status") else None
