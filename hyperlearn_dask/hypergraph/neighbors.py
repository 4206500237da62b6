"""The graph of k nearest neighbours, in parts that are Dask tasks.

Up to a size they are exact: each block of rows is compared with all points. Beyond it, points are cut
into regions by k-means, and each is compared with those in the regions nearest to it; how many it
takes is measured on a sample of exact neighbours. Both compare in float64 and treat equals alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from hyperlearn_dask.backend import Device, memory_in_one_line
from hyperlearn_dask.config import Metric, NeighbourMethod
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.nearest import (
    BLOCK_ENTRIES,
    Cloud,
    Neighbours,
    nearest,
    nearest_nearby,
    nearest_tiled,
    tile_of,
)
from hyperlearn_dask.hypergraph.pace import Pace
from hyperlearn_dask.hypergraph.regions import Regions, places_of

if TYPE_CHECKING:
    import distributed

EXACT_UP_TO = 20_000  # entities, unless a method is asked for
RECALL = 0.97  # of the exact neighbours, to be found in a sample of SAMPLE entities
SAMPLE = 500
REGIONS = 2.0  # times the root of the number of entities
WORTH_IT = 0.3  # of all pairs: where more have to be looked at, exact is as fast
LOTS = 32  # tasks of an approximate search
TASKS_AT_ONCE = 64  # submitted together; progress is told after each lot


def neighbour_graph(
    modality: str,
    features: np.ndarray | sp.csr_array,
    k: int,
    metric: Metric = "cosine",
    *,
    method: NeighbourMethod = "auto",
    seed: int = 0,
    informed: np.ndarray | None = None,
    client: distributed.Client | None = None,
    progress: Callable[[str], object] | None = None,
    note: Callable[[str], object] | None = None,
    block: int | None = None,
    device: Device = "cpu",
) -> sp.csr_array:
    """Weights of the edges from each entity to its k nearest neighbours.

    Parameters
    ----------
    modality
        Its name, for messages.
    features
        Entities x features, finite.
    k
        Neighbours of an entity, itself not counted.
    metric
        ``cosine``: an edge weighs max(cos(x_i, x_j), 0). ``euclidean``: an edge of length d weighs
        exp(-d^2 / (2 s_i s_j)), s_i the distance from i to its k-th neighbour, so that the weights
        follow the local density [1]_.
    method
        ``exact``; ``approximate``: most of the neighbours, in a fraction of the time; or ``auto``, by
        the number of entities.
    seed
        Of the regions of an approximate search: the same one gives the same graph.
    informed
        Which entities are described at all; the others get no neighbours and are nobody's. By
        default those with a feature that is not zero.
    client
        A cluster to work on; None is this process, with threads.
    progress
        Called with a short text as work proceeds.
    note
        Called with what is worth reporting: that the search was approximate, and its recall.
    block
        Rows of a task, for tests; the result does not depend on it.
    device
        ``cuda``: exact neighbours are found on the GPU, of this process or of each worker; they are
        the same.

    Returns
    -------
    csr_array
        Entities x entities, not symmetric, no diagonal, at most k entries a row: neighbours of
        weight 0 are left out. Of entities equally far from i, those are taken that follow it soonest
        in the order of their indices, cyclically: repeatable and, unlike taking the first indices,
        without making hubs of a few entities where a whole category lies in one point.

    Raises
    ------
    InputError
        When there are not more than k entities.

    References
    ----------
    .. [1] L. Zelnik-Manor, P. Perona, "Self-Tuning Spectral Clustering", NIPS 2004.
    """
    n = features.shape[0]
    if k >= n:
        raise InputError(
            f"expected fewer neighbours than entities ({n:,}), got {k}", key=f"modalities.{modality}.graph.k"
        )
    if informed is None:
        informed = np.asarray((features != 0).sum(axis=1)).ravel() > 0
    members = np.flatnonzero(informed)
    if len(members) < 2:
        return sp.csr_array((n, n))
    cloud = Cloud.of(features[members], min(k, len(members) - 1), metric)

    def tell(text: str) -> None:
        if progress is not None:
            progress(f"{modality}: {text}")

    with threadpool_limits(1, "blas"):  # a thread per task is enough, and the same sums with any number here
        parts = _search(cloud, method, seed, block, client, tell, note or (lambda text: None), device)
    rows, columns, squared = (np.concatenate([part[a] for part in parts]) for a in range(3))
    order = np.argsort(rows, kind="stable")
    rows, columns, squared = rows[order], columns[order], squared[order]
    if metric == "cosine":
        # |x - y|^2 = 2 - 2 cos(x, y) on the unit sphere
        weights = 1 - squared / 2
    else:
        weights = _self_tuned(rows, columns, squared, squared.reshape(-1, cloud.k)[:, -1])
    graph = sp.csr_array((weights, (members[rows], members[columns])), shape=(n, n))
    graph.eliminate_zeros()
    return graph


def _search(
    cloud: Cloud,
    method: NeighbourMethod,
    seed: int,
    block: int | None,
    client: distributed.Client | None,
    tell: Callable[[str], object],
    note: Callable[[str], object],
    device: Device,
) -> list[Neighbours]:
    """The neighbours of all points, part by part; n x n distances never exist at once."""
    n = len(cloud)
    if method == "approximate" or (method == "auto" and n > EXACT_UP_TO):
        ordered, regions, recall = _divided(cloud, seed)
        if regions.share() < WORTH_IT or method == "approximate":
            note(f"approximate: recall {recall:.3f} on a sample, {regions.share():.1%} of pairs looked at")
            shared = client.scatter((ordered, regions), broadcast=True) if client else (ordered, regions)
            size = block or max(64, min(n // LOTS, BLOCK_ENTRIES // len(regions)))
            lots = _lots(np.diff(regions.starts), size)
            return _in_tasks(_of_regions, shared, lots, np.diff(regions.starts[lots]), client, tell)
    if device == "cuda":
        size = block or tile_of(cloud)
        bounds = np.append(np.arange(0, n, size), n)
        # Put on the device here, or by each task on its worker's
        shared = client.scatter((cloud,), broadcast=True) if client else (cloud.on(device),)
        with memory_in_one_line():
            return _in_tasks(_of_rows_on_device, shared, bounds, np.diff(bounds), client, tell, "sync")
    size = block or max(16, BLOCK_ENTRIES // n)
    bounds = np.append(np.arange(0, n, size), n)
    shared = client.scatter((cloud,), broadcast=True) if client else (cloud,)
    return _in_tasks(_of_rows, shared, bounds, np.diff(bounds), client, tell)


def _divided(cloud: Cloud, seed: int) -> tuple[Cloud, Regions, float]:
    """The cloud region by region, the regions with the number to look in, and the recall of that.

    The true neighbours of a sample say how many regions it takes to find a share of ``RECALL`` of them.
    """
    n = len(cloud)
    places = places_of(cloud.points, seed)
    regions, order = Regions.of(places, max(1, round(REGIONS * math.sqrt(n))), seed)
    ordered = cloud.reordered(order)
    sample = np.sort(np.random.default_rng(seed).choice(n, min(n, SAMPLE), replace=False))
    place_of = np.argsort(order)
    blocks = np.array_split(sample, max(1, len(sample) * n // BLOCK_ENTRIES))
    with ThreadPoolExecutor() as threads:
        pairs = list(threads.map(partial(nearest, ordered), blocks))
    rows, columns = (place_of[np.concatenate([pair[a] for pair in pairs])] for a in range(2))
    found = np.cumsum(np.bincount(regions.ranks(rows, columns), minlength=len(regions))) / max(len(rows), 1)
    visited = min(int(np.searchsorted(found, RECALL)) + 1, len(regions))
    return ordered, regions.looking_in(visited), float(found[visited - 1]) if len(rows) else 1.0


def _lots(sizes: np.ndarray, size: int) -> np.ndarray:
    """Where to cut consecutive regions into lots of about ``size`` points.

    Examples
    --------
    >>> _lots(np.array([3, 4, 9, 1, 2]), 7).tolist()
    [0, 2, 5]
    """
    lot = (np.cumsum(sizes) - 1) // size
    return np.concatenate([[0], np.flatnonzero(np.diff(lot)) + 1, [len(sizes)]])


def _of_rows(shared: tuple[Cloud], start: int, stop: int) -> Neighbours:
    return nearest(*shared, np.arange(start, stop))


def _of_rows_on_device(shared: tuple[Cloud], start: int, stop: int) -> Neighbours:
    cloud = shared[0].on("cuda")
    return nearest_tiled(cloud, start, stop, tile_of(cloud))


def _of_regions(shared: tuple[Cloud, Regions], first: int, last: int) -> Neighbours:
    return nearest_nearby(*shared, first, last)


def _in_tasks(
    function: Callable[..., Neighbours],
    shared: Any,
    bounds: np.ndarray,
    sizes: np.ndarray,
    client: distributed.Client | None,
    tell: Callable[[str], object],
    scheduler: str = "threads",
) -> list[Neighbours]:
    """A task for each part between two bounds, which has ``sizes`` points."""
    task = dask.delayed(function, pure=False)
    shared = shared if client else dask.delayed(shared, traverse=False)
    tasks = [task(shared, int(start), int(stop)) for start, stop in pairwise(bounds)]
    pace = Pace("finding neighbours", int(sizes.sum()), "entities", tell)
    done: list[Neighbours] = []
    for first in range(0, len(tasks), TASKS_AT_ONCE):
        lot = slice(first, first + TASKS_AT_ONCE)
        done += dask.compute(*tasks[lot], scheduler=client or scheduler)
        pace.add(int(sizes[lot].sum()))
    return done


def _self_tuned(rows: np.ndarray, columns: np.ndarray, squared: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """exp(-d^2 / (2 s_i s_j)); where more than k entities share a point, s is the median of the others."""
    scale = np.sqrt(kth)
    positive = scale > 0
    scale[~positive] = np.median(scale[positive]) if positive.any() else 1.0
    return np.exp(-squared / (2 * scale[rows] * scale[columns]))
