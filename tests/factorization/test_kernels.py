import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.factorization.kernels import cpu
from hyperlearn_dask.hypergraph.tensor import SparseTensor

from .made_up import (
    loop_context_equations,
    loop_mttkrp,
    loop_normal_equations,
    loop_values,
    random_tensor,
)

TOLERANCE = {"float32": 2e-4, "float64": 1e-12}


# Passes are unrolled for each order, and one source is compiled for each dtype; to compile takes seconds.
KINDS = [(2, "float64"), (3, "float32"), (3, "float64"), (4, "float32")]


@st.composite
def cases(draw):
    order, dtype = draw(st.sampled_from(KINDS))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=order, max_size=order)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensor = random_tensor(rng, shape, draw(st.integers(1, 40)))
    rank = draw(st.integers(1, 6))
    matrices = tuple(rng.normal(size=(n, rank)).astype(dtype) for n in shape)
    directions = tuple(rng.normal(size=(n, rank)).astype(dtype) for n in shape)
    return tensor, matrices, directions, TOLERANCE[dtype]


@settings(max_examples=60, deadline=None)
@given(cases())
def test_mttkrp_of_all_modes_and_of_each_is_the_loop(case):
    tensor, matrices, _, tolerance = case
    together = cpu.mttkrp(tensor, matrices, tuple(range(tensor.order)))
    for mode in range(tensor.order):
        expected = loop_mttkrp(tensor, matrices, mode)
        assert together[mode].dtype == matrices[0].dtype
        np.testing.assert_allclose(together[mode], expected, rtol=tolerance, atol=tolerance * 10)
        alone = cpu.mttkrp(tensor, matrices, (mode,))
        np.testing.assert_allclose(alone[mode], expected, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("rank", [8, 9, 32, 41])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_any_number_of_columns_and_threads_is_the_loop(rank, dtype):
    rng = np.random.default_rng(rank)
    tensor = random_tensor(rng, (40, 7, 5), 150)
    heavy = tensor.coords[0].copy()
    heavy[20:120] = heavy[20]  # a row that several threads share
    heavy[120:] = np.maximum(heavy[120:], heavy[20])
    tensor = SparseTensor((heavy, *tensor.coords[1:]), tensor.values, tensor.shape)
    matrices = tuple(rng.normal(size=(n, rank)).astype(dtype) for n in tensor.shape)
    directions = tuple(rng.normal(size=(n, rank)).astype(dtype) for n in tensor.shape)
    moved = tuple(a.astype(float) + 0.5 * d for a, d in zip(matrices, directions))
    line = cpu.line(tensor, matrices, directions, 0.0)
    expected = -2 * tensor.values @ loop_values(tensor, moved)
    scale = np.abs(tensor.values).sum() * rank * 10
    assert np.polynomial.polynomial.polyval(0.5, line) == pytest.approx(
        expected, abs=TOLERANCE[dtype] * scale
    )
    for mode, rows in cpu.mttkrp(tensor, matrices, (2, 0, 1)).items():
        expected = loop_mttkrp(tensor, matrices, mode)
        np.testing.assert_allclose(rows, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 100)


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_normal_equations_are_the_loop(case, data):
    tensor, matrices, _, tolerance = case
    mode = data.draw(st.integers(0, tensor.order - 1))
    rank = matrices[0].shape[1]
    split = data.draw(st.integers(1, rank))
    free, fixed = np.arange(split), np.arange(split, rank)
    for m, matrix in enumerate(matrices):
        if m == mode:
            matrix[:, fixed] = 1
    weight = data.draw(st.sampled_from([1.0, 0.3]))
    grouped = cpu.group_by_row(tensor, mode)
    gram, right = cpu.normal_equations(tensor, matrices, mode, free, fixed, weight, *grouped)
    expected_gram, expected_right = loop_normal_equations(tensor, matrices, mode, free, fixed, weight)
    np.testing.assert_allclose(gram, expected_gram, rtol=tolerance, atol=tolerance * 50)
    np.testing.assert_allclose(right, expected_right, rtol=tolerance, atol=tolerance * 50)


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(-1.5, 1.5), st.sampled_from([0.0, 0.3, 1.0]))
def test_the_line_polynomial_has_the_values_of_the_loop(case, alpha, weight):
    tensor, matrices, directions, tolerance = case
    moved = tuple(a.astype(float) + alpha * d for a, d in zip(matrices, directions))
    values = loop_values(tensor, moved)
    line = np.polynomial.polynomial.polyval(alpha, cpu.line(tensor, matrices, directions, weight))
    scale = (1 + np.abs(tensor.values).max() ** 2 + (np.abs(values) ** 2).sum()) * 4.0**tensor.order
    expected = (-2 * tensor.values * values + weight * values**2).sum()
    assert line == pytest.approx(expected, abs=tolerance * scale * 10)


