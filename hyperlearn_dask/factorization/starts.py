"""Where training begins. A bad start of ``absent = zero`` collapses to A = 0, so it matters.

``clustered``: hyperedges are grouped by what they join (truncated SVD of their incidence matrix,
k-means), and each column starts as the independence model of one group. ``degree``: each column is the
independence model of all hyperedges, every entity's degree times a uniform random number. ``random``:
Gaussian. ``auto``: of groups that a ``zero`` relation uses, whichever of the first two suits the data
(:mod:`hyperlearn_dask.training.heats`), random for all others.

On a 4-mode tensor with power-law degrees, rank 32, ``degree`` ends 5 to 7 % lower than ``clustered``
(``python -m benchmarks.starts``): entities with few hyperedges add next to nothing to the Grams of the
first sweep, and do not pull all to 0. On clear clusters of equal degrees it ends up to 1.6 % higher.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.cluster.vq import kmeans2

from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.hypergraph.tensor import SparseTensor

# Clustering looks at no more than this many hyperedges of a relation, evenly spaced.
SAMPLE = 200_000
RANDOM_SCALE = 0.3
ROWS_AT_ONCE = 1 << 14  # random numbers have 64 bits: those of a whole factor are twice its size, or more


def start_factors(
    problem: Problem,
    samples: Mapping[str, SparseTensor],
    kind: str,
    seed: int,
    dtype: str,
    *,
    only_zero: bool = False,
) -> dict[str, np.ndarray]:
    """Start values (entities x rank) of every factor matrix.

    Parameters
    ----------
    samples
        Per relation some of its entries; not used by random starts.
    kind
        ``degree``, ``clustered`` or ``random``.
    only_zero
        Whether groups that no ``zero`` relation uses start at random all the same.
    """
    factors: dict[str, np.ndarray] = {}

    def factor(m: str) -> np.ndarray:
        # Made when first written to: finding clusters needs the memory before.
        if m not in factors:
            factors[m] = arrays.empty((problem.sizes[m], problem.rank), dtype)
            factors[m][:] = problem.resting_value(m)
        return factors[m]

    rng = np.random.default_rng(seed)
    for group, width in problem.groups.items():
        columns = np.arange(problem.rank)[problem.columns_of(group)]
        terms = [t for t in problem.terms.values() if t.used[columns[0]]]
        coupled = {
            m: any(t.coupled[t.mode(m), columns[0]] for t in terms if m in t.modalities)
            for m in problem.sizes
        }
        joining = [t for t in terms if joins(t)[columns[0]]]
        if kind != "random" and (joining or not only_zero):
            begin = _by_degree if kind == "degree" else _clustered
            for m, rows, values in begin(joining or terms, columns[0], width, samples, rng):
                factor(m)[rows, columns] = values
                coupled[m] = False
        for m, is_free in coupled.items():
            if is_free:  # in no clustered relation: small and random, or 0 for a bias
                alone = all(t.coupled[:, columns[0]].sum() == 1 for t in terms if m in t.modalities)
                for rows in _runs(problem.sizes[m]):
                    noise = rng.normal(scale=RANDOM_SCALE, size=(rows.stop - rows.start, width))
                    factor(m)[rows, columns] = 0 if alone else noise
    return {m: factor(m) for m in problem.sizes}


def _runs(rows: int) -> Iterator[slice]:
    return (slice(first, min(first + ROWS_AT_ONCE, rows)) for first in range(0, rows, ROWS_AT_ONCE))


def joins(term: Term) -> np.ndarray:
    """The columns (rank,) in which a ``zero`` relation joins two modalities or more: there A = 0 lurks."""
    return (term.coupled.sum(axis=0) > 1) & (term.absent == "zero")


def sample(tensor: SparseTensor, most: int) -> SparseTensor:
    """At most that many entries of a tensor, evenly spaced."""
    return tensor if tensor.nnz <= most else tensor[evenly(tensor.nnz, most)]


def evenly(total: int, most: int) -> np.ndarray:
    """At most that many places among ``total``, evenly spaced."""
    return np.arange(total) if total <= most else np.linspace(0, total - 1, most).astype(np.int64)


def _by_degree(
    terms: list[Term],
    column: int,
    width: int,
    samples: Mapping[str, SparseTensor],
    rng: np.random.Generator,
) -> Iterator[tuple[str, slice, np.ndarray]]:
    """Degrees times uniform random numbers, over the modalities that some terms couple, run of rows by run.

    The columns of the K modalities of a term have lengths whose product is about the norm of its tensor over
    the number of columns, so that all columns together are of the tensor's size.
    """
    for m in dict.fromkeys(m for t in terms for m in _members(t, column)):
        degree, scale = np.zeros(_size(terms, samples, m)), 0.0
        for term in terms:
            if m in _members(term, column):
                tensor = samples[term.name]
                np.add.at(degree, tensor.coords[term.mode(m)], np.abs(tensor.values))
                norm = float(np.linalg.norm(tensor.values)) / width
                scale = max(scale, norm ** (1 / len(_members(term, column))))
        length = max(float(np.linalg.norm(degree)), 1e-300)
        degree *= scale / length
        for rows in _runs(len(degree)):
            yield m, rows, rng.random((rows.stop - rows.start, width)) * degree[rows, None]


def _clustered(
    terms: list[Term],
    column: int,
    width: int,
    samples: Mapping[str, SparseTensor],
    rng: np.random.Generator,
) -> Iterator[tuple[str, slice, np.ndarray]]:
    """One column per cluster of the hyperedges of some terms, over the modalities they couple.

    Only entities that the samples have are vertices; what is made for all others is made run by run.
    """
    incidences = _incidences(terms, column, samples)
    whole = scipy.sparse.hstack([incidence for _, incidence in incidences.values()], format="csr")
    cluster = _cluster_hyperedges(whole, width, rng)
    del whole
    weight = np.concatenate([np.abs(samples[t.name].values) for t in terms])
    mass = np.bincount(cluster, weights=weight, minlength=width)
    each = np.arange(len(cluster))
    weighed = scipy.sparse.csr_array((weight, (each, cluster)), shape=(len(cluster), width))
    for m, (own, incidence) in incidences.items():
        # counts[v, c]: the weight of the hyperedges of cluster c at vertex v
        counts = incidence.T @ weighed
        # sum over the cluster's box = its mass, spread evenly over the modes
        scale = mass ** (1 / len(_members(terms[0], column))) / np.maximum(counts.sum(axis=0), 1e-300)
        start = (counts @ scipy.sparse.diags_array(scale)).tocsr()
        size = _size(terms, samples, m)
        # a little noise keeps empty clusters, and entities of no cluster, alive
        noise = 1e-3 * max(start.sum() / (size * width), 1e-12)
        for run in _runs(size):
            values = noise * rng.random((run.stop - run.start, width))
            there = slice(*np.searchsorted(own, (run.start, run.stop)))
            values[own[there] - run.start] += start[there].toarray()
            yield m, run, values


def _incidences(
    terms: list[Term], column: int, samples: Mapping[str, SparseTensor]
) -> dict[str, tuple[np.ndarray, scipy.sparse.csr_array]]:
    """Per modality, which of its entities are in hyperedges, and in which (hyperedges x those entities)."""
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    count = 0
    for term in terms:
        tensor = samples[term.name]
        for m in _members(term, column):
            edges = np.arange(count, count + tensor.nnz)
            pairs.setdefault(m, []).append((edges, tensor.coords[term.mode(m)]))
        count += tensor.nnz
    incidences = {}
    for m, parts in pairs.items():
        edges, entities = (np.concatenate(side) for side in zip(*parts))
        found, at = np.unique(entities, return_inverse=True)
        ones = np.ones(len(edges), dtype=np.float32)
        incidences[m] = found, scipy.sparse.csr_array((ones, (edges, at)), shape=(count, len(found)))
    return incidences


def _cluster_hyperedges(
    incidence: scipy.sparse.csr_array, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Groups of hyperedges: k-means on the leading singular vectors of the degree-normalised incidence."""
    edges, vertices = incidence.shape
    dimensions = min(width, 32, min(edges, vertices) - 1)
    if width == 1 or edges <= width or dimensions < 1:
        return rng.integers(0, width, edges)
    degree = np.maximum(incidence.sum(axis=0), 1)
    normalised = incidence @ scipy.sparse.diags_array(degree**-0.5)
    embedding = normalised @ leading_subspace(normalised, dimensions, rng)
    embedding /= np.maximum(np.sqrt(np.einsum("ec,ec->e", embedding, embedding)), 1e-12)[:, None]
    few = rng.choice(edges, min(edges, 256 * width), replace=False)
    centres, _ = kmeans2(embedding[few], width, minit="++", iter=20, rng=rng, missing="warn")
    nearest = np.empty(edges, dtype=np.int64)
    for at in range(0, edges, 65536):
        chunk = embedding[at : at + 65536]
        nearest[at : at + 65536] = np.argmax(2 * chunk @ centres.T - (centres**2).sum(axis=1), axis=1)
    return nearest


def leading_subspace(
    matrix: scipy.sparse.csr_array, dimensions: int, rng: np.random.Generator, iterations: int = 4
) -> np.ndarray:
    """An orthonormal basis (columns x dimensions) near the leading right singular vectors.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).
    """
    basis = rng.normal(size=(matrix.shape[1], dimensions)).astype(matrix.dtype)
    for _ in range(iterations + 1):
        # There are as many rows as entities, or hyperedges: no more than two such matrices at a time. LAPACK
        # works in the place of one in its own order, and SciPy's products make a copy of one that is not C's.
        basis = matrix @ basis
        basis = matrix.T @ basis
        basis = np.asfortranarray(basis)
        basis, _ = scipy.linalg.qr(basis, mode="economic", overwrite_a=True, check_finite=False)
        basis = np.ascontiguousarray(basis)
    return basis


def _members(term: Term, column: int) -> list[str]:
    """The modalities a term couples in a column."""
    return [m for mode, m in enumerate(term.modalities) if term.coupled[mode, column]]


def _size(terms: list[Term], samples: Mapping[str, SparseTensor], modality: str) -> int:
    term = next(t for t in terms if modality in t.modalities)
    return samples[term.name].shape[term.mode(modality)]
