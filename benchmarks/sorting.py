"""Sorting a relation's entries, beside NumPy, in one run: ``python -m benchmarks.sorting --json FILE``.

Ours takes coordinates and values in any order and returns them unique, sorted by the longest mode, with
coordinates in 32 bits. NumPy's does the same by one 64-bit key per entry and ``argsort``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numba
import numpy as np

from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order

SHAPE = (480_000, 17_770, 2_182)


def by_numpy(coords: tuple[np.ndarray, ...], values: np.ndarray) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Coordinates and values sorted by one key; the values of equal entries are added."""
    key = np.ravel_multi_index(coords, SHAPE)
    order = np.argsort(key)
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    kept = order[starts]
    return tuple(c[kept].astype(np.int32) for c in coords), np.add.reduceat(values[order], starts)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sorting", description=__doc__)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=2, help="the best counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    # Squares of uniform numbers: the first rows have most entries, some entries coincide.
    coords = tuple((size * rng.random(arguments.entries) ** 2).astype(np.int64) for size in SHAPE)
    values = rng.random(arguments.entries)
    in_order(tuple(c[:10] for c in coords), values[:10], SHAPE)  # compiles
    best = {"hyperlearn": np.inf, "numpy": np.inf}
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        ours = in_order(coords, values, SHAPE)
        best["hyperlearn"] = min(best["hyperlearn"], time.perf_counter() - began)
        began = time.perf_counter()
        expected, sums = by_numpy(coords, values)
        best["numpy"] = min(best["numpy"], time.perf_counter() - began)
    assert not isinstance(ours, Repeat)
    for got, wanted in zip((*ours[0].coords, ours[0].values), (*expected, sums)):
        np.testing.assert_allclose(got, wanted)
    data = f"{arguments.entries} entries, {' x '.join(map(str, SHAPE))}"
    threads = {"hyperlearn": numba.get_num_threads(), "numpy": 1}
    rows = [
        Row("sorting", data, "sort", method, "seconds", value, details={"threads": threads[method]})
        for method, value in best.items()
    ]
    print(data, table(rows), sep="\n")
    if arguments.json:
        write_rows(rows, arguments.json)


if __name__ == "__main__":
    main()
