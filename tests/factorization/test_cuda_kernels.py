"""The CUDA kernels, on a GPU or executed on the host, against loops.

Not against the CPU's, which ``test_kernels.py`` compares with the same loops: each order, dtype and width
of those is another kernel that takes seconds to compile.
"""

from importlib import import_module

import numpy as np
import pytest

from hyperlearn_dask.backend import to_device, to_host
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.hypergraph.tensor import SparseTensor

from .made_up import (
    loop_context_equations,
    loop_line,
    loop_mttkrp,
    loop_normal_equations,
    random_laplacian,
    random_tensor,
)

TOLERANCE = {"float32": 3e-4, "float64": 1e-11}
CASES = [
    *[((40, 7), 40), ((7, 30, 5), 1), ((7, 30, 5), 12), ((7, 30, 5), 20)],
    *[((9,), 3), ((40, 7), 3), ((7, 30, 5), 3), ((6, 4, 9, 5), 3), ((3, 4, 5, 6, 7), 3)],
    *[((3, 4, 2, 5, 3, 2), 3), ((2, 3, 4, 3, 2, 3, 2), 3), ((2,) * 8, 3)],
]
every_case = pytest.mark.parametrize(
    ("shape", "rank"), CASES, ids=[f"{'x'.join(map(str, s))}-{r}" for s, r in CASES]
)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture
def cuda(cupy):
    return import_module("hyperlearn_dask.factorization.kernels.cuda")


def made(shape, rank, dtype, nnz=300):
    rng = np.random.default_rng(rank)
    tensor = random_tensor(rng, shape, nnz)
    matrices, directions = (tuple(rng.normal(size=(n, rank)).astype(dtype) for n in shape) for _ in range(2))
    return tensor, matrices, directions


def on_device(tensor):
    return SparseTensor(
        tuple(to_device(c, "cuda") for c in tensor.coords),
        to_device(tensor.values, "cuda"),
        tensor.shape,
        tensor.sorted_by,
    )


def moved(arrays):
    return tuple(to_device(a, "cuda") for a in arrays)


def assert_close(got, expected, dtype):
    assert got.dtype == dtype
    scale = max(np.abs(expected).max(initial=0), 1)
    np.testing.assert_allclose(to_host(got), expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@every_case
@both_dtypes
def test_mttkrp_is_that_of_the_loop(cuda, shape, rank, dtype):
    tensor, matrices, _ = made(shape, rank, dtype)
    if len(shape) == 1:
        pytest.skip("a tensor has two modes at least; contexts may have one")
    modes = tuple(range(len(shape)))
    device, on = on_device(tensor), moved(matrices)
    expected = [loop_mttkrp(tensor, matrices, mode) for mode in modes]
    together = kernels.mttkrp(device, on, modes)
    assert set(together) == set(modes)
    for mode in modes:
        assert_close(together[mode], expected[mode], dtype)
        assert_close(kernels.mttkrp(device, on, (mode,))[mode], expected[mode], dtype)
        entries, _ = kernels.group_by_row(device, mode)
        assert_close(cuda.mttkrp_by_row(device, on, mode, entries), expected[mode], dtype)


@pytest.mark.parametrize("run", [1, 3, 8, 1000])
def test_heavy_and_split_rows_are_summed_whole(cuda, monkeypatch, run):
    """One row has most entries, some rows have none; runs begin and end anywhere."""
    rng = np.random.default_rng(0)
    tensor, matrices, _ = made((50, 30, 4), 3, "float64", nnz=900)
    rows = np.sort(np.where(rng.random(tensor.nnz) < 0.8, 17, tensor.coords[0])).astype(np.int32)
    tensor = SparseTensor((rows, *tensor.coords[1:]), tensor.values, tensor.shape)
    _set(monkeypatch, run_length=lambda nnz: run)
    got = cuda.mttkrp(on_device(tensor), moved(matrices), (0, 1, 2))
    for mode in range(3):
        assert_close(got[mode], loop_mttkrp(tensor, matrices, mode), "float64")


@every_case
@both_dtypes
def test_the_line_is_that_of_the_loop(cupy, shape, rank, dtype):
    tensor, matrices, directions = made(shape, rank, dtype)
    if len(shape) == 1:
        pytest.skip("a tensor has two modes at least; contexts may have one")
    expected = loop_line(tensor, matrices, directions, 0.7)
    got = kernels.line(on_device(tensor), moved(matrices), moved(directions), 0.7)
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[dtype] * max(np.abs(expected).max(), 1))


@every_case
@both_dtypes
@pytest.mark.parametrize("known", [0, 1])
def test_normal_equations_are_those_of_the_loop(cupy, monkeypatch, shape, rank, dtype, known):
    tensor, matrices, _ = made(shape, rank, dtype)
    _set(monkeypatch, SEGMENT=20)  # so that rows are cut
    columns = np.random.default_rng(0).permutation(rank)
    free, fixed = columns[known:], columns[:known]
    for mode in {0, len(shape) - 1}:
        expected = loop_normal_equations(tensor, matrices, mode, free, fixed, 0.6)
        device = on_device(tensor)
        got = kernels.normal_equations(
            device, moved(matrices), mode, free, fixed, 0.6, *kernels.group_by_row(device, mode)
        )
        for one, other in zip(got, expected):
            assert_close(one, other, dtype)


