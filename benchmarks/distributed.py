"""What training on workers costs beside training in this process, and whether it keeps what it should not.

``python -m benchmarks.distributed --json FILE [--task overhead] [--task large] [--task memory]``.

``overhead``: seconds per sweep on tensors so small that nothing but the engine takes time, by the number of
modalities; per modality the bar is 15 ms. ``large``: seconds per sweep of the 10M tensor of
:mod:`benchmarks.sweep` on two workers with a thread each, over those of this process with two threads; the
bar is 1.15. ``memory``: resident memory of the client, of which the scheduler is a part, and of the workers
from sweep 50 to 500; the bar is 50 MB between the least and the most.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
import numba
import numpy as np
import psutil

from benchmarks.output import Detail, Row, table, write_rows
from benchmarks.sweep import SHAPES, power_law
from hyperlearn_dask.cluster import local_cluster
from hyperlearn_dask.factorization.problem import Problem, build_problem
from hyperlearn_dask.hypergraph.coordinates import in_order
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.executor import Executor, LocalExecutor, Setting, held
from hyperlearn_dask.training.schedule import sweeps
from hyperlearn_dask.training.workers.distributed import DaskExecutor

RANK = 32
DTYPE = "float32"
WORKERS = 2
WARM = 5  # sweeps in which shards are loaded and kernels are compiled
TINY, TINY_ENTRIES, TINY_SWEEPS = 50, 500, 100
LARGE_SWEEPS = 25
MEMORY_SHAPE, MEMORY_ENTRIES, MEMORY_SWEEPS, MEMORY_FROM = (20_000, 2_000, 200), 200_000, 500, 50
MODALITIES = (2, 3, 4)
Check = Callable[[Path], Iterator[Row]]


@click.command()
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--task", "tasks", multiple=True, type=click.Choice(["overhead", "large", "memory"]))
def main(output: Path | None, tasks: tuple[str, ...]) -> None:
    """Overhead, a large tensor, memory."""
    checks: Mapping[str, Check] = {"overhead": overhead_rows, "large": large_rows, "memory": memory_rows}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="hyperlearn-distributed-") as folder:
        for name in tasks or checks:
            for row in checks[name](Path(folder)):
                rows.append(row)
                if output is not None:
                    write_rows(rows, output)
    click.echo(table(rows))


def overhead_rows(folder: Path) -> Iterator[Row]:
    """Tiny tensors: what is left is the engine."""
    for count in MODALITIES:
        path = stored(random_tensor((TINY,) * count, TINY_ENTRIES), folder / f"{count}.zarr")
        here, there = here_and_there(path, TINY_SWEEPS)
        task = f"{count} modalities of {TINY}"
        yield _row(task, "hyperlearn in process", "seconds_per_sweep", here)
        yield _row(task, f"hyperlearn on {WORKERS} workers", "seconds_per_sweep", there)
        overhead = 1e3 * (there - here) / count
        yield _row(task, f"hyperlearn on {WORKERS} workers", "overhead_ms_per_modality", overhead, bar=15.0)


def large_rows(folder: Path) -> Iterator[Row]:
    """The 10M tensor."""
    path = stored(power_law(*SHAPES["10M"]), folder / "10M.zarr")
    here, there = here_and_there(path, LARGE_SWEEPS)
    yield _row("10M", "hyperlearn in process", "seconds_per_sweep", here)
    yield _row("10M", f"hyperlearn on {WORKERS} workers", "seconds_per_sweep", there)
    yield _row("10M", f"hyperlearn on {WORKERS} workers", "ratio_to_in_process", there / here, bar=1.15)


def memory_rows(folder: Path) -> Iterator[Row]:
    """Whether memory grows with the sweeps."""
    from distributed import Client

    path = stored(random_tensor(MEMORY_SHAPE, MEMORY_ENTRIES), folder / "memory.zarr")
    seen: dict[str, list[int]] = {"client": []}
    with local_cluster("local", (), workers=WORKERS, threads=1) as cluster, Client(cluster) as client:

        def look(sweep: int) -> None:
            if sweep >= MEMORY_FROM and sweep % 10 == 0:
                seen["client"].append(resident())
                for number, value in enumerate(client.run(resident).values()):
                    seen.setdefault(f"worker {number}", []).append(value)

        executor = on_workers(path, client)
        try:
            trained(path, executor, MEMORY_SWEEPS, look)
        finally:
            executor.close()
    for who, values in seen.items():
        task = f"sweeps {MEMORY_FROM} to {MEMORY_SWEEPS}"
        yield _row(task, f"hyperlearn, {who}", "resident_MB", values[0] / 1e6)
        yield _row(task, f"hyperlearn, {who}", "range_MB", (max(values) - min(values)) / 1e6, bar=50.0)


def here_and_there(path: Path, count: int) -> tuple[float, float]:
    """Seconds of a sweep in this process with a thread per worker, and on the workers."""
    from distributed import Client

    threads = numba.get_num_threads()
    numba.set_num_threads(min(WORKERS, threads))
    here = trained(path, LocalExecutor(open_hypergraph(path), _setting()), count)
    numba.set_num_threads(threads)
    with (
        local_cluster("local", (), workers=WORKERS, threads=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        executor = on_workers(path, client)
        try:
            return here, trained(path, executor, count)
        finally:
            executor.close()


def trained(path: Path, executor: Executor, count: int, look: Callable[[int], None] | None = None) -> float:
    """The mean seconds of so many sweeps after the first few, by the clock, from a random start.

    The mean, as sweeps that are given ahead may end together.
    """
    problem = problem_of(path)
    rng = np.random.default_rng(0)
    factors = {m: rng.random((n, RANK)).astype(DTYPE) for m, n in problem.sizes.items()}
    run = sweeps(problem, executor, held(executor, factors), "parallel")
    began = 0.0
    for report, _, _ in itertools.islice(run, WARM + count):
        if look is not None:
            look(report.sweep)
        if report.sweep == WARM:
            began = time.perf_counter()
    return (time.perf_counter() - began) / count


def on_workers(path: Path, client: object) -> DaskExecutor:
    """An executor on the workers of a client."""
    return DaskExecutor(client, open_hypergraph(path), _setting(), problem_of(path))


def problem_of(path: Path) -> Problem:
    """The problem of a stored hypergraph's one relation."""
    sizes = {m: len(entities) for m, entities in open_hypergraph(path).modalities.items()}
    return build_problem(sizes, {"joined": tuple(sizes)}, {}, {"all": RANK}, {}, 1e-2)


