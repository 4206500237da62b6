import numpy as np
import pytest
from scipy.special import eval_chebyt

from hyperlearn_dask.backend import to_device, to_host
from hyperlearn_dask.factorization import filters

from .made_up import random_laplacian


@pytest.fixture
def graph():
    return random_laplacian(np.random.default_rng(0), 40, isolated=2)


def device_of(xp):
    return "cpu" if xp is np else "cuda"


def test_chebyshev_apply_is_the_polynomial_of_the_eigenvalues(xp, graph):
    rng = np.random.default_rng(1)
    block, coefficients = rng.normal(size=(40, 3)), rng.normal(size=(6, 3))
    values, vectors = np.linalg.eigh(graph.toarray())
    expected = np.empty_like(block)
    for r in range(3):
        h = sum(c * eval_chebyt(k, values - 1) for k, c in enumerate(coefficients[:, r]))
        expected[:, r] = vectors @ (h * (vectors.T @ block[:, r]))
    got = filters.chebyshev_apply(
        to_device(graph, device_of(xp)), xp.asarray(block), xp.asarray(coefficients)
    )
    np.testing.assert_allclose(to_host(got), expected, atol=1e-12)


@pytest.mark.parametrize("ratio", [1e-5, 1e-3, 1e-2, 1.0, 100.0])
def test_the_resolvent_is_the_dense_solve_to_1e_8(xp, graph, ratio):
    """Both sides of the switch: a filter of the bound's degree, and conjugate gradients."""
    rng = np.random.default_rng(2)
    mu = 3.0
    weights = mu * ratio * np.array([1.0, 2.0, 10.0])
    block = rng.normal(size=(40, 3))
    expected = np.column_stack(
        [np.linalg.solve(mu * graph.toarray() + w * np.eye(40), block[:, r]) for r, w in enumerate(weights)]
    )
    got = filters.solve_resolvent(
        to_device(graph, device_of(xp)), mu, weights, xp.asarray(block), xp.zeros((40, 3)), 1e-13
    )
    np.testing.assert_allclose(to_host(got), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def test_both_ways_of_the_resolvent_are_exercised_above():
    assert filters.resolvent_degree(1e-5, 1.0, 1e-13) > filters.SILLY_DEGREE
    assert filters.resolvent_degree(1e-2, 1.0, 1e-13) <= filters.SILLY_DEGREE


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8, 1e-12])
def test_the_degree_keeps_the_residual_under_the_tolerance_and_is_not_wasteful(tolerance):
    mu, weights = 2.0, np.array([0.1, 5.0])
    coefficients = filters.resolvent_coefficients(weights, mu, tolerance)
    degree = len(coefficients) - 1
    assert degree == filters.resolvent_degree(0.1, mu, tolerance)
    spectrum = np.linspace(0, 2, 2001)

    def residual(upto):
        h = sum(c * eval_chebyt(k, spectrum - 1)[:, None] for k, c in enumerate(coefficients[: upto + 1]))
        return np.abs(1 - (mu * spectrum[:, None] + weights) * h).max()

    assert residual(degree) <= tolerance + 1e-14
    assert residual(degree // 2) > tolerance


def test_conjugate_gradients_solve_columns_of_very_different_scale(xp):
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(20, 20))
    matrix = matrix @ matrix.T + np.eye(20)
    right = rng.normal(size=(20, 3)) * np.array([1e-6, 1.0, 0.0])
    got = filters.conjugate_gradients(
        lambda y: xp.asarray(matrix) @ y,
        xp.asarray(right),
        lambda y: y,
        xp.zeros((20, 3)),
        1e-12,
        by_column=True,
    )
    expected = np.linalg.solve(matrix, right)
    for r in range(3):
        np.testing.assert_allclose(
            to_host(got)[:, r], expected[:, r], rtol=0, atol=1e-9 * max(np.abs(expected[:, r]).max(), 1e-300)
        )
