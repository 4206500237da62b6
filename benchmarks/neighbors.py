"""How fast the k nearest neighbours are found, beside other libraries at the same recall.

``python -m benchmarks.neighbors`` draws clusters of points and finds the 10 nearest of each, by every
method and with several settings of the approximate ones. Recall is measured on a sample against
exact distances. The ratio is to the fastest of the others whose recall is at least 0.95. Ours ends
with the weighted graph, the others with indices; two threads each, imports and compilation not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.hypergraph.neighbors import neighbour_graph

POINTS, DIMENSIONS, QUICK = 50_000, 128, 5_000
CLUSTERS = 500
SPREAD = {"clustered": 0.5, "overlapping": 1.2}  # of a cluster, in deviations of the centres, per dimension
K = 10
SAMPLE = 1_000  # points whose neighbours are compared
WANTED = 0.95
WARM_UP = 2_000  # points of a search that does not count
THREADS = 2

Search = Callable[[np.ndarray], np.ndarray]  # points to the indices of the K nearest of each, itself not


@click.command()
@click.option("--points", type=click.IntRange(1_000), default=POINTS, show_default=True)
@click.option("--quick", is_flag=True, help=f"Only {QUICK:,} points.")
@click.option("--data", type=click.Choice(list(SPREAD)), multiple=True, help="Only these points.")
@click.option("--method", "wanted", multiple=True, help="Only methods whose name contains this.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
def main(
    points: int, quick: bool, data: tuple[str, ...], wanted: tuple[str, ...], output: Path | None
) -> None:
    """Compare the speed and the recall of neighbour search."""
    os.environ.setdefault("NUMBA_NUM_THREADS", str(THREADS))
    methods = {name: m for name, m in METHODS.items() if not wanted or any(part in name for part in wanted)}
    found: list[Row] = []
    for name in data or SPREAD:
        found += benchmark(name, QUICK if quick else points, methods)
    click.echo(table(found))
    if output is not None:
        write_rows(found, output)


def benchmark(name: str, count: int, methods: dict[str, Search]) -> list[Row]:
    """The figures of every method on one set of points."""
    points = make_points(count, SPREAD[name])
    truth = exact_distances(points)
    data = f"{count:,} x {DIMENSIONS} {name}"
    runs: dict[str, tuple[float, float]] = {}
    missing = []
    for method, search in methods.items():
        click.echo(f"{data}: {method}", err=True)
        try:
            search(points[:WARM_UP])  # imports, and what some compile
            begin = time.perf_counter()
            indices = search(points)
            runs[method] = time.perf_counter() - begin, recall(points, indices, truth)
        except ImportError as error:
            missing.append(
                Row("neighbors", data, name, method, "recall@10", None, details={"note": f"{error}"})
            )
    peers = [s for method, (s, r) in runs.items() if not method.startswith("hyperlearn") and r >= WANTED]
    return [row for run in runs.items() for row in _rows(data, name, run, min(peers, default=None))] + missing


def make_points(count: int, spread: float) -> np.ndarray:
    """Points (float32) around centres drawn at random."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(CLUSTERS, DIMENSIONS))
    noise = spread * random.normal(size=(count, DIMENSIONS))
    return (centres[random.integers(CLUSTERS, size=count)] + noise).astype(np.float32)


def exact_distances(points: np.ndarray) -> np.ndarray:
    """The squared distance of each point of the sample to its K-th neighbour."""
    wide = points.astype(np.float64)
    norms = (wide * wide).sum(axis=1)
    found = []
    for rows in np.array_split(_sample(len(points)), 20):
        squared = norms[rows, None] + norms - 2 * wide[rows] @ wide.T
        squared[np.arange(len(rows)), rows] = np.inf
        found.append(np.partition(squared, K - 1, axis=1)[:, K - 1])
    return np.concatenate(found)


def recall(points: np.ndarray, indices: np.ndarray, truth: np.ndarray) -> float:
    """The part of the sample's neighbours that are no farther than the true K-th."""
    rows = _sample(len(points))
    chosen = indices[rows]
    difference = points[rows, None].astype(np.float64) - points[chosen]
    near = (difference**2).sum(axis=2) <= truth[:, None] * (1 + 1e-6)
    return float((near & (chosen >= 0) & (chosen != rows[:, None])).mean())


def with_ours(method: str, points: np.ndarray) -> np.ndarray:
    graph = neighbour_graph("point", points, K, "euclidean", method=method)  # type: ignore[arg-type]
    return graph.indices.reshape(-1, K)


def with_sklearn(points: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=K, algorithm="brute", n_jobs=THREADS).fit(points)
    return search.kneighbors(return_distance=False)


def with_pynndescent(points: np.ndarray) -> np.ndarray:
    """The graph that its index is made of."""
    import pynndescent

    indices, _ = pynndescent.NNDescent(
        points, n_neighbors=K + 1, random_state=1, n_jobs=THREADS
    ).neighbor_graph
    return _others(indices)


def with_faiss(factory: str, points: np.ndarray, **settings: int) -> np.ndarray:
    """An index that ``faiss.index_factory`` makes, with its own defaults but for ``settings``."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.index_factory(points.shape[1], factory)
    index.train(points)
    index.add(points)
    for name, value in settings.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)
    return _others(index.search(points, K + 1)[1])


METHODS: dict[str, Search] = {
    "hyperlearn": partial(with_ours, "auto"),
    "hyperlearn exact": partial(with_ours, "exact"),
    "scikit-learn brute": with_sklearn,
    "pynndescent": with_pynndescent,
    "faiss Flat": partial(with_faiss, "Flat"),
    "faiss HNSW32": partial(with_faiss, "HNSW32,Flat"),
    "faiss IVF447, nprobe 2": partial(with_faiss, "IVF447,Flat", nprobe=2),
    "faiss IVF447, nprobe 8": partial(with_faiss, "IVF447,Flat", nprobe=8),
    "faiss IVF447, nprobe 32": partial(with_faiss, "IVF447,Flat", nprobe=32),
}


def _others(indices: np.ndarray) -> np.ndarray:
    """K neighbours of each, the point itself left out wherever it is among K + 1."""
    own = indices == np.arange(len(indices))[:, None]
    own[:, -1] |= ~own.any(axis=1)
    return indices[~own].reshape(len(indices), -1)


def _sample(count: int) -> np.ndarray:
    return np.random.default_rng(2).choice(count, min(SAMPLE, count), replace=False)


def _rows(data: str, task: str, run: tuple[str, tuple[float, float]], fastest: float | None) -> Iterator[Row]:
    method, (seconds, found) = run
    details = {"threads": THREADS, "k": K}
    figures = {"recall@10": found, "ratio_to_fastest": seconds / fastest if fastest else None}
    for metric, value in figures.items():
        if value is not None:
            yield Row("neighbors", data, task, method, metric, value, seconds=seconds, details=dict(details))


if __name__ == "__main__":
    main()
