"""How fast training is: seconds per sweep over all modes, beside other libraries in the same run.

``python -m benchmarks.sweep --json FILE [--tate tate4.tns.gz] [--quick]``. Tensors are power laws (an
entry's index in each mode is drawn with probability 1/place^0.6) and, where its file is given, the
Tate collection's. A sweep of ours is all of a parallel sweep: products of all modes, Grams, solves,
conjugate directions and the exact step with the objective. What comes before the sweeps is a row of
its own, as is each mode's product alone. ``of_copy`` is the rate at which the pass over all modes
moves the bytes it must, beside what ``numpy.copyto`` reaches in the same run.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import numba
import numpy as np

from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.problem import build_problem
from hyperlearn_dask.hypergraph.coordinates import in_order
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.executor import LocalExecutor, Setting
from hyperlearn_dask.training.schedule import sweeps

SHAPES = {
    "1M": (1_000_000, (48_000, 17_770, 2_182)),
    "1M order 4": (1_000_000, (48_000, 17_770, 2_182, 500)),
    "1M order 5": (1_000_000, (48_000, 17_770, 2_182, 500, 100)),
    "10M": (10_000_000, (480_000, 17_770, 2_182)),
    "10M, two long modes": (10_000_000, (480_000, 500_000, 2_182)),
}
QUICK = ("1M",)
# How pygenten can form its products; the fastest is compared with.
PYGENTEN = ("MttkrpSingle", "MttkrpAtomic", "MttkrpDuplicated", "MttkrpPerm")
REPEATS = 3


@click.command()
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--tate", type=click.Path(path_type=Path, exists=True), help="The Tate tensor (FROSTT text).")
@click.option("--data", multiple=True, type=click.Choice(list(SHAPES)), help="Only these tensors.")
@click.option("--rank", "ranks", type=click.IntRange(1), multiple=True, default=(16, 32, 64))
@click.option("--quick", is_flag=True, help="1M entries, rank 32, one method of pygenten.")
@click.option("--peers/--no-peers", default=True, help="Whether other libraries run too.")
def main(
    output: Path | None,
    tate: Path | None,
    data: tuple[str, ...],
    ranks: tuple[int, ...],
    quick: bool,
    peers: bool,
) -> None:
    """Seconds per sweep, ours and others'."""
    rows: list[Row] = []
    names = QUICK if quick else data or tuple(SHAPES)
    for name in [*names, *(["Tate"] if tate is not None else [])]:
        began = time.perf_counter()
        tensor = power_law(*SHAPES[name]) if name in SHAPES else read_frostt(tate)
        rows.append(_row(name, "hyperlearn", "seconds_to_make_and_sort", time.perf_counter() - began))
        for rank in (32,) if quick else ranks:
            click.echo(f"{name}, rank {rank}", err=True)
            rows += rows_of(name, tensor, rank, peers, quick)
            if output is not None:
                write_rows(rows, output)
    click.echo(table(rows))


def rows_of(name: str, tensor: SparseTensor, rank: int, peers: bool, quick: bool) -> Iterator[Row]:
    """The rows of one tensor and rank."""
    theirs: dict[str, float | None] = dict.fromkeys(("pygenten", "pyttb"))
    if peers:
        yield from _pygenten_rows(name, tensor, rank, theirs, PYGENTEN[:1] if quick else PYGENTEN)
        if tensor.nnz <= 1_000_000 and not quick:
            theirs["pyttb"] = pyttb_seconds(tensor, rank)
            yield _row(name, "pyttb cp_als", "seconds_per_sweep", theirs["pyttb"], rank, "float64")
    copy = copy_rate()
    yield _row(name, "numpy copyto", "GB_per_second", copy, rank)
    for dtype in ("float32", "float64"):
        for schedule in ("parallel", "sequential"):
            seconds = our_seconds(tensor, rank, dtype, schedule)
            method = f"hyperlearn {schedule} {dtype}"
            yield _row(name, method, "seconds_per_sweep", seconds, rank, dtype)
            if theirs["pygenten"] is not None:
                yield _row(name, method, "ratio_to_pygenten", seconds / theirs["pygenten"], rank, dtype)
        matrices = tuple(np.random.default_rng(0).random((n, rank)).astype(dtype) for n in tensor.shape)
        typed = SparseTensor(tensor.coords, tensor.values.astype(dtype), tensor.shape)
        modes = tuple(range(tensor.order))
        for wanted in [modes, *((m,) for m in modes)]:
            seconds = best(partial(kernels.mttkrp, typed, matrices, wanted))
            what = "all modes" if wanted == modes else f"mode {wanted[0]}"
            method = f"hyperlearn product of {what} {dtype}"
            yield _row(name, method, "seconds_per_pass", seconds, rank, dtype)
            if wanted == modes:
                rate = bytes_of_pass(typed, rank) / seconds / 1e9
                yield _row(name, method, "of_copy", rate / copy, rank, dtype)


def bytes_of_pass(tensor: SparseTensor, rank: int) -> int:
    """What a pass over all modes must move if nothing stays in a cache between entries.

    Per entry its indices (but the sort mode's) and value, and of each other mode a row read and a row
    of the output read and written; per row of the sort mode one read and one written.
    """
    row = rank * tensor.values.itemsize
    indices = sum(c.itemsize for m, c in enumerate(tensor.coords) if m != tensor.sort_mode)
    per_entry = indices + tensor.values.itemsize + 3 * row * (tensor.order - 1)
    return tensor.nnz * per_entry + 2 * row * tensor.shape[tensor.sort_mode]


