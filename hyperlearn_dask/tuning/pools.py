"""Where trials run: one after the other in this process, or one on every Dask worker."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Protocol

from hyperlearn_dask.config import Dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.tuning.trial import Outcome, Question, run_trial

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK_SECONDS = 5.0  # between looks at the workers
ABSENT_SECONDS = 120.0  # that a cluster without any worker is waited for


class Pool(Protocol):
    """Runs trials by their number."""

    def has_room(self) -> bool:
        """Whether one more could begin at once."""
        ...

    def begin(self, number: int, dataset: Dataset, question: Question) -> None:
        """Begin a trial."""
        ...

    def next(self) -> tuple[int, Outcome]:
        """A trial that has ended, waited for."""
        ...

    def close(self) -> None:
        """Give up what has not ended."""
        ...


class Here:
    """One trial after the other, with all threads."""

    def __init__(self) -> None:
        self._begun: list[tuple[int, Dataset, Question]] = []

    def has_room(self) -> bool:
        return not self._begun

    def begin(self, number: int, dataset: Dataset, question: Question) -> None:
        self._begun.append((number, dataset, question))

    def next(self) -> tuple[int, Outcome]:
        number, dataset, question = self._begun.pop()
        return number, run_trial(dataset, question)

    def close(self) -> None:
        pass


class OnWorkers:
    """A trial is one task; each worker has one, with all of its threads.

    A worker that is lost costs its trial's time: the trial begins again on another.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._running: dict[Future, tuple[int, str]] = {}  # number and worker
        self._done: queue.Queue[Future] = queue.Queue()

    def has_room(self) -> bool:
        return bool(self._idle())

    def begin(self, number: int, dataset: Dataset, question: Question) -> None:
        # One that was idle may have gone since; then it waits for another.
        address = (self._idle() or [""])[0]
        future = self._client.submit(
            _trial,
            dataset,
            question,
            key=f"trial-{number}-{self._client.id}",
            pure=False,
            workers=[address] if address else None,
            allow_other_workers=bool(address),
        )
        self._running[future] = number, address
        future.add_done_callback(self._done.put)

    def next(self) -> tuple[int, Outcome]:
        from distributed.scheduler import KilledWorker

        from hyperlearn_dask.training.workers.watch import LOSSES

        future = self._first_done()
        number, _ = self._running.pop(future)
        try:
            return number, future.result()
        except KilledWorker as error:
            return number, Outcome(None, problem=f"it cost several workers their lives (memory?): {error}")
        except LOSSES as error:
            raise InputError(
                f"the scheduler is lost ({error}); another goes on with the same command"
            ) from error

    def close(self) -> None:
        self._client.cancel(list(self._running))

    def _first_done(self) -> Future:
        """A trial that has ended, waited for as long as there are workers."""
        seen = time.monotonic()
        while time.monotonic() - seen < ABSENT_SECONDS:
            with contextlib.suppress(queue.Empty):
                return self._done.get(timeout=LOOK_SECONDS)
            if _workers(self._client):
                seen = time.monotonic()
        raise InputError("the cluster has lost its workers; the same command goes on when there are some")

    def _idle(self) -> list[str]:
        return sorted(_workers(self._client) - {address for _, address in self._running.values()})


def pool_of(client: Client | None) -> Pool:
    """This process, or a client's workers."""
    if client is None:
        return Here()
    if not _workers(client):
        raise InputError("the cluster has no workers; start at least one (dask worker ADDRESS)")
    return OnWorkers(client)


def _workers(client: Client) -> set[str]:
    return set(client.scheduler_info(n_workers=-1)["workers"])


_busy = threading.Lock()  # a trial has all threads of its worker


def _trial(dataset: Dataset, question: Question) -> Outcome:
    from distributed import get_worker

    from hyperlearn_dask.factorization import kernels

    kernels.limit_threads(get_worker().state.nthreads)
    with _busy:
        return run_trial(dataset, question)
