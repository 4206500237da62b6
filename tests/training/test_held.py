"""What a training in this process holds in memory."""

import tracemalloc
from itertools import islice

import numpy as np
import pytest

from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.problem import build_problem
from hyperlearn_dask.hypergraph.coordinates import in_order
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation
from hyperlearn_dask.training.executor import LocalExecutor, Setting
from hyperlearn_dask.training.schedule import sweeps

SIZES = {"user": 40_000, "movie": 60, "tag": 40}
RANK = 32


@pytest.mark.parametrize(("schedule", "most"), [("parallel", 4.5), ("sequential", 2.5)])
def test_arrays_of_a_factors_size_that_a_sweep_holds(schedule, most):
    """The factor, its direction, and with the parallel schedule the proposals of this sweep and the last."""
    rng = np.random.default_rng(0)
    shape = tuple(SIZES.values())
    found = in_order(tuple(rng.integers(0, n, 50_000) for n in shape), np.ones(50_000), shape)
    tensor = found[0]
    relation = Relation("tagged", tuple(SIZES), shape, tensor.nnz, lambda: tensor)
    modalities = {m: Modality(m, np.arange(n).astype(str)) for m, n in SIZES.items()}
    problem = build_problem(SIZES, {"tagged": tuple(SIZES)}, {}, {"all": RANK}, {}, 1e-6)
    executor = LocalExecutor(
        Hypergraph(modalities, {"tagged": relation}, {}), Setting("float32", {"tagged": 0.0}, {})
    )
    # Compiled, and what is kept for later given back
    for _ in islice(sweeps(problem, executor, _start(rng), schedule), 4):
        pass
    del _
    arrays.forget()
    # Start values were numbers of 64 bits before; later sweeps have replaced them.
    run = sweeps(problem, executor, _start(rng), schedule)
    tracemalloc.start()
    try:
        for _ in range(5):
            next(run)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < most * SIZES["user"] * RANK * 4


def _start(rng):
    return {m: rng.random((n, RANK)).astype(np.float32) for m, n in SIZES.items()}