def stored(tensor: SparseTensor, path: Path) -> Path:
    """A hypergraph of one relation."""
    names = tuple(f"m{mode}" for mode in range(tensor.order))
    entities = {m: Modality(m, np.arange(n).astype(str)) for m, n in zip(names, tensor.shape)}
    relation = Relation("joined", names, tensor.shape, tensor.nnz, lambda: tensor)
    save_hypergraph(Hypergraph(entities, {"joined": relation}, {}), path)
    return path


def random_tensor(shape: tuple[int, ...], entries: int) -> SparseTensor:
    """Entries anywhere."""
    rng = np.random.default_rng(0)
    coords = tuple(rng.integers(0, n, entries).astype(np.int32) for n in shape)
    found = in_order(coords, rng.random(entries), shape, "last")
    assert isinstance(found, tuple)
    return found[0]


def resident() -> int:
    """The bytes of memory that this process has; runs on workers too."""
    return int(psutil.Process().memory_info().rss)


def _setting() -> Setting:
    return Setting(DTYPE, {"joined": 0.0}, {})


def _row(task: str, method: str, metric: str, value: float, bar: float | None = None) -> Row:
    details: dict[str, Detail] = {"rank": RANK, "dtype": DTYPE, "workers": WORKERS}
    details |= {} if bar is None else {"bar": bar}
    return Row("distributed", task, task, method, metric, value, details=details)


if __name__ == "__main__":
    main()
