"""The k nearest of a cloud of points: among all of them, or among those of the regions nearby."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.preprocessing import normalize

from hyperlearn_dask.backend import Array, Device, DeviceCsr, array_module, to_device, to_host
from hyperlearn_dask.config import Metric
from hyperlearn_dask.hypergraph.regions import Regions

BLOCK_ENTRIES = 2_000_000  # distances that are held at once: 16 MB, and a few passing copies
TILE = 8192  # points on each side of a product on a device: 512 MB of distances
TILE_NUMBERS = 1 << 28  # of sparse points made dense on a device: 2 GB
MANY = 8  # times k: more candidates than that are thinned out at once

Neighbours = tuple[Array, Array, Array]  # rows, columns, squared distances


@dataclass(frozen=True)
class Cloud:
    """The points (n x features) to find neighbours among, and what every task needs to know of them.

    ``index`` says which point each row is: they may stand in any order.
    """

    points: Any  # an array; sparse: CSR on the host, DeviceCsr on a device
    norms: Array  # squared
    index: Array
    unit: float  # a power of two, at least the largest squared norm
    k: int
    reach: float  # a point at this squared distance or beyond is no neighbour

    @classmethod
    def of(cls, points: np.ndarray | sp.csr_array, k: int, metric: Metric) -> Cloud:
        points = points.astype(np.float64)
        if metric == "cosine":
            # Nearest by angle is nearest by distance on the unit sphere; at a right angle d^2 = 2.
            points = normalize(points)
        elif not sp.issparse(points):
            points = points - points.mean(axis=0)  # the same distances with less cancellation
        norms = np.asarray((points * points).sum(axis=1)).ravel()
        unit = 2.0 ** math.ceil(math.log2(max(norms.max(), 1e-300)))
        reach = 2.0 if metric == "cosine" else math.inf
        return cls(points, norms, np.arange(len(norms)), unit, k, reach)

    def __len__(self) -> int:
        return len(self.norms)

    def reordered(self, order: np.ndarray) -> Cloud:
        """The same points in another order."""
        return Cloud(self.points[order], self.norms[order], self.index[order], self.unit, self.k, self.reach)

    def on(self, device: Device) -> Cloud:
        """The same points on a device, for :func:`nearest_tiled`; what is there already is not copied."""
        if sp.issparse(self.points):
            self.points.sum_duplicates()
        points, norms, index = (to_device(a, device) for a in (self.points, self.norms, self.index))
        return Cloud(points, norms, index, self.unit, self.k, self.reach)

    def span(self, rows: slice) -> Array:
        """The points in a run of rows, dense."""
        if not isinstance(self.points, DeviceCsr):
            block = self.points[rows]
            return block.toarray() if sp.issparse(block) else block
        xp = array_module(self.norms)
        starts = self.points.indptr[rows.start : rows.stop + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        block = xp.zeros((rows.stop - rows.start, self.points.shape[1]))
        row = xp.searchsorted(starts, xp.arange(own.start, own.stop), side="right") - 1
        block[row, self.points.indices[own]] = self.points.data[own]
        return block

    @property
    def slack(self) -> float:
        """More than rounding can change a squared distance by."""
        return 2.0**-39 * self.unit

    def rounded(self, squared: Array) -> Array:
        """Squared distances to 2^-40 units, so that rounding errors do not decide between equals."""
        shift = 4096 * self.unit
        return np.maximum((squared + shift) - shift, 0)

    def offsets(self, rows: np.ndarray, others: slice) -> np.ndarray:
        """d_ij^2 - |x_i|^2 = |x_j|^2 - 2 <x_i, x_j> for i in rows, j in others; of a point to itself inf."""
        if sp.issparse(self.points):
            # This way round only the few rows need to be transposed in memory.
            offsets = (self.points[others] @ (-2 * self.points[rows]).T.tocsr()).T.toarray()
        else:
            offsets = (-2 * self.points[rows]) @ self.points[others].T
        offsets += self.norms[others]
        own = rows - others.start
        inside = np.flatnonzero((own >= 0) & (own < offsets.shape[1]))
        offsets[inside, own[inside]] = math.inf
        return offsets

    def limits(self, rows: Array | slice) -> Array:
        """For each row the offset from which on others are out of reach."""
        return self.reach - self.norms[rows] - self.slack


def nearest(cloud: Cloud, rows: np.ndarray) -> Neighbours:
    """The neighbours of some points among all: row by row, the nearest first."""
    offsets = cloud.offsets(rows, slice(0, len(cloud)))
    limit = np.minimum(_bound(offsets, cloud.k) + cloud.slack, cloud.limits(rows))
    return _best([_within(cloud, rows, offsets, limit, 0)], cloud)


def nearest_tiled(cloud: Cloud, first: int, last: int, tile: int = TILE) -> Neighbours:
    """The neighbours of the points first..last among all, tile by tile of the product, on the host.

    A tile's small distances tighten a bound on how far a neighbour can be; what is within it goes on
    to the choice of the nearest. So nothing but a tile's distances is ever held, and no row is sorted.
    The same neighbours as :func:`nearest` finds, on the device where the cloud is.
    """
    xp, k = array_module(cloud.norms), cloud.k
    rows = xp.arange(first, last)
    points, limit = -2 * cloud.span(slice(first, last)), cloud.limits(slice(first, last))
    least = xp.full((last - first, k), math.inf)  # k distances so far that are small, to different points
    found: list[Neighbours] = []
    for start in range(0, len(cloud), tile):
        others = slice(start, min(start + tile, len(cloud)))
        # d_ij^2 - |x_i|^2 = |x_j|^2 - 2 <x_i, x_j>, of a point to itself inf
        offsets = points @ cloud.span(others).T + cloud.norms[others]
        own = xp.arange(max(first, others.start), min(last, others.stop))
        offsets[own - first, own - others.start] = math.inf
        least = xp.partition(xp.concatenate([least, _minima(offsets, k)], axis=1), k - 1, axis=1)[:, :k]
        limit = xp.minimum(limit, least[:, k - 1] + cloud.slack)
        found.append(_within(cloud, rows, offsets, limit, start))
    rows, columns, squared = map(to_host, _best(found, cloud))
    return rows, columns, squared


def tile_of(cloud: Cloud) -> int:
    """Points on each side of a product whose tiles fit on a device."""
    return max(1, min(TILE, TILE_NUMBERS // max(1, cloud.points.shape[1])))


def nearest_nearby(cloud: Cloud, regions: Regions, first: int, last: int) -> Neighbours:
    """The neighbours of the points of regions first..last among those of the regions near each.

    The points of the cloud stand region by region. What is found in a point's own region bounds how
    far others may be, so that of the other regions little remains.
    """
    rows = np.arange(regions.starts[first], regions.starts[last])
    limit = cloud.limits(rows)
    found = []
    for region in range(first, last):
        others = regions.span(region)
        for block in _blocks(np.arange(others.start, others.stop), others):
            offsets, place = cloud.offsets(block, others), block - rows[0]
            if offsets.shape[1] > cloud.k:
                limit[place] = np.minimum(limit[place], _bound(offsets, cloud.k) + cloud.slack)
            found.append(_within(cloud, block, offsets, limit[place], others.start))
    for part in _blocks(rows, slice(0, len(regions))):
        for region, visitors in regions.visits(part, cloud.k):
            others = regions.span(region)
            for block in _blocks(visitors, others):
                offsets = cloud.offsets(block, others)
                found.append(_within(cloud, block, offsets, limit[block - rows[0]], others.start))
    return _best(found, cloud)


def _blocks(rows: np.ndarray, others: slice) -> Iterator[np.ndarray]:
    """Rows in blocks whose distances to all others fit."""
    size = max(1, BLOCK_ENTRIES // max(1, others.stop - others.start))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _within(cloud: Cloud, rows: Array, offsets: Array, limit: Array, start: int) -> Neighbours:
    """The pairs whose offsets stay below a limit per row, by the points' own numbers."""
    xp = array_module(offsets)
    row, column = xp.divmod(xp.flatnonzero(offsets <= limit[:, None]), offsets.shape[1])
    squared = cloud.rounded(offsets[row, column] + cloud.norms[rows[row]])
    found = cloud.index[rows[row]], cloud.index[column + start], squared
    # Where very many are equally far, only those that can be among the nearest are kept.
    return found if len(row) <= MANY * cloud.k * len(rows) else _best([found], cloud)


def _best(found: list[Neighbours], cloud: Cloud) -> Neighbours:
    """The k nearest of each row among what was found."""
    xp = array_module(cloud.norms)
    rows, columns, squared = (xp.concatenate([part[a] for part in found]) for a in range(3))
    # In float64, which has every index exactly
    order = xp.lexsort(xp.stack([(columns - rows) % len(cloud), squared, rows]))
    sorted_rows = rows[order]
    place = xp.arange(len(order)) - xp.searchsorted(sorted_rows, sorted_rows)
    best = order[place < cloud.k]
    return rows[best], columns[best], squared[best]


def _bound(values: np.ndarray, k: int) -> np.ndarray:
    """For each row a bound that at least k of its values do not exceed, and few others.

    Of many values it is the k-th smallest of the minima of groups of columns, many times faster to
    find than the k-th smallest value.
    """
    return np.partition(_minima(values, k), k - 1, axis=1)[:, k - 1]


def _minima(values: Array, k: int) -> Array:
    """The minima of groups of columns, or of few columns themselves."""
    rows, columns = values.shape
    groups = columns // 64
    if groups < 4 * k:
        return values
    size = columns // groups
    return values[:, : size * groups].reshape(rows, size, groups).min(axis=1)
