import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import eval_chebyt

from hyperlearn_dask.factorization.blocks import BlockSystem
from hyperlearn_dask.factorization.draws import posterior
from hyperlearn_dask.factorization.draws.priors import Prior, draw_precision
from tests.factorization.made_up import random_laplacian


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


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_draws_of_a_code_have_the_mean_and_covariance_of_its_posterior(by_row, graph, own):
    """A~ = D Theta + E: M' (blockdiag(H_i) + mu L) M + S is the precision of (Theta; E)."""
    rng = np.random.default_rng(0)
    rows, inputs, width, mu = 5, 3, 2, 1.5
    z = rng.normal(size=(rows, 3, width))
    gram, right = np.array([[1.0, 0.3], [0.3, 0.8]]), rng.normal(size=(rows, width))
    grams = gram + np.einsum("nea,neb->nab", z, z) if by_row else gram
    design = rng.normal(size=(rows, inputs)) * (rng.random((rows, inputs)) < 0.7)
    laplacian = random_laplacian(rng, rows, density=0.6) if graph else None
    ridges = np.array([[1.0, 3.0], [2.0, 0.5]])[: 1 + own]
    whole = np.hstack([design, np.eye(rows)]) if own else design
    curvature = np.zeros((rows * width, rows * width))
    for i in range(rows):
        span = slice(i * width, (i + 1) * width)
        curvature[span, span] = grams[i] if by_row else gram
    if graph:
        curvature += mu * np.kron(laplacian.toarray(), np.eye(width))
    m = np.kron(whole, np.eye(width))
    parts = (0, inputs, inputs + rows)[: 2 + own]
    precision = m.T @ curvature @ m + np.diag(np.repeat(ridges, np.diff(parts), axis=0).ravel())
    covariance = m @ np.linalg.inv(precision) @ m.T
    copies, times, burn_in = 60, 150, 20  # independent chains, drawn together
    d = sp.csc_array(sp.block_diag([design] * copies))
    laplacians = None if laplacian is None else sp.csr_array(sp.block_diag([laplacian] * copies))
    bent = None if laplacian is None else sp.csc_array(mu * (laplacians @ d))
    ends = (0, inputs * copies, (inputs + rows) * copies)[: 2 + own]
    prior = Prior(d, bent, own, ends, (1.0, 1.0)[: 1 + own], (slice(0, width),), False)
    block, code = np.zeros((copies * rows, width)), np.zeros((ends[-1], width))
    drawn = []
    for _ in range(burn_in + times):
        system = BlockSystem(
            np.tile(grams, (copies, 1, 1)) if by_row else gram.copy(), np.tile(right, (copies, 1))
        )
        block, code = posterior.draw_code(
            prior, system, laplacians, mu if graph else 0.0, block, code, ridges, rng
        )
        drawn.append(block)
    draws = np.reshape(drawn[burn_in:], (copies * times, rows * width))
    deviation = np.sqrt(np.diag(covariance))
    known = deviation > 1e-9  # rows without features have none
    error = (draws.mean(axis=0) - covariance @ right.ravel())[known] / deviation[known]
    assert np.abs(error).max() < 0.1
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.08 * covariance.max())


def test_ridges_are_drawn_for_each_part_and_group_of_columns():
    rng = np.random.default_rng(0)
    code = rng.normal(size=(30, 3)) * np.array([1.0, 1.0, 0.1])
    code[20:] *= 5
    prior = Prior(None, None, True, (0, 20, 30), (1.0, 1.0), (slice(0, 2), slice(2, 3)), True)
    drawn = np.mean([prior.draw_ridges(code, rng) for _ in range(4000)], axis=0)
    # s | Z ~ Gamma((1 + |Z|) / 2, (1 + ||Z||^2) / 2)
    for b, rows in enumerate((slice(0, 20), slice(20, 30))):
        for group in (slice(0, 2), slice(2, 3)):
            part = code[rows, group]
            expected = (1 + part.size) / (1 + (part**2).sum())
            np.testing.assert_allclose(drawn[b, group], expected, rtol=0.03)
    assert draw_precision(10**6, 4e6, rng) == pytest.approx(0.25, rel=0.01)
