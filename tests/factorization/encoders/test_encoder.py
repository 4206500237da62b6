"""The learned convolution against its definition: dense polynomials of the eigenvalues, dense solves."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import eval_chebyt

from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.factorization.blocks import BlockSystem, residual
from hyperlearn_dask.factorization.encoders import encoder as encoders
from hyperlearn_dask.factorization.encoders.encoder import Encoder, code_rows, descent, starting_code
from hyperlearn_dask.factorization.kernels import rows as rows_kernel
from tests.factorization.made_up import random_laplacian

N, P, F = 30, 5, 3
MU, RIDGE = 0.7, 0.4
# Encoders by what moves: the weights of features (and own rows), the free rows or their weights.
CASES = {
    "features": (EncoderSpec("features", 2, 0.3), 0),
    "features, no graph": (EncoderSpec("features", 0, 0.3), 0),
    "features and own rows": (EncoderSpec("features", 1, 0.3, own=True), 0),
    "free rows": (EncoderSpec("free", 2, 0.3), 0),
    "weights of free rows": (EncoderSpec("free", 2, 0.3), 1),
}


def made_up(case, by_row=True, seed=0):
    rng = np.random.default_rng(seed)
    spec, turn = CASES[case]
    laplacian = random_laplacian(rng, N) if spec.degree else None
    features = sp.csr_array(rng.normal(size=(N, P)) * (rng.random((N, P)) < 0.6))
    features = features if spec.on == "features" else None
    code = rng.normal(size=(code_rows(spec, P if spec.on == "features" else F, N), F))
    z = rng.normal(size=(N, 4, F))
    grams = np.einsum("njf,njg->nfg", z, z) if by_row else z[0].T @ z[0]
    return Encoder(spec, laplacian, features, code, turn), BlockSystem(grams, rng.normal(size=(N, F)))


def polynomial(laplacian, degree):
    """T_degree(L - I), from its eigenvalues."""
    if laplacian is None:
        return np.eye(N)
    values, vectors = np.linalg.eigh(laplacian.toarray())
    return (vectors * eval_chebyt(degree, values - 1)) @ vectors.T


def written_out(encoder):
    """A~ as its definition says."""
    spec, code = encoder.spec, encoder.code
    base = code[-N:] if encoder.features is None else encoder.features.toarray()
    width = base.shape[1]
    total = code[-N:].copy() if spec.own else 0
    for j in range(spec.degree + 1):
        total = total + polynomial(encoder.laplacian, j) @ base @ code[j * width : (j + 1) * width]
    return total


def with_code(encoder, code):
    return Encoder(encoder.spec, encoder.laplacian, encoder.features, code, encoder.turn)


def objective(encoder, system):
    """The block's F, straight from its definition."""
    a = written_out(encoder)
    grams = np.broadcast_to(system.gram, (N, F, F))
    value = np.einsum("nf,nfg,ng->", a, grams, a) / 2 - (a * system.right).sum()
    if encoder.laplacian is not None:
        value += MU / 2 * np.trace(a.T @ encoder.laplacian.toarray() @ a)
    rows = N if encoder.spec.own or encoder.spec.on == "free" else 0
    cut = len(encoder.code) - rows
    return (
        value
        + encoder.spec.decay / 2 * (encoder.code[:cut] ** 2).sum()
        + (RIDGE / 2 * (encoder.code[cut:] ** 2).sum())
    )


def solved(encoder, system, tolerance=1e-13):
    change, *_ = descent(encoder, system, MU, RIDGE, encoder.encode(), None, tolerance)
    return with_code(encoder, encoder.code + change)


