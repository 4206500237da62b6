"""Loaded by the workers of clusters that we start."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """Leave Ctrl-C, which a terminal sends to all its processes, to the command that ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
