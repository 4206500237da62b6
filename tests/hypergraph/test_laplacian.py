import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph


def by_loops(adjacency):
    n = len(adjacency)
    w = [[0.0 if i == j else max(adjacency[i][j], adjacency[j][i]) for j in range(n)] for i in range(n)]
    degree = [sum(row) for row in w]
    laplacian = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if degree[i] > 0 and degree[j] > 0:
                laplacian[i, j] = (i == j) - w[i][j] / (degree[i] * degree[j]) ** 0.5
    return laplacian


def parts_by_flooding(laplacian):
    """Connected parts with an edge, as lists of entities."""
    left, parts = {i for i in range(len(laplacian)) if laplacian[i, i]}, []
    while left:
        part, edge_of = [], [left.pop()]
        while edge_of:
            part.append(i := edge_of.pop())
            reached = {j for j in left if laplacian[i, j]}
            left -= reached
            edge_of += reached
        parts.append(part)
    return parts


weights = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
adjacencies = st.integers(1, 9).flatmap(lambda n: arrays(float, (n, n), elements=weights))
sparse_adjacencies = st.builds(
    lambda a, keep: a * (np.random.default_rng(keep).random(a.shape) < 0.2), adjacencies, st.integers(0, 99)
)


@given(st.one_of(adjacencies, sparse_adjacencies))
def test_agrees_with_loops(adjacency):
    graph = laplacian_graph("artist", sp.csr_array(adjacency))
    np.testing.assert_allclose(graph.laplacian.toarray(), by_loops(adjacency), atol=1e-14)


@given(sparse_adjacencies)
def test_spectrum_tells_the_parts(adjacency):
    graph = laplacian_graph("artist", sp.csr_array(adjacency))
    dense = graph.laplacian.toarray()
    eigenvalues = np.linalg.eigvalsh(dense)
    assert eigenvalues.min(initial=0) > -1e-12
    assert eigenvalues.max(initial=0) < 2 + 1e-12
    parts = parts_by_flooding(dense)
    assert graph.components == len(parts)
    assert graph.isolated == len(dense) - sum(map(len, parts))
    assert np.sum(eigenvalues < 1e-9) == graph.components + graph.isolated
    # D^1/2 1 on a part is in the null space
    w = np.maximum(adjacency, adjacency.T)
    np.fill_diagonal(w, 0)
    for part in parts:
        vector = np.zeros(len(dense))
        vector[part] = np.sqrt(w.sum(axis=1)[part])
        np.testing.assert_allclose(dense @ vector, 0, atol=1e-12 * (1 + vector.max()))


@given(adjacencies, st.floats(1e-300, 1e300))
def test_unit_of_weights_does_not_matter(adjacency, unit):
    a = laplacian_graph("artist", sp.csr_array(adjacency)).laplacian
    b = laplacian_graph("artist", sp.csr_array(adjacency * unit)).laplacian
    np.testing.assert_allclose(a.toarray(), b.toarray(), atol=1e-12)


def test_counts_and_form():
    # 0-1 named twice, 1-2 from one end only, 3-3 a self-loop, 4-5 a stored zero, 6-7
    rows, columns = [0, 1, 2, 3, 4, 6], [1, 0, 1, 3, 5, 7]
    adjacency = sp.csr_array(sp.coo_array(([1.0, 3.0, 2.0, 5.0, 0.0, 1.0], (rows, columns)), shape=(8, 8)))
    graph = laplacian_graph("artist", adjacency)
    assert (graph.modality, graph.edges, graph.components, graph.isolated) == ("artist", 3, 2, 3)
    assert graph.laplacian.dtype == np.float64
    assert graph.laplacian.has_canonical_format
    assert np.diff(graph.laplacian.indptr)[3:6].tolist() == [0, 0, 0]
    assert adjacency[0, 1] == 1  # the input is left alone


@pytest.mark.parametrize("n", [0, 1, 4])
def test_no_edges(n):
    graph = laplacian_graph("artist", sp.csr_array((n, n)))
    assert (graph.laplacian.nnz, graph.edges, graph.components, graph.isolated) == (0, 0, 0, n)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_wrong_weight(weight):
    with pytest.raises(InputError, match=r"modality 'artist'.*negative, NaN or infinite"):
        laplacian_graph("artist", sp.csr_array([[0, weight], [1, 0]]))
