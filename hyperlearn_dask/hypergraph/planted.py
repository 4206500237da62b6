"""Sparse tensors drawn from a model we know, so that we can tell whether it is found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Kind = Literal["zero", "unknown"]

_ROUNDS = 20  # of drawing until there are enough distinct hyperedges


def planted_tensor(
    rng: np.random.Generator,
    sizes: Mapping[str, int],
    rank: int,
    nnz: int,
    noise: float = 0.0,
    kind: Kind = "zero",
    *,
    exponent: float = 0.0,
) -> tuple[SparseTensor, dict[str, np.ndarray]]:
    """A sparse tensor drawn from a nonnegative CP model with one cluster of entities per column.

    Parameters
    ----------
    sizes
        Entities per modality, each at least ``rank``: every cluster has members in every modality.
    nnz
        Distinct entries wanted. There are fewer where the model has no room for so many.
    noise
        With ``zero``, the share of hyperedges that join entities at random; with ``unknown``, the
        standard deviation of what is added to the values, in those of the model's values.
    kind
        ``zero``: hyperedges are drawn from the model (a column, then a member of its cluster in each
        modality) and values count them, so entries never drawn are 0 and the expected tensor is the
        model plus a constant. ``unknown``: values are those of the model, plus noise, at positions
        that have nothing to do with it; clusters overlap.
    exponent
        Popularity falls with an entity's place in its cluster like place^-exponent. In ``zero`` it
        is part of the factors, in ``unknown`` it only says where values are known.

    Returns
    -------
    SparseTensor
        Float64, entries distinct and sorted as in a stored relation.
    dict
        The factor matrices (entities x rank); the largest entry of a row is its cluster's.
    """
    _check(sizes, rank, nnz, noise, kind, exponent)
    clusters, popularity = {}, {}
    for name, size in sizes.items():
        order = rng.permutation(size)
        clusters[name] = order % rank
        popularity[name] = (order // rank + 1.0) ** -exponent
    shape = tuple(sizes.values())
    if kind == "zero":
        choosers = [_Chooser(clusters[name], popularity[name], rank) for name in sizes]
        coords, counts = _distinct(rng, choosers, shape, rank, nnz, noise)
        values = counts.astype(np.float64)
        # E[x_i] = sum_r (hyperedges of column r) prod_m P_m(i_m | r), plus the constant of the noise
        scale = (values.sum() * (1.0 - noise) / rank) ** (1.0 / len(shape))
        factors = {name: scale * chooser.probabilities for name, chooser in zip(sizes, choosers)}
    else:
        everywhere = [_Chooser(np.zeros_like(clusters[m]), popularity[m], 1) for m in sizes]
        coords, _ = _distinct(rng, everywhere, shape, 1, nnz, 0.0)
        factors = {name: rng.uniform(0.0, 0.5, (size, rank)) for name, size in sizes.items()}
        values = np.zeros(len(coords[0]))
        for name in sizes:
            factors[name][np.arange(sizes[name]), clusters[name]] += 1.0
        for column in range(rank):  # one column at a time: rank x nnz may be too large
            values += math.prod(factors[name][c, column] for name, c in zip(sizes, coords))
        values += noise * values.std() * rng.standard_normal(len(values))
    return SparseTensor(coords, values, shape), factors


def planted_edges(
    rng: np.random.Generator, clusters: np.ndarray, neighbors: int, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of a neighbour graph that knows the clusters.

    The members of a cluster stand in a ring, in random order, and each is joined to the ``neighbors``
    that follow it; the share ``noise`` of the edges goes to any entity instead.

    Returns
    -------
    tuple of ndarray
        Sources and targets: at most entities x neighbors edges, none from an entity to itself.
    """
    entities = len(clusters)
    order = rng.permutation(entities)
    order = order[np.argsort(clusters[order], kind="stable")]
    starts = np.searchsorted(clusters[order], clusters[order], side="left")
    sizes = np.searchsorted(clusters[order], clusters[order], side="right") - starts
    place = np.arange(entities) - starts
    sources, targets = [], []
    for step in range(1, neighbors + 1):
        apart = sizes > step  # in a small ring one would come round to oneself
        sources.append(order[apart])
        targets.append(order[(starts + (place + step) % sizes)[apart]])
    source, target = np.concatenate(sources), np.concatenate(targets)
    stray = rng.random(len(target)) < noise
    target[stray] = rng.integers(entities, size=np.count_nonzero(stray))
    keep = source != target
    return source[keep], target[keep]


