"""What a GPU makes of the kernels, of a sweep and of training, against its own bandwidth, CuPy and the CPU.

Runs the GPU tests first, measures, says which goals are met, and writes ``benchmarks/results/gpu-NAME.json``
after every part. Needs NumPy, SciPy, Numba, scikit-learn, CuPy, click and pytest only.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.gpu_kernels import copy_bandwidth, copy_row, kernel_rows, power_law_tensor
from benchmarks.gpu_training import neighbour_rows, sweep_rows, training_rows
from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.backend import check_device
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization import kernels

SHAPE = (480_000, 17_770, 2_182)
ON_CPU = 20_000_000  # nonzeros up to which every kernel is measured on the CPU as well
# Those that need no more than the benchmark does.
TESTS = (
    "tests/factorization/test_cuda_kernels.py",
    "tests/factorization/test_blocks.py",
    "tests/factorization/test_filters.py",
    "tests/factorization/test_objective.py",
    "tests/factorization/draws/test_posterior.py",
    "tests/hypergraph/test_nearest_on_device.py",
    "tests/training/test_on_device.py",
)
DATA_SETS = ("movielens-100k", "lastfm", "tate")


@click.command(help=__doc__)
@click.option("--name", required=True, help="Of the GPU, for the file of results.")
@click.option("--nnz", "sizes", multiple=True, default=(10_000_000, 100_000_000), show_default=True)
@click.option("--rank", "ranks", multiple=True, default=(32, 64), show_default=True)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help=f"Folder with the raw files of the data sets, in {', '.join(DATA_SETS)}: trained end to end.",
)
@click.option("--cpu-threads", default=2, show_default=True, help="Of the CPU that is compared with.")
@click.option("--tests/--no-tests", default=True, show_default=True, help="Run the GPU tests first.")
def main(
    name: str,
    sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    data: Path | None,
    cpu_threads: int,
    tests: bool,
) -> None:
    try:
        check_device("cuda")
    except InputError as error:
        click.echo(f"there is no GPU to measure: {error.problem}", err=True)
        sys.exit(2)
    kernels.limit_threads(cpu_threads)
    rows: list[Row] = []
    began = time.perf_counter()
    for row in _parts(sizes, ranks, data, tests):
        rows.append(row)
        click.echo(f"{time.perf_counter() - began:6.1f} s  {table([row]).splitlines()[-1]}", err=True)
        write_rows(rows, Path(__file__).parent / "results" / f"gpu-{name}.json")
    click.echo(table(rows))
    for line in goals(rows):
        click.echo(line)


def _parts(sizes: Sequence[int], ranks: Sequence[int], data: Path | None, tests: bool) -> Iterator[Row]:
    if tests:
        done = subprocess.run([sys.executable, "-m", "pytest", "-m", "gpu", *TESTS])
        yield Row("gpu", "tests marked gpu", "tests", "pytest", "exit_code", float(done.returncode))
    bandwidth = copy_bandwidth()
    yield copy_row(bandwidth)
    if data is not None:
        for name in DATA_SETS:
            yield from training_rows(name, data / name)
    yield from neighbour_rows()
    for nnz in sizes:
        tensor = power_law_tensor(SHAPE, nnz)
        for rank in ranks:
            yield from sweep_rows(tensor, rank)
            yield from kernel_rows(tensor, rank, bandwidth, on_cpu=nnz <= ON_CPU)


@dataclass(frozen=True)
class Goal:
    """A bound on the best of our ways at each task, on data and of tasks that begin so."""

    words: str
    metric: str
    bound: float
    task: str = ""
    data: str = ""
    at_least: bool = False

    def judged(self, rows: Sequence[Row]) -> Iterator[str]:
        """A line for each task that it is about."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            ours = row.method in ("pytest", "hyperlearn cuda", "hyperlearn cuda by row")
            asked = row.metric == self.metric and row.task.startswith(self.task)
            if ours and asked and row.data.startswith(self.data) and row.value is not None:
                found.setdefault((row.data, row.task), []).append(row.value)
        if not found:
            yield f"not measured: {self.words}"
        for (data, task), values in found.items():
            best = max(values) if self.at_least else min(values)
            met = best >= self.bound if self.at_least else best <= self.bound
            yield f"{'met' if met else 'NOT MET'}: {self.words}: {best:.4g} ({data}, {task})"


GOALS = (
    Goal("the tests pass (exit code)", "exit_code", 0),
    Goal("MTTKRP at half the roofline or more", "share_of_roofline", 0.5, "mttkrp", at_least=True),
    Goal("a sweep 40 times as fast as the CPU's", "ratio_to_cpu", 40, "sweep", at_least=True),
    Goal("a sweep of 10M in 5 ms or less", "seconds", 0.005, "sweep", "10000000 "),
    Goal("factors within 1e-4 of the CPU's in float32", "factor_difference", 1e-4, "training in float32"),
)


def goals(rows: Sequence[Row]) -> Iterator[str]:
    """Each goal beside what was measured."""
    for goal in GOALS:
        yield from goal.judged(rows)


if __name__ == "__main__":
    main()
