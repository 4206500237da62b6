"""Schedulers and workers as processes of their own, as on a cluster."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading

import pytest


class Processes:
    """Starts ``dask scheduler`` and ``dask worker`` on loopback; all end with the test."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def scheduler(self) -> str:
        process = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        for line in process.stderr:
            if found := re.search(r"Scheduler at:\s+(tcp://\S+)", line):
                self._drain(process)
                return found[1]
        raise AssertionError("the scheduler did not start")

    def worker(self, address: str) -> None:
        process = self._start("worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard")
        for line in process.stderr:
            if re.search(r"Registered to:", line):
                self._drain(process)
                return
        raise AssertionError("the worker did not start")

    def kill_scheduler(self) -> None:
        self._all[0].kill()
        self._all[0].wait()

    def end(self) -> None:
        for process in self._all:
            with_children = os.getpgid(process.pid) if process.poll() is None else None
            if with_children is not None:
                os.killpg(with_children, signal.SIGKILL)
            process.wait()

    def _start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._all.append(process)
        return process

    @staticmethod
    def _drain(process: subprocess.Popen[str]) -> None:
        threading.Thread(target=process.stderr.read, daemon=True).start()


@pytest.fixture
def processes():
    started = Processes()
    yield started
    started.end()
