"""Imported by the process that local workers are copies of, and by no other.

It leaves Ctrl-C to the command that ends it, as its copies do: a terminal sends it to all its processes. It
removes the folder of its socket when it ends because the process that started it was killed. One that
ends by itself does so too.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal

from hyperlearn_dask.cluster.local import STARTER


def _clear(process: int, starter: int, folder: str) -> None:
    if os.getpid() == process and os.getppid() != starter:  # no copy, and an orphan
        shutil.rmtree(folder, ignore_errors=True)


signal.signal(signal.SIGINT, signal.SIG_IGN)
_starter, _, _folder = os.environ.get(STARTER, "").partition(" ")
if _starter == str(os.getppid()):
    atexit.register(_clear, os.getpid(), int(_starter), _folder)
