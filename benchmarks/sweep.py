"""How fast training is: seconds per sweep over all modes, beside other libraries in the same run.

``python -m benchmarks.sweep --json FILE [--tate tate4.tns.gz] [--quick | --doubling | --storage]``. Tensors
are power laws (an entry's index in each mode is drawn with probability 1/place^0.6) and, where its file is
given, the Tate collection's. All conversion and sorting is before the sweeps, in a row of its own.

``seconds_per_sweep`` is all of a sweep of ours: products of all modes, Grams, solves, conjugate directions
and the exact step with the objective; ``without_line_search`` leaves out the one pass over the entries that
only the exact step needs. ``ratio_to_pygenten`` and ``ratio_without_line_search`` divide them by an iteration
of pygenten's cp_als at its fastest method. ``seconds_to_objective`` is the time from the same start until
the objective that pygenten reaches in a given number of iterations, line searches included.

``of_copy`` says how the pass over all modes uses memory: the bytes that must come from it once (indices,
values and each matrix in and out), a second, beside what a copy on as many threads reaches. What it lacks
is not memory but caches and instructions: every entry also gathers a row of each short mode and adds to
another, from caches (``GB_per_second`` of ``gathers``). The experiment: the same pass with the short modes'
indices folded to 1,000 rows (they stay in the second cache), and to 32 (in the first, so that instructions
are all that is left).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import click
import numba
import numpy as np

from benchmarks import growth
from benchmarks.alternating import PYGENTEN, pygenten_history, pyttb_seconds
from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.kernels import dense
from hyperlearn_dask.hypergraph.coordinates import in_order
from hyperlearn_dask.hypergraph.tensor import SparseTensor

SHAPES = {
    "1M": (1_000_000, (48_000, 17_770, 2_182)),
    "1M order 4": (1_000_000, (48_000, 17_770, 2_182, 500)),
    "1M order 5": (1_000_000, (48_000, 17_770, 2_182, 500, 100)),
    "10M": (10_000_000, (480_000, 17_770, 2_182)),
    "10M, two long modes": (10_000_000, (480_000, 500_000, 2_182)),
}
QUICK = ("1M",)
REPEATS = 5
# Iterations of pygenten whose objective is to be reached, and sweeps of ours that may be taken to it.
GOAL = {"10M": 12, "Tate": 40}
PATIENCE = 4
DOUBLED = [1_000_000 * 2**k for k in range(7)]


@click.command()
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option(
    "--tate",
    type=click.Path(path_type=Path, exists=True),
    help="The Tate tensor (FROSTT text), then only it and --data.",
)
@click.option("--data", multiple=True, type=click.Choice(list(SHAPES)), help="Only these tensors.")
@click.option("--rank", "ranks", type=click.IntRange(1), multiple=True, default=(16, 32, 64))
@click.option("--quick", is_flag=True, help="1M entries, rank 32, one method of pygenten.")
@click.option("--method", "methods", multiple=True, type=click.Choice(PYGENTEN), default=PYGENTEN)
@click.option("--doubling", is_flag=True, help="Only 1M to 64M entries: what twice as many cost.")
@click.option("--storage", is_flag=True, help="Only 10M stored entries: streamed, and memory.")
@click.option("--limit", default=6.0, show_default=True, help="GiB that making the doubled entries may take.")
@click.option("--peers/--no-peers", default=True, help="Whether other libraries run too.")
def main(
    output: Path | None,
    tate: Path | None,
    data: tuple[str, ...],
    ranks: tuple[int, ...],
    quick: bool,
    methods: tuple[str, ...],
    doubling: bool,
    storage: bool,
    limit: float,
    peers: bool,
) -> None:
    """Seconds per sweep, ours and others'."""
    rows: list[Row] = []
    names = QUICK if quick else data or (() if tate or doubling or storage else tuple(SHAPES))
    for name in [*names, *(["Tate"] if tate is not None else [])]:
        began = time.perf_counter()
        tensor = power_law(*SHAPES[name]) if name in SHAPES else read_frostt(tate)
        rows.append(_row(name, "hyperlearn", "seconds_to_make_and_sort", time.perf_counter() - began))
        for rank in (32,) if quick else ranks:
            click.echo(f"{name}, rank {rank}", err=True)
            rows += rows_of(name, tensor, rank, peers, methods[:1] if quick else methods)
            if output is not None:
                write_rows(rows, output)
            if peers and not quick and name in GOAL and rank == 32:
                rows += _goal_rows(name, tensor, rank, _fastest(rows))
    if doubling:
        rows += _doubling_rows(int(limit * 2**30))
    if storage:
        rows += _storage_rows()
    if output is not None:
        write_rows(rows, output)
    click.echo(table(rows))


