"""How far work is, how fast it goes, and how long it will still take, in words."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Tells of work that consists of ``total`` things, as they are done.

    ``what`` is being done comes first, ``noun`` says what the things are; ``clock`` gives seconds.

    Examples
    --------
    >>> pace = Pace("reading", 4_000_000, "rows", print, clock=iter([0.0, 2.0]).__next__)
    >>> pace.add(1_000_000)
    reading: 1,000,000 of 4,000,000 rows (25 %), 500,000 a second, 6 s left
    """

    def __init__(
        self,
        what: str,
        total: int,
        noun: str,
        tell: Callable[[str], object],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._what = what
        self._total = total
        self._noun = noun
        self._tell = tell
        self._clock = clock
        self._began = clock()
        self._done = 0

    def add(self, count: int) -> None:
        """Some more are done."""
        self._done = min(self._done + count, self._total)
        rate = self._done / max(self._clock() - self._began, 1e-9)
        share = self._done / max(self._total, 1)
        left = (self._total - self._done) / rate if rate else 0.0
        self._tell(
            f"{self._what}: {self._done:,} of {self._total:,} {self._noun} ({share:.0%}), "
            f"{_rounded(rate):,} a second, {_duration(left)} left".replace("%", " %")
        )


def _rounded(rate: float) -> int:
    """Two digits that mean something."""
    return int(float(f"{rate:.2g}"))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
