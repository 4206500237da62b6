"""The GPU benchmark runs through, on an emulated device; without a GPU it says so."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import gpu, gpu_kernels, gpu_training, raw
from benchmarks.gpu_kernels import gathered_bytes, kernel_rows, mttkrp_bytes, power_law_tensor


@pytest.fixture
def measured(cupy, monkeypatch):
    """No repetitions, and none of what the emulated CuPy does not have."""
    monkeypatch.setattr(gpu_kernels, "REPEATS", 1)
    if not hasattr(cupy, "__version__"):
        real = importlib.import_module

        def without_cupyx(name):
            return _Anything() if name.startswith("cupyx") else real(name)

        monkeypatch.setattr(gpu_kernels, "import_module", without_cupyx)
        monkeypatch.setattr(gpu_kernels, "_cupy_mttkrp", lambda *_: lambda: None)
    return cupy


class _Anything:
    """In the place of CuPy's sparse matrices."""

    def csr_matrix(self, _):
        return self

    def __matmul__(self, block):
        return block


def test_every_figure_of_the_kernels_and_of_a_sweep_is_made(measured):
    tensor = power_law_tensor((60, 30, 20), 200)
    rows = [*kernel_rows(tensor, 4, 1e9, on_cpu=True), *gpu_training.sweep_rows(tensor, 4)]
    assert {row.task for row in rows} >= {
        "mttkrp of modes 0,1,2",
        "mttkrp of mode 2",
        "sweep",
        "graph product",
    }
    assert {row.metric for row in rows} >= {"share_of_roofline", "ratio_to_cpu", "ratio_to_cupy"}
    assert all(np.isfinite(row.value) and row.value > 0 for row in rows)
    goals = list(gpu.goals(rows))
    assert any("MTTKRP" in goal and "mode 1" in goal for goal in goals)
    assert "not measured: a sweep of 10M in 5 ms or less" in goals
    assert any(goal.startswith("met: a sweep") or goal.startswith("NOT MET: a sweep") for goal in goals)
    [difference] = [row for row in rows if row.metric == "factor_difference"]
    assert difference.value < 1e-3


def test_a_data_set_is_trained_from_its_files_on_both_devices(measured, tmp_path):
    rng = np.random.default_rng(0)
    tables = {
        "users.csv": (["user"], [[u] for u in range(9)]),
        "movies.csv": (["movie", "title"], [[m, f"Movie {m}"] for m in range(7)]),
        "user_graph.csv": (["source", "target", "weight"], [[u, (u + 1) % 9, 1.5] for u in range(9)]),
        "movie_graph.csv": (["source", "target", "weight"], [[m, (m + 2) % 7, 1.0] for m in range(7)]),
    }
    pairs = [(u, m) for u in range(9) for m in range(7)]
    for part in ("train", "test"):
        ratings = [
            [*pair, int(rng.integers(1, 6))] for pair in pairs if (sum(pair) % 4 == 0) == (part == "test")
        ]
        tables[f"ratings_{part}.csv"] = (["user", "movie", "rating"], ratings)
    for name, (header, lines) in tables.items():
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *lines])
    dataset, hypergraph = raw.read_raw("movielens-100k", tmp_path)
    assert hypergraph.relations["ratings"].nnz == len(tables["ratings_train.csv"][1])
    assert hypergraph.graphs["user"].edges == 9
    rows = list(gpu_training.training_rows("movielens-100k", tmp_path, sweeps=2))
    of = {(row.task, row.metric): row.value for row in rows}
    assert of["training in float64, 2 sweeps", "factor_difference"] < 1e-8
    assert of["training in float32, 2 sweeps", "objective_difference"] < 1e-4
    assert dataset.training.sweeps > 2


def test_neighbours_are_measured_and_are_those_of_the_cpu(measured):
    *_, unlike = gpu_training.neighbour_rows(n=60, features=3, k=2)
    assert unlike.metric == "share_unlike_cpu"
    assert unlike.value == 0


def test_bytes_are_counted_once_or_for_every_entry():
    tensor = power_law_tensor((6, 5, 4), 10)
    assert mttkrp_bytes(tensor, 2, (1,)) == 10 * 16 + 4 * 2 * (6 + 4 + 5)
    assert mttkrp_bytes(tensor, 2, (0, 1, 2)) == 10 * 16 + 4 * 2 * 30
    # Mode 0 is read along its rows, mode 2 gathered, mode 1 read and written for each entry
    assert gathered_bytes(tensor, 2, (1,)) == 10 * 16 + 4 * 2 * (6 + 10 + 2 * 10)
    assert gathered_bytes(tensor, 2, (0, 1, 2)) == 10 * 16 + 4 * 2 * (2 * 6 + 2 * 3 * 10)


def test_without_a_gpu_it_says_so_and_exits_with_2(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    ended = CliRunner().invoke(gpu.main, ["--name", "none"])
    assert ended.exit_code == 2
    assert "there is no GPU to measure" in ended.output


def test_it_and_its_tests_need_nothing_that_a_bare_machine_lacks():
    script = """
import sys

blocked = {"dask", "distributed", "zarr", "pyarrow", "faiss", "sparse", "rich", "cupy"}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import benchmarks.gpu
import pytest

sys.exit(pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", *benchmarks.gpu.TESTS]))
"""
    root = Path(gpu.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_cuda_kernels.py" in done.stdout
