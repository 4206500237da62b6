"""Exact k nearest neighbours, a block of rows at a time, as Dask tasks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask
import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from hyperlearn_dask.config import Metric
from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    import distributed

BLOCK_ENTRIES = 2_000_000  # distances that a task holds: 16 MB, and a few passing copies
TASKS_AT_ONCE = 64  # submitted together; progress is told after each lot


def neighbour_graph(
    modality: str,
    features: np.ndarray | sp.csr_array,
    k: int,
    metric: Metric = "cosine",
    *,
    informed: np.ndarray | None = None,
    client: distributed.Client | None = None,
    progress: Callable[[str], None] | None = None,
    block: int | None = None,
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
    informed
        Which entities are described at all; the others get no neighbours and are nobody's. By
        default those with a feature that is not zero.
    client
        A cluster to work on; None is this process, with threads.
    progress
        Called with a short text as work proceeds.
    block
        Rows of a task, for tests; the result does not depend on it.

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
    cloud = _Cloud.of(features[members], min(k, len(members) - 1), metric)
    parts = _in_blocks(cloud, block, client, lambda share: progress and progress(f"{modality}: {share}"))
    rows, columns, squared = (np.concatenate([part[a] for part in parts]) for a in range(3))
    if metric == "cosine":
        # |x - y|^2 = 2 - 2 cos(x, y) on the unit sphere
        weights = 1 - squared / 2
    else:
        weights = _self_tuned(rows, columns, squared, squared.reshape(-1, cloud.k)[:, -1])
    graph = sp.csr_array((weights, (members[rows], members[columns])), shape=(n, n))
    graph.eliminate_zeros()
    return graph


Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, columns, squared distances


@dataclass(frozen=True)
class _Cloud:
    """The points (n x features) to find neighbours among, and what every task needs to know of them."""

    points: np.ndarray | sp.csr_array
    facing: np.ndarray | sp.csr_array  # -2 X'
    norms: np.ndarray  # squared
    unit: float  # a power of two, at least the largest squared norm
    k: int
    reach: float  # a point at this squared distance or beyond is no neighbour

    @classmethod
    def of(cls, points: np.ndarray | sp.csr_array, k: int, metric: Metric) -> _Cloud:
        points = points.astype(np.float64)
        if metric == "cosine":
            # Nearest by angle is nearest by distance on the unit sphere; at a right angle d^2 = 2.
            points = normalize(points)
        elif not sp.issparse(points):
            points = points - points.mean(axis=0)  # the same distances with less cancellation
        facing = -2 * points.T
        norms = np.asarray((points * points).sum(axis=1)).ravel()
        unit = 2.0 ** math.ceil(math.log2(max(norms.max(), 1e-300)))
        reach = 2.0 if metric == "cosine" else math.inf
        return cls(points, sp.csr_array(facing) if sp.issparse(facing) else facing, norms, unit, k, reach)

    def rounded(self, squared: np.ndarray) -> np.ndarray:
        """Squared distances to 2^-40 units, so that rounding errors do not decide between equals."""
        shift = 4096 * self.unit
        return np.maximum((squared + shift) - shift, 0)


def _nearest(cloud: _Cloud, start: int, stop: int) -> Neighbours:
    """The neighbours of points start..stop: row by row, the nearest first."""
    n = len(cloud.norms)
    # d_ij^2 - |x_i|^2 = |x_j|^2 - 2 <x_i, x_j>; a point is infinitely far from itself
    products = cloud.points[start:stop] @ cloud.facing
    offsets = products.toarray() if sp.issparse(products) else products
    offsets += cloud.norms
    own = np.arange(start, stop)
    offsets[own - start, own] = math.inf

    slack = 2.0**-39 * cloud.unit
    limit = np.minimum(_bound(offsets, cloud.k) + slack, cloud.reach - cloud.norms[start:stop] - slack)
    rows, columns = np.nonzero(offsets <= limit[:, None])
    squared = cloud.rounded(offsets[rows, columns] + cloud.norms[rows + start])
    order = np.lexsort(((columns - rows - start) % n, squared, rows))
    count = np.bincount(rows, minlength=stop - start)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    best = order[place < cloud.k]
    return rows[best] + start, columns[best], squared[best]


def _bound(values: np.ndarray, k: int) -> np.ndarray:
    """For each row a bound that at least k of its values do not exceed, and few others.

    It is the k-th smallest of the minima of groups of columns, many times faster to find than the
    k-th smallest value.
    """
    rows, columns = values.shape
    groups = max(k, columns // 64)
    size = columns // groups
    minima = values[:, : size * groups].reshape(rows, size, groups).min(axis=1)
    return np.partition(minima, k - 1, axis=1)[:, k - 1]


def _self_tuned(rows: np.ndarray, columns: np.ndarray, squared: np.ndarray, kth: np.ndarray) -> np.ndarray:
    """exp(-d^2 / (2 s_i s_j)); where more than k entities share a point, s is the median of the others."""
    scale = np.sqrt(kth)
    positive = scale > 0
    scale[~positive] = np.median(scale[positive]) if positive.any() else 1.0
    return np.exp(-squared / (2 * scale[rows] * scale[columns]))


def _in_blocks(
    cloud: _Cloud,
    block: int | None,
    client: distributed.Client | None,
    tell: Callable[[str], object],
) -> list[Neighbours]:
    """The neighbours of each block of rows, in order; n x n distances never exist at once."""
    n = len(cloud.norms)
    block = block or max(16, BLOCK_ENTRIES // n)
    shared = client.scatter(cloud, broadcast=True) if client else cloud
    nearest = dask.delayed(_nearest, pure=False)
    tasks = [nearest(shared, start, min(start + block, n)) for start in range(0, n, block)]
    done: list[Neighbours] = []
    for first in range(0, len(tasks), TASKS_AT_ONCE):
        done += dask.compute(*tasks[first : first + TASKS_AT_ONCE], scheduler=client or "threads")
        tell(f"neighbours of {min(len(done) * block, n):,} of {n:,}")
    return done
