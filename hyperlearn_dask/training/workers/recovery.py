"""Going on after workers are lost: from the last safe point, on the workers that are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.checkpoint import Checkpoints, State
from hyperlearn_dask.training.events import (
    CheckpointWritten,
    OnEvent,
    Recovered,
    WorkersJoined,
    WorkersLost,
)
from hyperlearn_dask.training.executor import Executor, Joined, Lost, SchedulerLost

# There is a safe point after each sweep, if one is had in so little time or takes a small share of it.
CHEAP_SECONDS = 0.1
SHARE = 0.1
IN_VAIN = 10  # losses in a row without a new safe point, then training gives up

Result = TypeVar("Result")


class SafePoints:
    """The last state of a training that this process has, whatever becomes of workers.

    Parameters
    ----------
    checkpoints
        Where states are written as well, from time to time, and where the first is from.
    mortal
        Whether anything can be lost but this process: else there are only checkpoints.
    leads_on
        Whether a state in a checkpoint is on the way to where training ends.
    on_event
        Told of every checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        *,
        mortal: bool,
        leads_on: Callable[[State], bool],
        on_event: OnEvent | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._mortal = mortal
        self._on_event = on_event
        self._due = 0.0
        self.state = None if checkpoints is None else checkpoints.latest(leads_on)

    def offer(self, take: Callable[[], State]) -> None:
        """Hold on to the state that ``take`` gathers, if it is time for it."""
        began = time.monotonic()
        fresh = None
        if self._mortal and began >= self._due:
            fresh = self.state = take()
            now = time.monotonic()
            if now - began > CHEAP_SECONDS:
                # cost / (cost + pause) <= share
                self._due = now + (now - began) * (1 - SHARE) / SHARE
        if self._checkpoints is not None:
            self._tell_of(self._checkpoints.offer(lambda: take() if fresh is None else fresh))

    def check(self, executor: Executor, take: Callable[[], State]) -> None:
        """Have an executor look for workers that have come; for them no sweep is lost that was made."""
        try:
            executor.check()
        except Joined:
            self.state = take()
            raise

    def write(self) -> None:
        """Write the last safe point, as there may be no other."""
        if self._checkpoints is not None and self.state is not None and not self.state.done:
            self._tell_of(self._checkpoints.write(self.state))

    def _tell_of(self, written: CheckpointWritten | None) -> None:
        if written is not None and self._on_event is not None:
            self._on_event(written)


def over_losses(
    train: Callable[[SafePoints], Result],
    executor: Executor,
    safe: SafePoints,
    tell: Callable[[str], None] | None,
    on_event: OnEvent | None = None,
) -> Result:
    """The result of ``train(safe)``, called again after every loss.

    Raises
    ------
    InputError
        When workers are lost again and again before training comes to another safe point, or the
        scheduler is. The last safe point is written, so that the same command goes on from there.
    """
    in_vain = 0
    while True:
        before = safe.state
        try:
            return train(safe)
        except Lost as loss:
            in_vain = 0 if safe.state is not before else in_vain + 1
            if in_vain == IN_VAIN:
                safe.write()
                raise InputError(
                    f"workers were lost {IN_VAIN} times without a sweep between (the last time: {loss}); "
                    "is there enough memory for each?"
                ) from loss
            _recover(executor, loss, safe, tell, on_event)
        except SchedulerLost:
            safe.write()
            raise


def _recover(
    executor: Executor,
    loss: Lost,
    safe: SafePoints,
    tell: Callable[[str], None] | None,
    on_event: OnEvent | None,
) -> None:
    """Have the executor ready again, however often that fails."""
    place = "the start" if safe.state is None else safe.state.place
    if tell is not None:
        tell(f"{loss}; going on from {place}")
    if on_event is not None:
        on_event(WorkersJoined(str(loss)) if isinstance(loss, Joined) else WorkersLost(str(loss)))
    try:
        executor.recover()
    except SchedulerLost:
        safe.write()
        raise
    if on_event is not None:
        on_event(Recovered(place, executor.where()))
