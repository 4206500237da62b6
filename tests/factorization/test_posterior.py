import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import eval_chebyt

from hyperlearn_dask.factorization import posterior
from hyperlearn_dask.factorization.blocks import BlockSystem

from .made_up import random_laplacian


def test_the_series_is_the_square_root():
    spectrum = np.linspace(0, 2, 501)
    c = posterior.square_root_coefficients(posterior.SQUARE_ROOT_DEGREE)
    series = sum(ck * eval_chebyt(k, spectrum - 1) for k, ck in enumerate(c))
    assert np.abs(series**2 - spectrum).max() < 0.03
    assert series[0] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("graph", [True, False])
def test_draws_have_the_mean_and_covariance_of_the_block_posterior(by_row, graph):
    rng = np.random.default_rng(0)
    rows, width, mu = 5, 2, 1.5
    z = rng.normal(size=(rows, 3, width))
    row_grams = np.einsum("nea,neb->nab", z, z) if by_row else None
    gram, right = np.array([[1.0, 0.3], [0.3, 0.8]]), rng.normal(size=(rows, width))
    laplacian = random_laplacian(rng, rows, density=0.6) if graph else None
    precision = np.kron(np.eye(rows), gram)
    if by_row:
        for i in range(rows):
            precision[i * width : (i + 1) * width, i * width : (i + 1) * width] += row_grams[i]
    if graph:
        precision += mu * np.kron(laplacian.toarray(), np.eye(width))
    copies, times = 60, 100  # independent copies of the block, drawn together
    grams = gram if row_grams is None else gram + np.tile(row_grams, (copies, 1, 1))
    system = BlockSystem(grams, np.tile(right, (copies, 1)))
    laplacians = None if laplacian is None else sp.block_diag([laplacian] * copies, format="csr")
    start = np.zeros((copies * rows, width))
    drawn = [posterior.draw_block(system, laplacians, mu, start, rng) for _ in range(times)]
    draws = np.reshape(drawn, (copies * times, rows * width))
    covariance = np.linalg.inv(precision)
    deviation = np.sqrt(np.diag(covariance))
    error = (draws.mean(axis=0) - covariance @ right.ravel()) / deviation
    assert np.abs(error).max() < 5 / np.sqrt(6000) + 0.01
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.06 * covariance.max())