def copy_rate() -> float:
    """GB a second read and written by a copy that does not fit in caches."""
    source = np.ones(32_000_000)
    target = np.empty_like(source)
    return 2 * source.nbytes / 1e9 / best(lambda: np.copyto(target, source))


def best(run: Callable[[], object]) -> float:
    """The least seconds of a few runs, after one that compiles."""
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def our_seconds(tensor: SparseTensor, rank: int, dtype: str, schedule: str) -> float:
    """The median of a few sweeps after the first two."""
    names, hypergraph = in_memory(tensor)
    executor = LocalExecutor(hypergraph, Setting(dtype, {"entries": 0.0}, {}))
    sizes = dict(zip(names, tensor.shape))
    problem = build_problem(sizes, {"entries": names}, {}, {"all": rank}, {}, 1e-6)
    rng = np.random.default_rng(0)
    factors = {m: rng.random((n, rank)).astype(dtype) for m, n in sizes.items()}
    run = sweeps(problem, executor, factors, schedule)
    return float(np.median([report.seconds for report, _, _ in itertools.islice(run, 5)][2:]))


def in_memory(tensor: SparseTensor) -> tuple[tuple[str, ...], Hypergraph]:
    """A hypergraph of one relation, ``entries``, and the names of its modalities."""
    names = tuple(f"m{mode}" for mode in range(tensor.order))
    relation = Relation("entries", names, tensor.shape, tensor.nnz, lambda: tensor)
    entities = {m: Modality(m, np.arange(n).astype(str)) for m, n in zip(names, tensor.shape)}
    return names, Hypergraph(entities, {"entries": relation}, {})


def _pygenten_rows(
    name: str, tensor: SparseTensor, rank: int, theirs: dict[str, float | None], methods: tuple[str, ...]
) -> Iterator[Row]:
    """pygenten at each of its methods; the fastest is kept in ``theirs``."""
    try:
        import pygenten
    except ModuleNotFoundError:
        yield _row(name, "pygenten cp_als", "seconds_per_sweep", None, rank, note="skipped: not installed")
        return
    subscripts = np.stack(tensor.coords, axis=1).astype(np.int64)
    theirs_tensor = pygenten.Sptensor(tensor.shape, subscripts, tensor.values.astype(np.float64))
    for method in methods:

        def run(sweeps: int, method: str = method) -> float:
            began = time.perf_counter()
            with quiet():
                pygenten.cp_als(
                    theirs_tensor,
                    rank=rank,
                    maxiters=sweeps,
                    tol=0.0,
                    seed=1,
                    printitn=0,
                    mttkrp_method=getattr(pygenten, method),
                )
            return time.perf_counter() - began

        # The difference of two runs: what they prepare is in both.
        few, more = (1, 3) if tensor.nnz > 5_000_000 else (1, 6)
        run(1)
        seconds = (run(more) - run(few)) / (more - few)
        yield _row(name, f"pygenten cp_als {method}", "seconds_per_sweep", seconds, rank, "float64")
        theirs["pygenten"] = min(seconds, theirs["pygenten"] or seconds)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what a library in C++ prints to stdout."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def pyttb_seconds(tensor: SparseTensor, rank: int) -> float | None:
    """pyttb's cp_als, an iteration, by the difference of two runs."""
    try:
        import pyttb
    except ModuleNotFoundError:
        return None
    subscripts = np.stack(tensor.coords, axis=1).astype(np.int64)
    theirs = pyttb.sptensor(subscripts, tensor.values[:, None].astype(np.float64), tensor.shape)

    def run(sweeps: int) -> float:
        began = time.perf_counter()
        pyttb.cp_als(theirs, rank, maxiters=sweeps, stoptol=0.0, printitn=0)
        return time.perf_counter() - began

    return run(2) - run(1)


def power_law(nnz: int, shape: tuple[int, ...], seed: int = 0) -> SparseTensor:
    """Entries drawn independently per mode by a power law, each mode permuted; duplicates added up."""
    rng = np.random.default_rng(seed)
    drawn = []
    for n in shape:
        edges = np.cumsum(np.arange(1, n + 1) ** -0.6)
        drawn.append(np.searchsorted(edges / edges[-1], rng.random(nnz)))
    coords = tuple(rng.permutation(n).astype(np.int32)[c] for n, c in zip(shape, drawn))
    return _in_order(coords, shape)


def read_frostt(path: Path | None) -> SparseTensor:
    """A tensor in FROSTT's text format: indices from 1, then the value."""
    assert path is not None
    columns = np.loadtxt(path)
    coords = tuple((c - 1).astype(np.int32) for c in columns[:, :-1].T)
    return _in_order(coords, tuple(int(c.max()) + 1 for c in coords))


def _in_order(coords: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> SparseTensor:
    found = in_order(coords, np.ones(len(coords[0])), shape)
    assert isinstance(found, tuple)
    return found[0]


def _row(
    data: str,
    method: str,
    metric: str,
    value: float | None,
    rank: int = 0,
    dtype: str = "",
    note: str = "",
) -> Row:
    details: dict[str, str | int | float | None] = {"threads": numba.get_num_threads()}
    details |= {"rank": rank} if rank else {}
    details |= {"dtype": dtype} if dtype else {}
    details |= {"note": note or "no figure"} if value is None else {}
    task = f"{data}, rank {rank}" if rank else data
    return Row("sweep", data, task, method, metric, value, details=details)


if __name__ == "__main__":
    main()