@every_case
@both_dtypes
@pytest.mark.parametrize("known", [0, 1])
def test_context_equations_are_those_of_the_loop(cupy, monkeypatch, shape, rank, dtype, known):
    tensor, matrices, _ = made(shape, rank, dtype)
    _set(monkeypatch, SEGMENT=20)
    rng = np.random.default_rng(0)
    columns = rng.permutation(rank)
    free, fixed = np.sort(columns[known:]), np.sort(columns[:known])
    target = rng.normal(size=(7, rank))
    for mode in {0, len(shape) - 1}:
        expected = loop_context_equations(tensor, matrices, mode, free, fixed, target)
        device = on_device(tensor)
        got = kernels.context_equations(
            device, moved(matrices), mode, free, fixed, target.T @ target, *kernels.group_by_row(device, mode)
        )
        for one, other in zip(got, expected):
            assert_close(one, other, dtype)


@pytest.mark.parametrize("width", [1, 7, 32, 45])
@pytest.mark.parametrize("shared", [48 * 1024, 0], ids=["shared", "scratch"])
@both_dtypes
def test_rows_are_solved(cupy, monkeypatch, width, shared, dtype):
    _set(monkeypatch, SHARED_BYTES=shared, SCRATCH_BLOCKS=4)  # fewer than rows
    rng = np.random.default_rng(0)
    z = rng.normal(size=(11, 2 * width, width))
    matrices = (np.einsum("nea,neb->nab", z, z) + 0.1 * np.eye(width)).astype(dtype)
    right = rng.normal(size=(11, width)).astype(dtype)
    expected = np.linalg.solve(matrices.astype(float), right.astype(float)[..., None])[..., 0]
    got = kernels.solve_rows(*moved((matrices, right)))
    np.testing.assert_allclose(to_host(got), expected, atol=10 * TOLERANCE[dtype] * np.abs(expected).max())


@both_dtypes
def test_a_singular_row_is_solved_as_on_the_cpu(cupy, dtype):
    matrices, right = np.ones((3, 4, 4), dtype=dtype), np.ones((3, 4), dtype=dtype)
    solution = to_host(kernels.solve_rows(*moved((matrices, right))))
    np.testing.assert_allclose(solution @ np.ones((4, 4)), right, atol=1e-2)


@pytest.mark.parametrize("width", [1, 5, 20, 40])
@pytest.mark.parametrize("heavy", [256, 3, 0])
@both_dtypes
def test_graph_kernels_are_the_dense_products(cupy, monkeypatch, width, heavy, dtype):
    _set(monkeypatch, HEAVY=heavy)
    rng = np.random.default_rng(0)
    laplacian = random_laplacian(rng, 37, isolated=2).astype(dtype)
    block = rng.normal(size=(37, width)).astype(dtype)
    coefficients = rng.normal(size=(6, width)).astype(dtype)
    device = to_device(laplacian, "cuda")
    dense = laplacian.toarray().astype(float)
    (on,) = moved((block,))
    assert_close(kernels.graph_product(device, on), (dense @ block).astype(dtype), dtype)
    shifted = dense - np.eye(37)
    before, now = block.astype(float), shifted @ block
    expected = coefficients[0] * before + coefficients[1] * now
    for c in coefficients[2:]:
        before, now = now, 2 * shifted @ now - before
        expected = expected + c * now
    assert_close(kernels.chebyshev(device, on, coefficients), expected.astype(dtype), dtype)
    np.testing.assert_array_equal(to_host(on), block)
    one = kernels.chebyshev(device, on, coefficients[:1])
    assert_close(one, coefficients[0] * block, dtype)


def test_long_indices_have_their_own_kernels(cuda, monkeypatch):
    tensor, matrices, directions = made((30, 6, 5), 3, "float64")
    _set(monkeypatch, MOST_INT=8)
    got = cuda.mttkrp(on_device(tensor), moved(matrices), (0, 1, 2))
    line = cuda.line(on_device(tensor), moved(matrices), moved(directions), 1.0)
    for mode in range(3):
        assert_close(got[mode], loop_mttkrp(tensor, matrices, mode), "float64")
    assert_close(line, loop_line(tensor, matrices, directions, 1.0), "float64")


def test_no_entries_give_zeros(cupy):
    tensor, matrices, directions = made((5, 4), 3, "float64", nnz=3)
    nothing = on_device(tensor[:0])
    for rows in kernels.mttkrp(nothing, moved(matrices), (0, 1)).values():
        assert not to_host(rows).any()
    assert not kernels.line(nothing, moved(matrices), moved(directions), 1.0).any()
    grouped = kernels.group_by_row(nothing, 0)
    for part in kernels.normal_equations(
        nothing, moved(matrices), 0, np.arange(3), np.arange(0), 1.0, *grouped
    ):
        assert not to_host(part).any()


def _set(monkeypatch, **values):
    cuda = import_module("hyperlearn_dask.factorization.kernels.cuda")
    for name, value in values.items():
        monkeypatch.setattr(cuda, name, value)