@pytest.mark.parametrize("case", CASES)
def test_rows_are_the_polynomials_of_the_published_encoder(case):
    encoder, _ = made_up(case)
    np.testing.assert_allclose(encoder.encode(), written_out(encoder), atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradient_and_direction_are_finite_differences(case):
    encoder, system = made_up(case)
    rng = np.random.default_rng(1)
    change = np.zeros_like(encoder.code)
    change[encoder.moving] = rng.normal(size=encoder.code[encoder.moving].shape)
    step = 1e-5
    ahead, behind = (with_code(encoder, encoder.code + s * change) for s in (step, -step))
    # What moves is linear, so the differences are exact but for rounding.
    along = (written_out(ahead) - written_out(behind)) / (2 * step)
    np.testing.assert_allclose(encoder.along(change), along, atol=1e-8)
    downhill = residual(system, encoder.laplacian, MU, encoder.encode())
    gradient = encoder.transposed(-downhill) + encoder.ridges(RIDGE) * encoder.code
    slope = (objective(ahead, system) - objective(behind, system)) / (2 * step)
    assert (gradient * change).sum() == pytest.approx(slope, rel=1e-7)
    line = encoders.cost(encoder, change, RIDGE)
    at = (with_code(encoder, encoder.code + 2 * change).code ** 2 * encoder.ridges(RIDGE)).sum() / 2
    assert line @ [1, 2, 4] == pytest.approx(at)


@pytest.mark.parametrize("by_row", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_solution_is_that_of_dense_least_squares_to_1e_8(case, by_row):
    encoder, system = made_up(case, by_row)
    found = solved(encoder, system)
    # The design, column by column: A~ for each unit vector of what moves, from the definition.
    moving = np.arange(len(encoder.code))[encoder.moving]
    offset = with_code(encoder, encoder.code.copy())
    offset.code[moving] = 0
    base = written_out(offset) if encoder.spec.on == "features" else np.zeros((N, F))
    columns = []
    for row in moving:
        for column in range(F):
            unit = offset.code.copy()
            unit[row, column] = 1
            columns.append((written_out(with_code(encoder, unit)) - base).ravel())
    design = np.column_stack(columns)
    grams = np.broadcast_to(system.gram, (N, F, F))
    curvature = np.zeros((N * F, N * F))
    for i in range(N):
        curvature[i * F : (i + 1) * F, i * F : (i + 1) * F] = grams[i]
    if encoder.laplacian is not None:
        curvature += MU * np.kron(encoder.laplacian.toarray(), np.eye(F))
    ridges = np.repeat(encoder.ridges(RIDGE)[moving, 0], F)
    expected = np.linalg.solve(
        design.T @ curvature @ design + np.diag(ridges), design.T @ system.right.ravel()
    ).reshape(-1, F)
    np.testing.assert_allclose(found.code[moving], expected, atol=1e-8 * np.abs(expected).max())
    still = np.setdiff1d(np.arange(len(found.code)), moving)
    np.testing.assert_array_equal(found.code[still], encoder.code[still])


def test_a_row_feels_its_curvature_through_the_weights(monkeypatch):
    monkeypatch.setattr(encoders, "ROWS_AT_ONCE", 8)
    encoder, system = made_up("free rows")
    half = [1, 0.5, 0.5]  # of T_j^2 the mean
    expected = sum(h * np.einsum("ab,nbc,dc->nad", t, system.gram, t) for h, t in zip(half, encoder.thetas))
    np.testing.assert_allclose(encoder.seen_through(system.gram), expected, atol=1e-12)
    np.testing.assert_allclose(encoder.seen_through(system.gram[0]), expected[0], atol=1e-12)


@pytest.mark.parametrize("narrow", [0, 32])
@pytest.mark.parametrize("case", ["free", "features, shared", "features, by row"])
def test_without_a_graph_the_preconditioner_is_the_inverse(case, narrow, monkeypatch):
    """So one iteration solves; of own rows it is where all rows have the same system, told or not."""
    monkeypatch.setattr(rows_kernel, "NARROW", narrow)  # columns up to which rows have inverses
    monkeypatch.setattr(encoders, "ROWS_AT_ONCE", 8)
    monkeypatch.setattr(encoders, "ENOUGH_ROWS", 4)
    monkeypatch.setattr(encoders, "MOST_ITERATIONS", 1)
    encoder, system = made_up("free rows" if case == "free" else "features and own rows")
    spec = EncoderSpec(encoder.spec.on, 0, 0.3, own=encoder.spec.own)
    code = np.random.default_rng(4).normal(size=(code_rows(spec, F if case == "free" else P, N), F))
    encoder = Encoder(spec, None, encoder.features, code)
    if case != "free":
        shared = system.gram[0] if case == "features, shared" else np.repeat(system.gram[:1], N, axis=0)
        system = BlockSystem(shared, system.right)
    change, *_ = descent(encoder, system, 0.0, RIDGE, encoder.encode(), None, 1e-13)
    found = with_code(encoder, code + change)
    gradient = (
        found.ridges(RIDGE) * found.code - found.transposed(residual(system, None, 0.0, found.encode()))
    )[encoder.moving]
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_modality_without_free_columns_stays(case):
    spec, turn = CASES[case]
    encoder, _ = made_up(case)
    code = encoder.code[:, :0] if spec.on == "features" else encoder.code[-N:, :0]
    nothing = Encoder(spec, encoder.laplacian, encoder.features, code, turn)
    system = BlockSystem(np.zeros((0, 0)), np.zeros((N, 0)))
    change, *slopes = descent(nothing, system, MU, RIDGE, nothing.encode(), None, 1e-8)
    assert change.shape == code.shape and slopes == [0, 0]


def test_planted_weights_are_recovered():
    encoder, _ = made_up("features")
    spec = EncoderSpec("features", 2, 1e-9)
    planted = Encoder(spec, encoder.laplacian, encoder.features, encoder.code)
    system = BlockSystem(np.eye(F), planted.encode())
    blank = with_code(planted, np.zeros_like(planted.code))
    change, *_ = descent(blank, system, 0.0, 0.0, np.zeros((N, F)), None, 1e-12)
    np.testing.assert_allclose(change, planted.code, atol=1e-6)


@pytest.mark.parametrize("turn", [0, 1])
def test_at_degree_0_free_rows_are_plain_factors(turn):
    """Solved for the rows with Theta = I, a block is the plain one; for Theta alone it cannot be lower."""
    rng = np.random.default_rng(2)
    start = rng.normal(size=(N, F))
    _, system = made_up("free rows")
    spec = EncoderSpec("free", 0, 1.0)
    encoder = Encoder(spec, None, None, starting_code(spec, None, None, start, RIDGE), turn)
    np.testing.assert_array_equal(encoder.encode(), start)
    plain = np.linalg.solve(system.gram + RIDGE * np.eye(F), system.right[:, :, None])[:, :, 0]
    found = solved(encoder, system)
    if turn == 0:
        np.testing.assert_allclose(found.encode(), plain, atol=1e-9)
    else:
        assert objective(found, system) < objective(encoder, system)


def test_identity_features_without_a_graph_are_plain_factors():
    _, system = made_up("features, no graph")
    spec = EncoderSpec("features", 0, RIDGE)
    encoder = Encoder(spec, None, sp.csr_array(np.eye(N)), np.zeros((N, F)))
    plain = np.linalg.solve(system.gram + RIDGE * np.eye(F), system.right[:, :, None])[:, :, 0]
    np.testing.assert_allclose(solved(encoder, system).encode(), plain, atol=1e-9)


def test_a_start_with_own_rows_is_the_start_asked_for_and_one_on_features_the_nearest():
    rng = np.random.default_rng(3)
    start = rng.normal(size=(N, F))
    for case, own in (("features and own rows", True), ("features", False)):
        encoder, _ = made_up(case)
        spec, x = encoder.spec, encoder.features
        code = starting_code(spec, encoder.laplacian, x, start, RIDGE)
        got = with_code(encoder, code).encode()
        if own:
            np.testing.assert_allclose(got, start, atol=0.05)
        else:
            design = np.hstack([polynomial(encoder.laplacian, j) @ x.toarray() for j in range(3)])
            nearest = design @ np.linalg.lstsq(design, start, rcond=None)[0]
            np.testing.assert_allclose(got, nearest, atol=0.05)
