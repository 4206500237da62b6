"""Graph kernels against their loop versions, in both precisions."""

import numpy as np
import pytest
import scipy.sparse

from hyperlearn_dask.factorization.kernels import graph

from .made_up import random_laplacian

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def product_by_loops(laplacian, block):
    product = np.zeros(block.shape)
    for i in range(len(block)):
        for e in range(laplacian.indptr[i], laplacian.indptr[i + 1]):
            product[i] += float(laplacian.data[e]) * block[laplacian.indices[e]]
    return product


def chebyshev_by_loops(laplacian, block, coefficients):
    """T_0 = I, T_1 = L~, T_{k+1} = 2 L~ T_k - T_{k-1}, summed up one by one."""
    terms = [block.astype(float)]
    for k in range(1, len(coefficients)):
        moved = product_by_loops(laplacian, terms[-1]) - terms[-1]
        terms.append(moved if k == 1 else 2 * moved - terms[-2])
    return sum(c * term for c, term in zip(coefficients, terms))


def graph_and_block(dtype, width, indices=np.int32):
    rng = np.random.default_rng(width)
    laplacian = random_laplacian(rng, 61, density=0.15, isolated=3)
    laplacian.data = laplacian.data.astype(dtype)
    laplacian.indices, laplacian.indptr = laplacian.indices.astype(indices), laplacian.indptr.astype(indices)
    return laplacian, rng.normal(size=(61, width)).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [1, 7, 8, 32, 33])
@pytest.mark.parametrize("degree", [0, 1, 2, 16])
def test_a_series_is_that_of_loops_and_leaves_its_input(dtype, width, degree):
    laplacian, block = graph_and_block(dtype, width)
    given = block.copy()
    coefficients = np.random.default_rng(degree).normal(size=(degree + 1, width)).astype(dtype)
    got = graph.chebyshev(laplacian, block, coefficients)
    assert got.dtype == dtype
    expected = chebyshev_by_loops(laplacian, block, coefficients)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE[dtype] * np.abs(expected).max())
    np.testing.assert_array_equal(block, given)


def test_one_column_of_coefficients_is_for_all():
    laplacian, block = graph_and_block("float64", 5)
    coefficients = np.random.default_rng(0).normal(size=(4, 1))
    got = graph.chebyshev(laplacian, block, coefficients)
    np.testing.assert_allclose(got, graph.chebyshev(laplacian, block, coefficients.repeat(5, axis=1)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("indices", [np.int32, np.int64])
@pytest.mark.parametrize("width", [1, 32, 33])
def test_a_product_is_that_of_loops(dtype, indices, width):
    laplacian, block = graph_and_block(dtype, width, indices)
    got = graph.graph_product(laplacian, np.asfortranarray(block))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, product_by_loops(laplacian, block), atol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3)])
def test_graphs_without_edges_and_blocks_without_columns(shape):
    nothing = scipy.sparse.csr_array((shape[0], shape[0]))
    block = np.ones(shape)
    assert not graph.graph_product(nothing, block).any()
    # L = 0: T_k(-I) = (-1)^k
    got = graph.chebyshev(nothing, block, np.array([[5.0], [2.0], [1.0]]))
    np.testing.assert_array_equal(got, np.full(shape, 4.0))


@pytest.mark.parametrize("hub_first", [True, False])
def test_rows_are_shared_out_whole_whatever_their_degrees(hub_first):
    """A star: one row has half of all entries."""
    n = 500
    hub = 0 if hub_first else n - 1
    rim = np.setdiff1d(np.arange(n), hub)
    weights = scipy.sparse.coo_array((np.ones(n - 1), (np.full(n - 1, hub), rim)), shape=(n, n)).tocsr()
    star = scipy.sparse.csr_array(weights + weights.T)
    block = np.random.default_rng(0).normal(size=(n, 3))
    np.testing.assert_allclose(graph.graph_product(star, block), star @ block, atol=1e-12)