def rows_of(
    name: str, tensor: SparseTensor, rank: int, peers: bool, methods: tuple[str, ...]
) -> Iterator[Row]:
    """The rows of one tensor and rank."""
    row = partial(_row, name, rank=rank)
    theirs = None
    if peers:
        found = list(_pygenten_rows(name, tensor, rank, methods))
        yield from found
        theirs = min((r.value for r in found if r.value is not None), default=None)
        if tensor.nnz <= 1_000_000 and len(methods) > 1:
            seconds = pyttb_seconds(tensor, rank) if _installed("pyttb") else None
            yield row("pyttb cp_als", "seconds_per_sweep", seconds)
    for dtype in ("float32", "float64"):
        for schedule in ("parallel", "sequential"):
            whole, line = our_seconds(tensor, rank, dtype, schedule)
            ours = partial(row, f"hyperlearn {schedule} {dtype}", dtype=dtype)
            yield ours("seconds_per_sweep", whole)
            yield ours("without_line_search", whole - line)
            if theirs is not None:
                yield ours("ratio_to_pygenten", whole / theirs)
                yield ours("ratio_without_line_search", (whole - line) / theirs)
        yield from _product_rows(name, tensor, rank, dtype)


def _product_rows(name: str, tensor: SparseTensor, rank: int, dtype: str) -> Iterator[Row]:
    """The products of all modes in one pass, of each alone, and what bounds them."""
    matrices = tuple(np.random.default_rng(0).random((n, rank)).astype(dtype) for n in tensor.shape)
    typed = SparseTensor(tensor.coords, tensor.values.astype(dtype), tensor.shape)
    modes = tuple(range(tensor.order))

    def seconds(of: SparseTensor, wanted: tuple[int, ...]) -> float:
        return best(lambda: kernels.mttkrp(of, matrices, wanted))

    def row(what: str, metric: str, value: float) -> Row:
        return _row(name, f"hyperlearn product of {what} {dtype}", metric, value, rank, dtype)

    for mode in modes:
        yield row(f"mode {mode}", "seconds_per_pass", seconds(typed, (mode,)))
    for rows in (32, 1000):
        yield row(f"all modes, {rows} rows", "seconds_per_pass", seconds(folded(typed, rows), modes))
    whole, copy = seconds(typed, modes), copy_rate()
    yield row("all modes", "seconds_per_pass", whole)
    yield _row(name, "copy", "GB_per_second", copy, rank, dtype)
    yield row("all modes", "of_copy", bytes_from_memory(typed, rank) / whole / 1e9 / copy)
    yield row("all modes, gathers", "GB_per_second", bytes_gathered(typed, rank) / whole / 1e9)


def bytes_from_memory(tensor: SparseTensor, rank: int) -> int:
    """What a pass must move once: entries without the sort mode's index, matrices in and out."""
    indices = sum(c.itemsize for m, c in enumerate(tensor.coords) if m != tensor.sort_mode)
    matrices = 2 * sum(tensor.shape) * rank * tensor.values.itemsize
    return tensor.nnz * (indices + tensor.values.itemsize) + matrices


def bytes_gathered(tensor: SparseTensor, rank: int) -> int:
    """Per entry and short mode a row read, and a row of the output read and written."""
    return tensor.nnz * (tensor.order - 1) * 3 * rank * tensor.values.itemsize


def folded(tensor: SparseTensor, rows: int) -> SparseTensor:
    """The same entries with few rows in all modes but the sort mode."""
    sort = tensor.sort_mode
    coords = tuple(c if m == sort else c % rows for m, c in enumerate(tensor.coords))
    return replace(tensor, coords=coords)


def copy_rate() -> float:
    """GB a second read and written by a copy on all threads that does not fit in caches."""
    source = np.ones((1_000_000, 32))
    return 2 * source.nbytes / 1e9 / best(lambda: dense.moved(source, 1.0, source))


def best(run: Callable[[], object]) -> float:
    """The least seconds of a few runs, after one that compiles."""
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def our_seconds(tensor: SparseTensor, rank: int, dtype: str, schedule: str) -> tuple[float, float]:
    """The median of a few sweeps after the first ones: all of it, and its pass for the exact step."""
    hypergraph = growth.hypergraph_of(tensor)
    run = list(
        growth.reports(hypergraph, growth.start_of(tensor, rank, dtype), schedule, growth.WARM + REPEATS)
    )
    seconds = [report.seconds for report in run[growth.WARM :]]
    lines = [
        sum(s for step, s in report.seconds_by.items() if step.startswith("line-"))
        for report in run[growth.WARM :]
    ]
    return float(np.median(seconds)), float(np.median(lines))


