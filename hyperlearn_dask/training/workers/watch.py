"""Waiting for a cluster without waiting for ever: who is there, who hangs, is the scheduler alive?"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from distributed import Client, Scheduler
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.executor import Lost, SchedulerLost

POLL_SECONDS = 0.25  # between looks at the workers while a result is not there
HANGING_SECONDS = 30.0  # without a heartbeat, then a worker is taken for lost
SCHEDULER_SECONDS = 30.0  # without an answer, then the scheduler is
RETURN_SECONDS = 10.0  # that a lost worker is given to start again
ABSENT_SECONDS = 120.0  # that a cluster without any worker is waited for

Workers = dict[str, dict[str, float]]  # the resources each declares, by address

# What Dask raises where a worker or the way to it is gone.
LOSSES = (
    FutureCancelledError,
    concurrent.futures.CancelledError,
    asyncio.CancelledError,
    KilledWorker,
    OSError,
)


class Watch:
    """Looks after the workers of one client's cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._address = client.scheduler.address
        self.scheduler_lost = False
        self._heartbeats: dict[str, tuple[Any, float]] = {}  # the last one, and when it was new to us

    def result(self, awaitable: Callable[[], Awaitable[Any]], needed: Collection[str]) -> Any:
        """What an awaitable gives, for as long as all needed workers are alive.

        Raises
        ------
        Lost
            When a needed worker is gone or hangs.
        SchedulerLost
            When the scheduler is gone.
        """
        pending = self._start(awaitable)
        while True:
            try:
                return pending.result(POLL_SECONDS)
            except concurrent.futures.TimeoutError as error:
                if pending.done() and pending.exception() is error:
                    raise Lost("a worker did not answer in time") from error
                try:
                    self._look_after(needed)
                except BaseException:
                    pending.cancel()
                    raise
            except LOSSES as error:
                self._look_after(needed)  # says who is missing, or that the scheduler is lost
                raise Lost("lost what a worker had") from error

    def workers(self) -> Workers:
        """The workers that are alive."""
        info, now = self._identity(), time.monotonic()
        alive: Workers = {}
        for address, worker in info.items():
            last, since = self._heartbeats.get(address, (None, now))
            if worker["last_seen"] != last:
                last, since = worker["last_seen"], now
            self._heartbeats[address] = last, since
            if now - since < HANGING_SECONDS and worker["status"] in ("running", "paused"):
                alive[address] = worker["resources"]
        return alive

    def names(self) -> dict[str, str]:
        """What every worker is called, where that is not its address."""
        named = {address: str(worker["name"]) for address, worker in self._identity().items()}
        return {address: name for address, name in named.items() if name != address}

    def at_scheduler(self, function: Callable[[Scheduler], Any]) -> Any:
        """What a function gives there."""
        return self._answer(partial(self._client.run_on_scheduler, function))

    def wait_for_workers(self, count: int) -> Workers:
        """The workers, once there are ``count`` or some time has passed, but at least one."""
        began = time.monotonic()
        self._restart_hanging()
        while True:
            alive, waited = self.workers(), time.monotonic() - began
            if len(alive) >= count or (alive and waited > RETURN_SECONDS):
                return alive
            if waited > ABSENT_SECONDS:
                raise InputError(
                    f"all workers are gone and none came back within {ABSENT_SECONDS:.0f} s; once there "
                    "are some the same command goes on from the last checkpoint",
                    key=self._address,
                )
            time.sleep(POLL_SECONDS)

    def _look_after(self, needed: Collection[str]) -> None:
        missing = set(needed) - set(self.workers())
        if missing:
            raise Lost(f"lost the worker{'s' * (len(missing) > 1)} {', '.join(sorted(missing))}")

    def _restart_hanging(self) -> None:
        """Ask the nannies of workers that hang to start them again; those without one stay left out."""
        hanging = sorted(set(self._identity()) - set(self.workers()))
        if hanging:
            self._start(partial(self._client.restart_workers, hanging, RETURN_SECONDS, False))

    def _start(self, awaitable: Callable[[], Awaitable[Any]]) -> concurrent.futures.Future[Any]:
        """Have an awaitable made and awaited by the client's loop."""

        async def run() -> Any:
            return await awaitable()

        loop: asyncio.AbstractEventLoop = self._client.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(run(), loop)

    def _identity(self) -> dict[str, Any]:
        """What the scheduler knows of its workers."""
        known: dict[str, Any] = self._answer(partial(self._client.scheduler.identity, n_workers=-1))
        workers: dict[str, Any] = known["workers"]
        return workers

    def _answer(self, awaitable: Callable[[], Awaitable[Any]]) -> Any:
        """What the scheduler answers, who has some time for it."""
        try:
            return self._start(awaitable).result(SCHEDULER_SECONDS)
        except (*LOSSES, RuntimeError, concurrent.futures.TimeoutError) as error:
            self.scheduler_lost = True
            raise SchedulerLost(
                "the scheduler is lost; with another one the same command goes on from the last checkpoint",
                key=self._address,
            ) from error
