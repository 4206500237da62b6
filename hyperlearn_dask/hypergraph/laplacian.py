"""The normalised Laplacian of an intra-modal graph."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.tensor import Graph


def adjacency_of(source: np.ndarray, target: np.ndarray, weights: np.ndarray, n: int) -> sp.csr_array:
    """The edges between n entities, of each pair (in either direction) the largest weight; without loops."""
    if not len(source):
        return sp.csr_array((n, n))
    # One number per unordered pair of entities; n^2 fits in 64 bits for 3 billion of them.
    pair = np.minimum(source, target).astype(np.int64) * n + np.maximum(source, target)
    order = np.argsort(pair, kind="stable")
    first = np.flatnonzero(np.diff(pair[order], prepend=-1))
    largest = np.maximum.reduceat(weights[order], first)
    one, other = np.divmod(pair[order][first], n)
    loop = one == other
    return sp.csr_array((largest[~loop], (one[~loop], other[~loop])), shape=(n, n))


def laplacian_graph(modality: str, adjacency: sp.csr_array) -> Graph:
    """The graph of a modality, with L = I - D^-1/2 W D^-1/2.

    Parameters
    ----------
    modality
        Its name.
    adjacency
        Weights (entities x entities), finite and not negative. They need not be symmetric:
        W = max(adjacency, adjacency'), so an edge that only one end names is an edge. The diagonal
        and stored zeros are dropped.

    Returns
    -------
    Graph
        L in float64 with sorted indices. An isolated entity has an empty row and column in L: a row
        of I alone would pull its factors to zero, and the graph knows nothing about it.

    Raises
    ------
    InputError
        When a weight is negative, NaN or infinite.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> graph = laplacian_graph("artist", sp.csr_array([[0.0, 2, 0], [0, 0, 0], [0, 0, 0]]))
    >>> graph.laplacian.toarray()
    array([[ 1., -1.,  0.],
           [-1.,  1.,  0.],
           [ 0.,  0.,  0.]])
    >>> graph.edges, graph.components, graph.isolated
    (1, 1, 1)
    """
    weights = _symmetric(modality, adjacency)
    n = weights.shape[0]
    degree = weights.sum(axis=1)
    connected = degree > 0
    isolated = n - int(connected.sum())
    # D^-1/2, taken as 0 where the degree is
    scale = np.zeros(n)
    scale[connected] = degree[connected] ** -0.5
    parts, _ = connected_components(weights, directed=False)
    edges = weights.nnz // 2

    # L = I - D^-1/2 W D^-1/2, on the rows that have an edge
    weights.data *= -scale[_rows(weights)] * scale[weights.indices]
    laplacian = sp.csr_array(sp.diags_array(connected.astype(np.float64)) + weights)
    laplacian.eliminate_zeros()
    laplacian.sort_indices()
    return Graph(modality, laplacian, edges, int(parts) - isolated, isolated)


def _symmetric(modality: str, adjacency: sp.csr_array) -> sp.csr_array:
    """W = max(adjacency, adjacency') without diagonal and zeros, scaled so that its maximum is 1."""
    weights = sp.csr_array(adjacency, dtype=np.float64, copy=True)
    weights.sum_duplicates()
    if not (np.isfinite(weights.data) & (weights.data >= 0)).all():
        raise InputError(
            f"the graph of modality '{modality}' has a weight that is negative, NaN or infinite; "
            "expected finite weights of 0 or more"
        )
    weights = sp.csr_array(weights.maximum(weights.T))
    weights.data[_rows(weights) == weights.indices] = 0  # self-loops
    # L does not change with the unit of W; without one, huge weights would overflow in the degrees.
    weights.data /= weights.data.max(initial=0) or 1
    weights.eliminate_zeros()
    return weights


def _rows(matrix: sp.csr_array) -> np.ndarray:
    """The row of each stored entry."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
