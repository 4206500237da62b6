"""Loaded by the workers of clusters that we start."""

from __future__ import annotations

import gc
import signal
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from distributed import Worker


def dask_setup(worker: Worker) -> None:
    """Have a worker leave Ctrl-C to the command that ends it, and modules to themselves.

    A terminal sends Ctrl-C to all its processes. And what was imported stays: the garbage collector need not
    look through it again and again, which would make pages that forked workers share their own as well.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threadpool_limits(worker.state.nthreads)  # copies have those of the process that they are copies of
    gc.freeze()
