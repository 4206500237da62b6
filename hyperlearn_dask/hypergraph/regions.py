"""A cloud of points cut into regions, so that neighbours need to be looked for in a few of them only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

ROUNDS = 5  # of k-means: the regions need not be good clusters
SAMPLE = 40  # points per region that k-means looks at
DIMENSIONS = 64  # in which sparse points are cut into regions
MET = 4  # times the neighbours wanted, for points whose regions have too few
BLOCK_ENTRIES = 1_000_000  # distances that a thread holds at once: 4 MB


@dataclass(frozen=True)
class Regions:
    """The points nearest to each of some centres; ``places`` (n x dimensions) stand region by region.

    Region r has the places starts[r] to starts[r + 1]. ``visited``: how many regions, its own among
    them, a point looks for neighbours in.
    """

    centres: np.ndarray
    places: np.ndarray
    starts: np.ndarray
    visited: int = 1

    @classmethod
    def of(cls, places: np.ndarray, count: int, seed: int) -> tuple[Regions, np.ndarray]:
        """At most ``count`` regions by k-means, and the order that puts points region by region."""
        random = np.random.default_rng(seed)
        sample = places[random.choice(len(places), min(len(places), SAMPLE * count), replace=False)]
        centres = sample[:count].copy()
        for _ in range(ROUNDS):
            home = _nearest(sample, centres)
            sizes = np.bincount(home, minlength=count)
            member = sp.csr_array((np.ones(len(home), places.dtype), (home, np.arange(len(home)))))
            sums = np.zeros_like(centres)
            sums[: member.shape[0]] = member @ sample
            centres[sizes > 0] = sums[sizes > 0] / sizes[sizes > 0, None]
        home = _nearest(places, centres)
        order = np.argsort(home, kind="stable")
        used, sizes = np.unique(home, return_counts=True)
        return cls(centres[used], places[order], np.concatenate([[0], np.cumsum(sizes)])), order

    def __len__(self) -> int:
        return len(self.centres)

    def span(self, region: int) -> slice:
        """Where the points of a region stand."""
        return slice(int(self.starts[region]), int(self.starts[region + 1]))

    def home(self, rows: np.ndarray) -> np.ndarray:
        """The region of each of some points."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def visits(self, rows: np.ndarray, k: int) -> Iterator[tuple[int, np.ndarray]]:
        """The regions besides their own that some points look in, and which of them look in each.

        A point that would meet no more than k others there looks in the next nearest as well, until it has
        met several times as many: what is alone is no nearer to its own region than to others.
        """
        sizes, own = np.diff(self.starts), (np.arange(len(rows)), self.home(rows))
        if self.visited == 1:
            chosen = np.zeros((len(rows), len(self)), dtype=bool)
            chosen[own] = True
        else:
            distances = self._from_home(rows)
            chosen = distances <= np.partition(distances, self.visited - 1, axis=1)[:, [self.visited - 1]]
        lonely = np.flatnonzero(chosen @ sizes <= k)
        nearest = np.argsort(self._from_home(rows[lonely]), axis=1, kind="stable")
        met_before = np.cumsum(sizes[nearest], axis=1) - sizes[nearest]
        looks = np.zeros(nearest.shape, dtype=bool)
        np.put_along_axis(looks, nearest, met_before <= MET * k, axis=1)
        chosen[lonely] = looks
        chosen[own] = False
        for region in np.flatnonzero(chosen.any(axis=0)).tolist():
            yield region, rows[chosen[:, region]]

    def looking_in(self, visited: int) -> Regions:
        """The same regions, of which a point looks in another number."""
        return replace(self, visited=visited)

    def ranks(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        """For pairs of points, how many regions are nearer to the first than the second's region is."""
        distances = self._from_home(rows)
        theirs = np.take_along_axis(distances, self.home(others)[:, None], axis=1)
        return (distances < theirs).sum(axis=1)

    def share(self) -> float:
        """The part of all points that one looks at, about."""
        sizes = np.diff(self.starts)
        return self.visited * float((sizes**2).sum()) / float(sizes.sum()) ** 2

    def _from_home(self, rows: np.ndarray) -> np.ndarray:
        """Squared distances of points to the centres, less a constant per point; to its own the least."""
        distances = _distances(self.places[rows], self.centres)
        distances[np.arange(len(rows)), self.home(rows)] = -math.inf
        return distances


def places_of(points: np.ndarray | sp.csr_array, seed: int) -> np.ndarray:
    """Dense coordinates in which near points stay near: the points' own, or of sparse ones some."""
    if isinstance(points, np.ndarray):
        return points.astype(np.float32)
    if points.shape[1] <= DIMENSIONS:
        return points.toarray().astype(np.float32)
    from sklearn.decomposition import TruncatedSVD

    return TruncatedSVD(DIMENSIONS, n_iter=2, random_state=seed).fit_transform(points).astype(np.float32)


def _nearest(places: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The centre nearest to each place, on all threads; blocks do not depend on how many there are."""
    blocks = np.array_split(places, max(1, len(places) * len(centres) // BLOCK_ENTRIES))
    with ThreadPoolExecutor() as threads:
        return np.concatenate(list(threads.map(lambda b: _distances(b, centres).argmin(axis=1), blocks)))


def _distances(places: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (places x centres), less the places' own squared lengths."""
    # |c|^2 - 2 <x, c>
    products = places @ (-2 * centres.T)
    products += (centres * centres).sum(axis=1)
    return products