@settings(max_examples=40, deadline=None)
@given(cases(), st.data())
def test_context_equations_are_the_loop(case, data):
    contexts, matrices, _, tolerance = case
    mode = data.draw(st.integers(0, contexts.order - 1))
    rank = matrices[0].shape[1]
    split = data.draw(st.integers(1, rank))
    free, fixed = np.arange(split), np.arange(split, rank)
    target = np.random.default_rng(0).normal(size=(7, rank))
    target_gram = target.T @ target
    gram, right = cpu.context_equations(
        contexts, matrices, mode, free, fixed, target_gram, *cpu.group_by_row(contexts, mode)
    )
    expected_gram, expected_right = loop_context_equations(contexts, matrices, mode, free, fixed, target)
    np.testing.assert_allclose(gram, expected_gram, rtol=tolerance, atol=tolerance * 500)
    np.testing.assert_allclose(right, expected_right, rtol=tolerance, atol=tolerance * 500)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_are_solved(dtype):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(50, 9, 7))
    matrices = (np.einsum("nea,neb->nab", z, z) + 0.1 * np.eye(7)).astype(dtype)
    right = rng.normal(size=(50, 7)).astype(dtype)
    expected = np.linalg.solve(matrices.astype(float), right.astype(float)[..., None])[..., 0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(cpu.solve_rows(matrices, right), expected, atol=50 * TOLERANCE[dtype] * scale)


def test_a_shard_that_starts_inside_the_tensor_gives_its_rows():
    rng = np.random.default_rng(0)
    tensor = random_tensor(rng, (30, 6, 4), 200)
    matrices = tuple(rng.normal(size=(n, 3)) for n in tensor.shape)
    whole = cpu.mttkrp(tensor, matrices, (0, 1, 2))
    cut = int(np.searchsorted(tensor.coords[0], 12))
    total = {m: np.zeros_like(whole[m]) for m in whole}
    for part in (tensor[:cut], tensor[cut:]):
        for m, rows in cpu.mttkrp(part, matrices, (0, 1, 2)).items():
            total[m] += rows
    for m in whole:
        np.testing.assert_allclose(total[m], whole[m], atol=1e-12)


def test_six_modes_are_the_loop():
    rng = np.random.default_rng(0)
    tensor = random_tensor(rng, (2, 3, 2, 2, 3, 2), 40)
    matrices, directions = (tuple(rng.normal(size=(n, 3)) for n in tensor.shape) for _ in range(2))
    for mode, rows in cpu.mttkrp(tensor, matrices, tuple(range(6))).items():
        np.testing.assert_allclose(rows, loop_mttkrp(tensor, matrices, mode), atol=1e-11)
    values = loop_values(tensor, tuple(a + 0.5 * d for a, d in zip(matrices, directions)))
    line = np.polynomial.polynomial.polyval(0.5, cpu.line(tensor, matrices, directions, 0.0))
    assert line == pytest.approx(-2 * tensor.values @ values)
    grouped = cpu.group_by_row(tensor, 5)
    found = cpu.normal_equations(tensor, matrices, 5, np.arange(2), np.arange(2, 3), 0.7, *grouped)
    expected = loop_normal_equations(tensor, matrices, 5, np.arange(2), np.arange(2, 3), 0.7)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-10)
    target = rng.normal(size=(7, 3))
    found = cpu.context_equations(
        tensor, matrices, 5, np.arange(2), np.arange(2, 3), target.T @ target, *grouped
    )
    expected = loop_context_equations(tensor, matrices, 5, np.arange(2), np.arange(2, 3), target)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-10)
