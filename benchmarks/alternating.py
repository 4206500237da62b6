"""Alternating least squares of other libraries: how long each iteration took, and where it led."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from hyperlearn_dask.hypergraph.tensor import SparseTensor

# How pygenten can form its products; the fastest is compared with.
PYGENTEN = ("MttkrpSingle", "MttkrpAtomic", "MttkrpDuplicated", "MttkrpPerm")


def pygenten_history(
    tensor: SparseTensor, start: Sequence[np.ndarray], iterations: int, method: str
) -> list[tuple[float, float]]:
    """pygenten's cp_als from given factors: seconds since its start, and ||X - [[A]]||^2, of every iteration.

    The first is the start itself, at 0 seconds: what pygenten prepares before it is left out.
    """
    import pygenten

    subscripts = np.stack(tensor.coords, axis=1).astype(np.int64)
    rank = start[0].shape[1]
    with quiet():
        factors = [np.asfortranarray(a, dtype=np.float64) for a in start]
        *_, history = pygenten.cp_als(
            pygenten.Sptensor(tensor.shape, subscripts, tensor.values.astype(np.float64)),
            init=pygenten.Ktensor(np.ones(rank), factors),
            maxiters=iterations,
            tol=0.0,
            printitn=0,
            mttkrp_method=getattr(pygenten, method),
        )
        # Copies: what pygenten made must be gone before the interpreter ends.
        entries = [history[at] for at in range(iterations + 1)]
        return [(e.cum_time - entries[0].cum_time, e.residual**2) for e in entries]


def pyttb_seconds(tensor: SparseTensor, rank: int) -> float:
    """pyttb's cp_als, an iteration, by the difference of two runs."""
    import pyttb

    subscripts = np.stack(tensor.coords, axis=1).astype(np.int64)
    theirs = pyttb.sptensor(subscripts, tensor.values[:, None].astype(np.float64), tensor.shape)

    def run(sweeps: int) -> float:
        began = time.perf_counter()
        pyttb.cp_als(theirs, rank, maxiters=sweeps, stoptol=0.0, printitn=0)
        return time.perf_counter() - began

    return run(2) - run(1)


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
