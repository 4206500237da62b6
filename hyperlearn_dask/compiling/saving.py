"""What Numba has compiled, shared by processes.

Workers and commands that start where nothing is compiled yet save kernels at the same time. Numba picks the
next free number for a file and then writes it into an index: two processes that do so at once take one number
for different kernels, and whoever looks for the second one is given the first.
"""

from __future__ import annotations

import contextlib
import fcntl
from functools import wraps
from pathlib import Path
from typing import Any


def save_in_turn() -> None:
    """Let this process save what Numba compiles only while no other does."""
    try:
        from numba.core.caching import IndexDataCacheFile
    except ImportError:  # a later Numba, which keeps it elsewhere
        return
    save = IndexDataCacheFile.save
    if hasattr(save, "__wrapped__"):
        return

    @wraps(save)
    def in_turn(cache: Any, *what: Any) -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # some file systems have no locks
                # Libraries with caches of their own may hold a lock by a plainer name already.
                lock = stack.enter_context(Path(f"{cache._index_path}.hyperlearn.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            save(cache, *what)

    IndexDataCacheFile.save = in_turn
