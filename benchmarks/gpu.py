"""What a GPU makes of the kernels and of a sweep, against its own copy bandwidth and the CPU.

Runs the GPU tests first. Needs NumPy, SciPy, Numba, CuPy, click and pytest only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.sparse

from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.backend import check_device, to_device
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.fit import fit, problem_of

SHAPE = (480_000, 17_770, 2_182)
REPEATS = 5


@click.command(help=__doc__)
@click.option("--name", required=True, help="Of the GPU, for the file of results.")
@click.option("--nnz", "sizes", multiple=True, default=(10_000_000, 100_000_000), show_default=True)
@click.option("--rank", "ranks", multiple=True, default=(32, 64), show_default=True)
@click.option("--tests/--no-tests", default=True, show_default=True, help="Run the GPU tests first.")
def main(name: str, sizes: tuple[int, ...], ranks: tuple[int, ...], tests: bool) -> None:
    try:
        check_device("cuda")
    except InputError as error:
        click.echo(f"there is no GPU to measure: {error.problem}", err=True)
        sys.exit(2)
    if tests:
        subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", "tests"], check=True)
    bandwidth = copy_bandwidth()
    rows = [_row("copy", "device memory", "copy", "bytes_per_second", bandwidth)]
    for nnz in sizes:
        tensor = power_law_tensor(SHAPE, nnz)
        for rank in ranks:
            rows += measure(tensor, rank, bandwidth)
    click.echo(table(rows))
    write_rows(rows, Path(__file__).parent / "results" / f"gpu-{name}.json")


def measure(tensor: SparseTensor, rank: int, bandwidth: float) -> list[Row]:
    """The figures of one tensor and rank."""
    cuda = import_module("hyperlearn_dask.factorization.kernels.cuda")
    data = f"{tensor.nnz} nonzeros, rank {rank}"
    rng = np.random.default_rng(0)
    matrices = tuple(rng.normal(size=(n, rank)).astype(np.float32) for n in tensor.shape)
    on = tuple(to_device(a, "cuda") for a in matrices)
    device = SparseTensor(
        tuple(to_device(c, "cuda") for c in tensor.coords), to_device(tensor.values, "cuda"), tensor.shape
    )
    modes = tuple(range(tensor.order))
    rows = []

    def add(task: str, method: str, seconds: float, compulsory: float | None = None) -> None:
        rows.append(_row(data, task, method, "seconds", seconds))
        if compulsory is not None:
            share = compulsory / bandwidth / seconds
            rows.append(_row(data, task, method, "share_of_roofline", share))

    for wanted in (modes, *((m,) for m in modes)):
        task = f"mttkrp of mode{'s' * (len(wanted) > 1)} {','.join(map(str, wanted))}"
        least = mttkrp_bytes(tensor, rank, wanted)
        add(task, "hyperlearn cuda", seconds_of(lambda w=wanted: kernels.mttkrp(device, on, w)), least)  # type: ignore[misc]
        add(task, "hyperlearn cpu", seconds_of(lambda w=wanted: kernels.mttkrp(tensor, matrices, w)))  # type: ignore[misc]
    for mode in modes:
        entries, _ = kernels.group_by_row(device, mode)
        seconds = seconds_of(lambda m=mode, e=entries: cuda.mttkrp_by_row(device, on, m, e))  # type: ignore[misc]
        add(f"mttkrp of mode {mode}", "hyperlearn cuda, by row", seconds, mttkrp_bytes(tensor, rank, (mode,)))
    laplacian = ring_laplacian(tensor.shape[0])
    coefficients = rng.normal(size=(9, rank)).astype(np.float32)
    there = to_device(laplacian, "cuda")
    add(
        "chebyshev, degree 8",
        "hyperlearn cuda",
        seconds_of(lambda: kernels.chebyshev(there, on[0], coefficients)),
    )
    add("graph product", "hyperlearn cuda", seconds_of(lambda: kernels.graph_product(there, on[0])))
    add("graph product", "cupyx csr @ dense", seconds_of(_cupyx_product(laplacian, on[0])))
    for where in ("cuda", "cpu"):
        add("sweep", f"hyperlearn {where}", sweep_seconds(tensor, rank, where))
    return rows


def mttkrp_bytes(tensor: SparseTensor, rank: int, modes: tuple[int, ...]) -> float:
    """What an MTTKRP must at least move: each entry, each matrix read, each output once."""
    entries = tensor.nnz * (4 + sum(c.itemsize for c in tensor.coords))
    read = sum(n for m, n in enumerate(tensor.shape) if len(modes) > 1 or m not in modes)
    return entries + 4.0 * rank * (read + sum(tensor.shape[m] for m in modes))


def power_law_tensor(shape: tuple[int, ...], nnz: int) -> SparseTensor:
    """Entries at random, rows of every mode as popular as place^-0.5, sorted by the longest mode."""
    rng = np.random.default_rng(0)
    coords = [(n * rng.random(nnz, dtype=np.float32) ** 2).astype(np.int32).clip(0, n - 1) for n in shape]
    coords[0].sort()
    return SparseTensor(tuple(coords), rng.random(nnz, dtype=np.float32), shape)


def ring_laplacian(n: int, neighbours: int = 10) -> Any:
    """L of a graph in which each entity has so many neighbours, in a random order."""
    order = np.random.default_rng(0).permutation(n)
    steps = np.concatenate([np.arange(1, neighbours // 2 + 1), -np.arange(1, neighbours // 2 + 1)])
    rows = np.repeat(order, len(steps))
    columns = order[(np.arange(n)[:, None] + steps).ravel() % n]
    weights = scipy.sparse.csr_array((np.full(len(rows), 1 / len(steps)), (rows, columns)), shape=(n, n))
    laplacian = scipy.sparse.csr_array(scipy.sparse.eye_array(n) - weights)
    return laplacian.astype(np.float32)


def sweep_seconds(tensor: SparseTensor, rank: int, device: Any) -> float:
    """The median seconds of a sweep of the parallel schedule after the first."""
    sizes = {f"mode{m}": n for m, n in enumerate(tensor.shape)}
    hypergraph = Hypergraph(
        {m: Modality(m, np.arange(n).astype(str)) for m, n in sizes.items()},
        {"r": Relation("r", tuple(sizes), tensor.shape, tensor.nnz, lambda: tensor)},
        {},
    )
    training = TrainingSpec(groups={"all": rank}, sweeps=4, tolerance=0.0, start="random", dtype="float32")
    problem = problem_of(hypergraph, {"r": TermSettings("zero")}, training, {})
    model = fit(hypergraph, problem, training, device=device)
    return float(np.median([row["seconds"] for row in model.history[1:]]))


def copy_bandwidth(size: int = 1 << 30) -> float:
    """Bytes read and written per second by a copy in device memory."""
    block = to_device(np.zeros(size // 4, dtype=np.float32), "cuda")
    return 2 * size / seconds_of(block.copy)


def seconds_of(work: Callable[[], object]) -> float:
    """The shortest of several runs after one that is not counted, waited for on the device."""
    synchronize = import_module("cupy").cuda.Device().synchronize
    work()
    best = float("inf")
    for _ in range(REPEATS):
        synchronize()
        began = time.perf_counter()
        work()
        synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def _cupyx_product(laplacian: Any, block: Any) -> Callable[[], object]:
    matrix = import_module("cupyx.scipy.sparse").csr_matrix(scipy.sparse.csr_matrix(laplacian))
    return lambda: matrix @ block


def _row(data: str, task: str, method: str, metric: str, value: float) -> Row:
    return Row("gpu", data, task, method, metric, value, details={"dtype": "float32"})


if __name__ == "__main__":
    main()
