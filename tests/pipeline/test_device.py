"""Training on a device through the command line, emulated or on a GPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hyperlearn_dask.factorization.model_store import open_model
from tests.conftest import Ended

Run = Callable[..., Ended]


def test_a_run_on_a_device_gives_the_same_model(
    cupy: ModuleType, hyperlearn: Run, finished: Path, tmp_path: Path
) -> None:
    ended = hyperlearn("run", finished / "club", "--out", tmp_path / "out", "--device", "cuda")
    assert ended.code == 0, ended.err
    expected = open_model(finished / "out" / "model.zarr").factors
    for modality, factor in open_model(tmp_path / "out" / "model.zarr").factors.items():
        np.testing.assert_allclose(factor, expected[modality], atol=1e-6 * np.abs(expected[modality]).max())


def test_without_a_device_nothing_is_begun(
    hyperlearn: Run, monkeypatch: pytest.MonkeyPatch, film_club: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    ended = hyperlearn("run", film_club, "--out", tmp_path / "out", "--device", "cuda")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "Error: device: CuPy is not installed (pip install 'hyperlearn-dask[gpu]')"
    ]
    assert not (tmp_path / "out").exists()
