"""The GPU benchmark runs through, on an emulated device; without a GPU it says so."""

import sys
from types import SimpleNamespace

import numpy as np
from click.testing import CliRunner

from benchmarks import gpu


def test_every_figure_is_made(cupy, monkeypatch):
    if not hasattr(cupy.cuda, "Device"):
        monkeypatch.setattr(
            cupy.cuda, "Device", lambda: SimpleNamespace(synchronize=lambda: None), raising=False
        )
    monkeypatch.setattr(gpu, "REPEATS", 1)
    monkeypatch.setattr(gpu, "_cupyx_product", lambda laplacian, block: lambda: None)
    tensor = gpu.power_law_tensor((60, 30, 20), 200)
    rows = gpu.measure(tensor, 4, gpu.copy_bandwidth(1 << 16))
    assert {row.task for row in rows} >= {"mttkrp of modes 0,1,2", "sweep", "graph product"}
    assert all(np.isfinite(row.value) and row.value > 0 for row in rows)


def test_compulsory_bytes_are_counted_once():
    tensor = gpu.power_law_tensor((6, 5, 4), 10)
    assert gpu.mttkrp_bytes(tensor, 2, (1,)) == 10 * 16 + 4 * 2 * (6 + 4 + 5)
    assert gpu.mttkrp_bytes(tensor, 2, (0, 1, 2)) == 10 * 16 + 4 * 2 * 30


def test_without_a_gpu_it_says_so_and_exits_with_2(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    ended = CliRunner().invoke(gpu.main, ["--name", "none"])
    assert ended.exit_code == 2
    assert "there is no GPU to measure" in ended.output
