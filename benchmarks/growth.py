"""What a sweep costs where there is more data: twice the entries, entries on disk, and its memory."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numba
import numpy as np
import psutil

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.problem import Problem, build_problem
from hyperlearn_dask.factorization.starts import SAMPLE, sample, start_factors
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.executor import LocalExecutor, Setting
from hyperlearn_dask.training.fit import fit
from hyperlearn_dask.training.report import SweepReport
from hyperlearn_dask.training.schedule import sweeps
from hyperlearn_dask.training.streaming import streams

# Sweeps that are not counted: they compile, and touch memory for the first time.
WARM = 3


@dataclass(frozen=True)
class Peak:
    """Bytes of a training's process: before it, at most, and what it cannot do without."""

    before: int
    most: int
    needed: int

    @property
    def ratio(self) -> float:
        return (self.most - self.before) / self.needed


def hypergraph_of(tensor: SparseTensor) -> Hypergraph:
    """One relation, of the tensor's entries, and modalities without labels."""
    names = tuple(f"m{mode}" for mode in range(tensor.order))
    relation = Relation("entries", names, tensor.shape, tensor.nnz, lambda: tensor)
    entities = {m: Modality(m, np.arange(n).astype(str)) for m, n in zip(names, tensor.shape)}
    return Hypergraph(entities, {"entries": relation}, {})


def problem_of(hypergraph: Hypergraph, rank: int) -> Problem:
    relation = hypergraph.relations["entries"]
    sizes = dict(zip(relation.modalities, relation.shape))
    return build_problem(sizes, {"entries": relation.modalities}, {}, {"all": rank}, {}, 1e-6)


def reports(
    hypergraph: Hypergraph,
    start: dict[str, np.ndarray],
    schedule: str,
    count: int,
    memory_limit: int | None = None,
) -> Iterator[SweepReport]:
    """The reports of the first sweeps from a start, in this process."""
    dtype = str(next(iter(start.values())).dtype)
    parts = {} if memory_limit is None else streams(hypergraph, dtype, memory_limit)
    executor = LocalExecutor(hypergraph, Setting(dtype, {"entries": 0.0}, {}), parts)
    problem = problem_of(hypergraph, next(iter(start.values())).shape[1])
    run = sweeps(problem, executor, start, schedule)
    del start
    # No point or direction is kept while the next sweep runs.
    yield from map(itemgetter(0), itertools.islice(run, count))
    executor.close()


def start_of(tensor: SparseTensor, rank: int, dtype: str) -> dict[str, np.ndarray]:
    """Degrees times random numbers: a start that does not collapse on power laws."""
    problem = problem_of(hypergraph_of(tensor), rank)
    return start_factors(problem, {"entries": sample(tensor, SAMPLE)}, "degree", 0, dtype)


def seconds_of_sweep(
    hypergraph: Hypergraph, start: dict[str, np.ndarray], memory_limit: int | None = None
) -> float:
    """The median of a few parallel sweeps."""
    run = reports(hypergraph, start, "parallel", WARM + 3, memory_limit)
    return float(np.median([report.seconds for report in run][WARM:]))


def doubling(make: Callable[[int], SparseTensor], sizes: list[int], rank: int) -> Iterator[tuple[int, float]]:
    """Entries asked for, and seconds of a sweep over them."""
    for size in sizes:
        tensor = make(size)
        yield size, seconds_of_sweep(hypergraph_of(tensor), start_of(tensor, rank, "float32"))


def fits(size: int, order: int, limit: int) -> bool:
    """Whether so many entries can be made and sorted in so many bytes: about ten numbers of 8 bytes each."""
    return size * 8 * (2 * order + 4) <= limit


def streamed(tensor: SparseTensor, rank: int) -> tuple[float, float]:
    """Seconds of a sweep over stored entries that are held in memory, and that are read in every pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hypergraph.zarr"
        save_hypergraph(hypergraph_of(tensor), path)
        start = start_of(tensor, rank, "float32")
        held = seconds_of_sweep(open_hypergraph(path), start)
        entries = tensor.nnz * (4 * tensor.order + 12)
        read = seconds_of_sweep(open_hypergraph(path), start, memory_limit=entries // 2)
    return held, read


def peak_of_training(tensor: SparseTensor, rank: int, schedule: str) -> Peak:
    """A training's memory, in a process of its own that has compiled the kernels before."""
    few = SparseTensor((np.arange(3, dtype=np.int32),) * 3, np.ones(3), (3, 3, 3))
    with tempfile.TemporaryDirectory() as folder:
        stores = [Path(folder) / f"{name}.zarr" for name in ("few", "all")]
        for store, entries in zip(stores, (few, tensor)):
            save_hypergraph(hypergraph_of(entries), store)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            return fresh.submit(_peak_here, stores[0], stores[1], rank, schedule).result()


def _peak_here(few: Path, store: Path, rank: int, schedule: str) -> Peak:
    training = TrainingSpec(groups={"all": rank}, schedule=schedule, sweeps=WARM, dtype="float32")  # type: ignore[arg-type]

    def train(path: Path) -> None:
        hypergraph = open_hypergraph(path)
        fit(hypergraph, problem_of(hypergraph, rank), training)

    train(few)
    arrays.forget()
    gc.collect()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is now what there is
    train(store)
    status = Path("/proc/self/status").read_text()
    most = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))
    relation = open_hypergraph(store).relations["entries"]
    short = sum(relation.shape) - max(relation.shape)
    # one sorted copy, factors, private outputs
    needed = relation.nnz * 4 * (len(relation.shape) + 1)
    needed += 4 * rank * (sum(relation.shape) + numba.get_num_threads() * short)
    return Peak(before, most, needed)
