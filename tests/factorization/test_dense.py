import numpy as np
import pytest

from hyperlearn_dask.factorization.grams import add_scaled
from hyperlearn_dask.factorization.kernels import arrays, dense

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(params=[(1, 1), (7, 3), (1001, 32), (1003, 41)], ids=str)
def shape(request):
    return request.param


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_gram_is_the_matrix_product(shape, dtype):
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    scale = TOLERANCE[dtype] * shape[0]
    pairs = ((left, right), (right, right))
    for (a, b), (gram, sums) in zip(pairs, dense.grams(pairs), strict=True):
        np.testing.assert_allclose(gram, a.astype(float).T @ b.astype(float), atol=scale)
        np.testing.assert_allclose(sums, b.sum(axis=0, dtype=float), atol=scale)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_way_leads_to_the_solution(shape, dtype):
    rng = np.random.default_rng(1)
    right, block, before = (rng.normal(size=shape).astype(dtype) for _ in range(3))
    gram = np.ones((shape[1], shape[1])) + shape[1] * np.eye(shape[1])
    there = right.copy()
    way, slope, other = dense.way(gram, np.linalg.inv(gram), there, block, before)
    assert way is there  # no more memory is taken
    downhill = right.astype(float) - block.astype(float) @ gram
    np.testing.assert_allclose((block + way) @ gram, right, atol=TOLERANCE[dtype] * 1000)
    assert slope == pytest.approx((downhill * way).sum(), rel=TOLERANCE[dtype] * 10)
    assert other == pytest.approx((downhill * before).sum(), abs=TOLERANCE[dtype] * downhill.size * 100)


def test_without_another_matrix_the_way_is_the_same():
    rng = np.random.default_rng(1)
    gram, right, block = np.eye(3) + 1, rng.normal(size=(7, 3)), rng.normal(size=(7, 3))
    way, slope, other = dense.way(gram, np.linalg.inv(gram), right.copy(), block, None)
    expected = dense.way(gram, np.linalg.inv(gram), right, block, block)
    np.testing.assert_array_equal(way, expected[0])
    assert (slope, other) == (expected[1], 0)


def test_a_step_is_taken_in_the_dtype_of_the_start():
    start, direction = np.ones((3, 2), dtype=np.float32), np.full((3, 2), 4.0, dtype=np.float32)
    moved = dense.moved(start, 0.25, direction)
    assert moved.dtype == np.float32
    assert (moved == 2).all() and (start == 1).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_added_is_added_in_its_place(shape, dtype):
    rng = np.random.default_rng(2)
    total, part = (rng.normal(size=shape).astype(dtype) for _ in range(2))
    columns, row = np.asfortranarray(part), part[0]
    for other in (part, columns, row):
        found, number = total.copy(), total.dtype.type(0.3)
        add_scaled(found, 0.3, other)
        np.testing.assert_array_equal(found, total + number * other)
        assert found.dtype == dtype
    longer = np.zeros((len(total) + 2, shape[1]), dtype)
    add_scaled(longer[1:-1], 0.3, part)
    np.testing.assert_array_equal(longer[1:-1], total.dtype.type(0.3) * part)
    assert not longer[[0, -1]].any()


def test_arrays_of_kernels_begin_at_cache_lines_and_use_memory_again() -> None:
    arrays.forget()
    assert arrays.empty((0, 3), np.float32).shape == (0, 3)
    for shape in [(1, 3), (7,), (1 << 15, 32)]:
        assert arrays.empty(shape, np.float32).shape == shape
        assert arrays.empty(shape, np.float32).ctypes.data % 64 == 0
    matrix = arrays.zeros((1 << 15, 32), np.float32)
    rows, place = matrix[1:].reshape(-1)[8:], matrix.ctypes.data
    del matrix
    another = arrays.empty((1 << 15, 32), np.float32)
    another.fill(1)
    assert not rows.any()  # what is looked at is in use
    del rows
    assert place == arrays.empty((1 << 15, 32), np.float32).ctypes.data


def test_many_arrays_leave_little_behind() -> None:
    many = [arrays.empty((1 << 15, 32), np.float32) for _ in range(arrays.KEPT + 3)]
    assert len({a.ctypes.data for a in many}) == len(many)
    del many
    assert len(arrays._spare) == arrays.KEPT
    arrays.forget()
    assert not arrays._spare
