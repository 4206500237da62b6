"""What this machine can do, measured within seconds by our own kernels; and what others are said to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.kernels import dense
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.placing.cost import TOUCH, Machine

_RANK = 16  # of the tables: rows of 128 bytes
_ROWS = (2_000, 16_000, 64_000, 400_000)  # from what caches hold to what they do not
_ENTRIES = 500_000  # of the shorter pass at least, so that rows are met again as in a sweep
_REPEATS = 3

# Not measured: half of what the makers say of memory and arithmetic, and a network of 200 Gbit/s. Dask's
# messages are taken to be as slow as on two cores.
PRESETS: Mapping[str, Machine] = MappingProxyType(
    {
        "a100": Machine(1.0e12, ((2e7, 2.5e12), (2e8, 5e11)), 3.9e13, 2.5e10, 1e-3, 80e9, 1e9, by_row=False),
        "h100": Machine(1.7e12, ((2e7, 4.0e12), (2e8, 8e11)), 1.3e14, 2.5e10, 1e-3, 80e9, 1e9, by_row=False),
    }
)


def measure(threads: int, memory: float) -> Machine:
    """The rates of so many threads of this machine: of each probe the best of a few runs.

    Time is the processor's, shared out among the threads: waiting for a core is not in it.
    """
    kernels.limit_threads(threads)
    rng = np.random.default_rng(0)
    large = rng.random((400_000, _RANK))
    stream = 3 * large.nbytes / _best(lambda: dense.moved(large, 0.5, large), threads)
    tall = rng.random((4_000, 32))
    arithmetic = len(tall) * 32 * 32 * tall.itemsize / _best(lambda: dense.grams(((tall, tall),)), threads)
    gather = [_gathering(rng, rows, threads) for rows in _ROWS]
    for at in range(len(gather) - 2, -1, -1):  # rows of less are never further away
        gather[at] = gather[at][0], max(gather[at][1], gather[at + 1][1])
    return Machine(stream, tuple(gather), arithmetic, memory=memory)


def with_bandwidth(machine: Machine, bandwidth: float) -> Machine:
    """A machine with another memory: of the rates of ``machine``, those are scaled that memory sets."""
    factor = bandwidth / machine.stream
    (near, *_), far = machine.gather, machine.gather[-1]
    return replace(machine, stream=bandwidth, gather=(near, (far[0], far[1] * factor)))


def _gathering(rng: np.random.Generator, rows: int, threads: int) -> tuple[float, float]:
    """Bytes of tables of so many rows, and the rate of a pass that goes anywhere in them.

    By the difference of two passes: what does not grow with the entries is in both.
    """
    matrices = tuple(rng.random((rows, _RANK)) for _ in range(2))

    def seconds(entries: int) -> float:
        coords = tuple(rng.integers(0, rows, entries).astype(np.int32) for _ in range(2))
        tensor = SparseTensor((np.sort(coords[0]), coords[1]), rng.random(entries), (rows, rows))
        return _best(lambda: kernels.mttkrp(tensor, matrices, (0, 1)), threads)

    few = max(_ENTRIES, rows)
    row = matrices[0].nbytes / rows
    taken = max(seconds(3 * few) - seconds(few), 1e-4)
    return 2 * rows * row, 2 * few * (3 * row + TOUCH) / taken


def _best(run: Callable[[], object], threads: int) -> float:
    """The least processor seconds per thread, after a run that compiles."""
    run()
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        run()
        taken.append(time.process_time() - began)
    return max(min(taken) / threads, 1e-9)