def _pygenten_rows(name: str, tensor: SparseTensor, rank: int, methods: tuple[str, ...]) -> Iterator[Row]:
    """An iteration of pygenten's cp_als at each of its methods."""
    start = list(growth.start_of(tensor, rank, "float64").values())
    count = 3 if tensor.nnz > 5_000_000 else 8
    for method in methods:
        seconds = None
        if _installed("pygenten"):
            history = pygenten_history(tensor, start, count, method)
            seconds = (history[-1][0] - history[1][0]) / (count - 1)  # the first iteration prepares
        yield _row(name, f"pygenten cp_als {method}", "seconds_per_sweep", seconds, rank, "float64")


def _fastest(rows: list[Row]) -> str | None:
    """The fastest of pygenten's methods in the rows of the last tensor and rank."""
    prefix = "pygenten cp_als "
    timed = [(r.value, r.method) for r in rows if r.task == rows[-1].task and r.method.startswith(prefix)]
    known = [(value, method) for value, method in timed if value is not None]
    return min(known)[1].removeprefix(prefix) if known else None


def _goal_rows(name: str, tensor: SparseTensor, rank: int, method: str | None) -> Iterator[Row]:
    """Time from the same start to the same objective: pygenten's at its fastest, ours by each schedule."""
    if method is None:
        return
    start = growth.start_of(tensor, rank, "float64")
    count = GOAL[name]
    history = pygenten_history(tensor, list(start.values()), count, method)
    theirs, goal = history[-1]
    row = partial(_row, f"{name} to F = {goal:.6g}", rank=rank)
    yield row(f"pygenten cp_als {method}, {count} iterations", "seconds_to_objective", theirs)
    narrow = {m: a.astype(np.float32) for m, a in start.items()}
    hypergraph = growth.hypergraph_of(tensor)
    for schedule in ("parallel", "sequential"):
        for _ in growth.reports(hypergraph, narrow, schedule, 2):
            pass  # compiled
        seconds, taken = 0.0, 0
        found = None
        for report in growth.reports(hypergraph, narrow, schedule, PATIENCE * count):
            seconds, taken = seconds + report.seconds, taken + 1
            if report.parts["fit entries"] <= goal:
                found = seconds
                break
        ours = partial(row, f"hyperlearn {schedule} float32", note=f"not in {taken} sweeps")
        yield ours("seconds_to_objective", found, dtype="float32")
        if found is not None:
            yield ours("sweeps_to_objective", taken)
            yield ours("objective_ratio_to_pygenten", found / theirs)


def _doubling_rows(limit: int) -> Iterator[Row]:
    """Sweeps over more and more entries, as many as can be made in so many bytes."""
    shape = SHAPES["10M"][1]
    sizes = [size for size in DOUBLED if growth.fits(size, len(shape), limit)]
    before = None
    for size, seconds in growth.doubling(lambda n: power_law(n, shape), sizes, 32):
        row = partial(_row, f"{size / 1e6:g}M", "hyperlearn parallel float32", rank=32)
        yield row("seconds_per_sweep", seconds)
        if before is not None:
            yield row("ratio_to_half", seconds / before)
        before = seconds


def _storage_rows() -> Iterator[Row]:
    """Stored entries, read in every sweep or held, and the memory of a training."""
    tensor = power_law(*SHAPES["10M"])
    held, read = growth.streamed(tensor, 32)
    row = partial(_row, "10M", rank=32)
    yield row("hyperlearn, entries held", "seconds_per_sweep", held)
    yield row("hyperlearn, entries streamed", "seconds_per_sweep", read)
    yield row("hyperlearn, entries streamed", "ratio_to_held", read / held)
    for schedule in ("parallel", "sequential"):
        peak = growth.peak_of_training(tensor, 32, schedule)
        ours = partial(row, f"hyperlearn {schedule} float32")
        yield ours("peak_MiB", (peak.most - peak.before) / 2**20)
        yield ours("ratio_to_needed", peak.ratio)
    yield row("entries, factors, private outputs", "peak_MiB", peak.needed / 2**20)


def _installed(library: str) -> bool:
    return find_spec(library) is not None


def power_law(nnz: int, shape: tuple[int, ...], seed: int = 0) -> SparseTensor:
    """Entries drawn independently per mode by a power law, each mode permuted; duplicates added up."""
    rng = np.random.default_rng(seed)
    drawn = []
    for n in shape:
        edges = np.cumsum(np.arange(1, n + 1) ** -0.6)
        drawn.append(np.searchsorted(edges / edges[-1], rng.random(nnz)).astype(np.int32))
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
    details |= {"note": note or "skipped: not installed"} if value is None else {}
    task = f"{data}, rank {rank}" if rank else data
    return Row("sweep", data, task, method, metric, value, details=details)


if __name__ == "__main__":
    main()
