"""What the soak of ``benchmarks.faults`` counts as broken; its trainings are too long for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import faults
from benchmarks.faults import Tally, Training

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def test_a_process_that_stays_is_counted_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "GONE_SECONDS", 0.05)
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeps, start_new_session=True) as process:
        tally = Tally(0)
        faults._see_them_gone(process.pid, tally)
        assert process.wait(10) < 0
    assert tally.leaked == 1 and any("stayed behind" in line for line in tally.broken())
    again = Tally(0)
    faults._see_them_gone(process.pid, again)
    assert again.broken() == []


def test_what_is_no_result_is_an_orphan(tmp_path: Path) -> None:
    training = Training(tmp_path, tmp_path / "data", 1)
    for path in ("out/model.zarr/zarr.json", "tmp/dask-scratch-space/purge.lock"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    assert training.orphans() == []
    (tmp_path / "out/.model.zarr.partial-1").touch()
    (tmp_path / "tmp/dask-scratch-space/worker-1").mkdir()
    assert training.orphans() == [".model.zarr.partial-1", "dask-scratch-space/worker-1"]


def test_promises() -> None:
    assert Tally(2, kills=2, trainings=1, ended=1, difference=1e-7).broken() == []
    assert len(Tally(2, kills=1, trainings=2, ended=1, difference=1e-5, orphans=1).broken()) == 4
    assert Tally(0, difference=float("nan")).broken()
    expected = {"user": np.array([[1.0, -4.0]]), "tag": np.array([[2.0]])}
    found = {"user": np.array([[1.0, -4.0]]), "tag": np.array([[2.5]])}
    assert faults._difference(found, expected) == 0.25
    found["user"][0, 1] = np.nan
    assert np.isnan(faults._difference(found, expected))
