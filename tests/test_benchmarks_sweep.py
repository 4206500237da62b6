"""The speed benchmark's own code, on small tensors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks import growth, sweep
from hyperlearn_dask.hypergraph.tensor import SparseTensor

TENSOR = sweep.power_law(500, (40, 20, 10))


def test_bytes_are_those_of_a_pass() -> None:
    typed = SparseTensor(TENSOR.coords, TENSOR.values.astype(np.float32), TENSOR.shape)
    # per entry two indices and a value; each matrix read and written once
    assert sweep.bytes_from_memory(typed, 8) == 12 * typed.nnz + 2 * 70 * 8 * 4
    # of two modes a row read, and a row of the output read and written
    assert sweep.bytes_gathered(typed, 8) == typed.nnz * 2 * 3 * 8 * 4


def test_folded_entries_keep_their_rows_of_the_sort_mode() -> None:
    found = sweep.folded(TENSOR, 3)
    assert found.sort_mode == TENSOR.sort_mode == 0
    np.testing.assert_array_equal(found.coords[0], TENSOR.coords[0])
    assert all(c.max() == 2 for c in found.coords[1:])


def test_the_start_is_the_same_for_both_and_does_not_collapse() -> None:
    narrow, wide = (growth.start_of(TENSOR, 4, dtype) for dtype in ("float32", "float64"))
    assert all((narrow[m] == wide[m].astype(np.float32)).all() for m in wide)
    reports = growth.reports(growth.hypergraph_of(TENSOR), wide, "sequential", 5)
    values = [report.objective for report in reports]
    assert all(after <= before for before, after in itertools.pairwise(values))
    assert values[-1] < 0.95 * (TENSOR.values**2).sum()


def test_pygenten_s_objective_is_ours() -> None:
    pytest.importorskip("pygenten")
    from benchmarks.alternating import pygenten_history

    start = growth.start_of(TENSOR, 4, "float64")
    history = pygenten_history(TENSOR, list(start.values()), 3, "MttkrpSingle")
    a, b, c = start.values()
    model = np.einsum("ir,jr,kr->ijk", a, b, c)
    dense = np.zeros(TENSOR.shape)
    dense[TENSOR.coords] = TENSOR.values
    assert history[0] == (0.0, pytest.approx(((dense - model) ** 2).sum()))
    assert [seconds for seconds, _ in history] == sorted(seconds for seconds, _ in history)
