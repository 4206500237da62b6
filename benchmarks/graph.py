"""Graph filters and products beside SciPy's CSR, in one run: ``python -m benchmarks.graph --json FILE``.

The filter is sum_k c_k T_k(L - I) B of a random block B. SciPy's is the three-term recurrence over its
CSR product with every other step in place. Both get the same matrix, block and coefficients, in turns,
and the best time of each counts. ``ratio_to_scipy`` is SciPy's time over ours: how many times as fast.

The graphs are random: edges join any two nodes, and no order of these would bring neighbours together.
But in one of the two with a million nodes neighbours are near in their order. Both have as many entries
and the same work; what the other one takes longer is the way to rows anywhere in memory.

Roofline: a degree has to read L, and to read three blocks and write one (the two of the recurrence, the
given one). Where a block does not stay in the caches, every entry of L fetches a row of it besides: that
is counted in ``bytes_fetched``. Both are compared with what a parallel copy reaches in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import scipy.sparse

from benchmarks.output import Detail, Row, table, write_rows
from hyperlearn_dask.factorization.kernels import chebyshev, graph_product
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph


@dataclass(frozen=True)
class Case:
    """A random graph: ``reach`` None joins any two nodes, else those about so far apart in their order."""

    name: str
    nodes: int
    edges: int
    reach: int | None = None
    repeats: int = 3


QUICK = (
    Case("as MovieLens 100K's movies", 1_682, 28_928, repeats=20),
    Case("as Tate's artworks", 52_995, 400_000, repeats=10),
)
FULL = (
    *QUICK,
    Case("dense, as MIRFlickr's images", 16_000, 20_000_000),
    Case("1M nodes, neighbours near", 1_000_000, 10_000_000, reach=10_000, repeats=1),
    Case("1M nodes, neighbours anywhere", 1_000_000, 10_000_000, repeats=2),
)


def random_laplacian(case: Case, rng: np.random.Generator, dtype: str) -> scipy.sparse.csr_array:
    """The normalised Laplacian of a case's graph with random weights; a few edges coincide."""
    ends = rng.integers(0, case.nodes, (2, case.edges), dtype=np.int32)
    if case.reach is not None:
        apart = np.ceil(np.abs(rng.normal(0, case.reach, case.edges))).astype(np.int32)
        ends[1] = (ends[0] + apart) % case.nodes
    weights = scipy.sparse.coo_array((rng.uniform(0.5, 1, case.edges), tuple(ends)), shape=(case.nodes,) * 2)
    return laplacian_graph("", scipy.sparse.csr_array(weights)).laplacian.astype(dtype)


def scipy_filter(laplacian: scipy.sparse.csr_array, block: np.ndarray, c: np.ndarray) -> np.ndarray:
    """T_{k+1} = 2 (L - I) T_k - T_{k-1} by SciPy's product, and no more passes than NumPy needs."""
    result = c[0] * block
    scaled = np.empty_like(block)
    before, now = block, laplacian @ block
    now -= block
    result += np.multiply(c[1], now, out=scaled)
    for k in range(2, len(c)):
        after = laplacian @ now
        after -= now
        after *= 2
        after -= before
        before, now = now, after
        result += np.multiply(c[k], now, out=scaled)
    return result


def best_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The best time of each, run in turns."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def copy_bandwidth(size: int = 1 << 28) -> float:
    """Bytes a second, read and written, of a copy by all threads."""
    source, target = np.ones(size // 8), np.ones(size // 8)
    best = best_seconds({"copy": lambda: _copy(source, target)}, 5)
    return 2 * size / best["copy"]


@numba.njit(parallel=True)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for i in numba.prange(len(source)):
        target[i] = source[i]


def measure(case: Case, columns: int, degree: int, dtype: str, bandwidth: float) -> list[Row]:
    """The rows of one graph."""
    rng = np.random.default_rng(0)
    laplacian = random_laplacian(case, rng, dtype)
    block = rng.normal(size=(case.nodes, columns)).astype(dtype)
    c = rng.uniform(-1, 1, (degree + 1, columns)).astype(dtype)
    # The first degrees are compared, and compile the kernels.
    got, expected = chebyshev(laplacian, block, c[:4]), scipy_filter(laplacian, block, c[:4])
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    np.testing.assert_allclose(graph_product(laplacian, block), laplacian @ block, atol=1e-4)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    del got, expected

    matrix_bytes = sum(part.nbytes for part in (laplacian.data, laplacian.indices, laplacian.indptr))
    fetched = laplacian.nnz * block.itemsize * columns
    tasks: dict[str, tuple[int, float, dict[str, Callable[[], Any]]]] = {
        f"filter of degree {degree}": (
            degree,
            degree * (matrix_bytes + 4 * block.nbytes),
            {
                "hyperlearn": lambda: chebyshev(laplacian, block, c),
                "scipy": lambda: scipy_filter(laplacian, block, c),
            },
        ),
        "product": (
            1,
            matrix_bytes + 2 * block.nbytes,
            {"hyperlearn": lambda: graph_product(laplacian, block), "scipy": lambda: laplacian @ block},
        ),
    }
    common: dict[str, Detail] = {
        "nodes": case.nodes,
        "nonzeros": laplacian.nnz,
        "columns": columns,
        "dtype": dtype,
    }
    rows = []
    for task, (passes, streamed, runs) in tasks.items():
        seconds = best_seconds(runs, case.repeats)
        value, line = seconds["hyperlearn"], f"{case.name}, {task}"
        details = common | {
            "threads": numba.get_num_threads(),
            "bytes_streamed": streamed,
            "bytes_fetched": passes * fetched,
            "copy_bytes_per_second": bandwidth,
            "streamed_share_of_copy": streamed / value / bandwidth,
            "all_share_of_copy": (streamed + passes * fetched) / value / bandwidth,
            "difference": difference,
        }
        ours = Row("graph", case.name, line, "hyperlearn", "seconds", value, details=details)
        rows += [
            ours,
            replace(ours, metric="ratio_to_scipy", value=seconds["scipy"] / value),
            replace(ours, method="scipy", value=seconds["scipy"], details=common | {"threads": 1}),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graph", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the small graphs: half a minute")
    parser.add_argument("--only", metavar="TEXT", default="", help="only graphs whose name has this in it")
    parser.add_argument("--columns", type=int, default=32)
    parser.add_argument("--degree", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    if arguments.degree < 3:
        parser.error("--degree must be 3 or more")
    bandwidth = copy_bandwidth()
    print(f"a copy by {numba.get_num_threads()} threads moves {bandwidth / 1e9:.1f} GB/s")
    rows: list[Row] = []
    for case in QUICK if arguments.quick else FULL:
        if arguments.only in case.name:
            rows += measure(case, arguments.columns, arguments.degree, arguments.dtype, bandwidth)
    print(table(rows))
    for row in rows:
        if row.metric == "seconds" and row.method == "hyperlearn":
            shares = [100 * float(row.details[f"{kind}_share_of_copy"] or 0) for kind in ("streamed", "all")]
            print(f"{row.task}: {shares[0]:.0f} % of the copy's rate; {shares[1]:.0f} % with fetched rows")
    if arguments.json:
        write_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