class _Chooser:
    """Chooses members of given clusters at random, in proportion to their weights."""

    def __init__(self, clusters: np.ndarray, weights: np.ndarray, count: int) -> None:
        self._order = np.argsort(clusters, kind="stable")
        self._cumulative = np.cumsum(weights[self._order])
        self._bounds = np.searchsorted(clusters[self._order], np.arange(count + 1))
        self._edges = np.concatenate([[0.0], self._cumulative])[self._bounds]
        totals = np.diff(self._edges)
        self.probabilities = np.zeros((len(clusters), count))
        self.probabilities[np.arange(len(clusters)), clusters] = weights / totals[clusters]

    def choose(self, rng: np.random.Generator, clusters: np.ndarray) -> np.ndarray:
        """A member of each of ``clusters``."""
        low, high = self._edges[clusters], self._edges[clusters + 1]
        at = np.searchsorted(self._cumulative, low + rng.random(len(clusters)) * (high - low), side="right")
        # Rounding may lead just over the edge of a cluster.
        return self._order[np.clip(at, self._bounds[clusters], self._bounds[clusters + 1] - 1)]


def _distinct(
    rng: np.random.Generator,
    choosers: list[_Chooser],
    shape: tuple[int, ...],
    rank: int,
    nnz: int,
    noise: float,
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Draw until there are ``nnz`` distinct hyperedges: their coordinates, and how often each came."""
    # In the order of a stored relation, so that sorted keys are sorted entries.
    longest = int(np.argmax(shape))
    modes = [longest, *(mode for mode in range(len(shape)) if mode != longest)]
    dimensions = [shape[mode] for mode in modes]
    keys = np.empty(0, dtype=np.int64)
    found, counts = keys, keys
    for _ in range(_ROUNDS):
        missing = nnz - len(found)
        if missing == 0:
            break
        columns = rng.integers(rank, size=missing)
        stray = rng.random(missing) < noise
        drawn = []
        for chooser, size in zip(choosers, shape):
            entities = chooser.choose(rng, columns)
            entities[stray] = rng.integers(size, size=np.count_nonzero(stray))
            drawn.append(entities)
        keys = np.concatenate([keys, np.ravel_multi_index([drawn[mode] for mode in modes], dimensions)])
        found, counts = np.unique(keys, return_counts=True)
    by_mode = dict(zip(modes, np.unravel_index(found, dimensions)))
    return tuple(by_mode[mode] for mode in range(len(shape))), counts


def _check(sizes: Mapping[str, int], rank: int, nnz: int, noise: float, kind: Kind, exponent: float) -> None:
    if len(sizes) < 2:
        raise InputError(f"{len(sizes)} modalities make no relation (expected 2 or more)", key="sizes")
    if rank < 1:
        raise InputError(f"{rank} columns are too few (expected 1 or more)", key="rank")
    for name, size in sizes.items():
        if size < rank:
            raise InputError(f"{name} = {size} is less than the rank, {rank}", key="sizes")
    most = 1.0 if kind == "zero" else math.inf
    if not 0.0 <= noise <= most or not math.isfinite(noise):
        bound = " to 1" if kind == "zero" else " or more"
        raise InputError(f"{noise} is out of range (expected 0{bound})", key="noise")
    if not 0.0 <= exponent < math.inf:
        raise InputError(f"{exponent} is out of range (expected 0 or more)", key="exponent")
    cells = math.prod(sizes.values())
    if cells >= 2**63:
        raise InputError(f"{cells:.3g} possible hyperedges are too many (expected under 2^63)", key="sizes")
    if not 1 <= nnz <= cells:
        problem = f"{nnz} is out of range (expected 1 or more, at most the {cells} possible)"
        raise InputError(problem, key="hyperedges")
