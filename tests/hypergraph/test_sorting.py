import numba
import numpy as np
import pytest

from hyperlearn_dask.hypergraph.sorting import stable_order, sum_groups, take

# The last two do not fit a key of 63 bits: in two keys, and each coordinate in its own.
SIZES = [(1,), (5,), (70_000,), (3, 4, 2), (480_000, 17_770, 2_182), (2**40, 3, 2**40, 7), (2**62, 2**62)]


def coordinates(rng, sizes, count, distinct):
    """Random coordinates with repetitions, their least and greatest values among them."""
    columns = []
    for size in sizes:
        values = np.append(rng.integers(0, size, distinct), [0, size - 1])
        columns.append(rng.choice(values, count).astype(np.int32 if size < 2**31 else np.int64))
    return tuple(columns)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("count", [0, 1, 2, 5000])
@pytest.mark.parametrize("distinct", [2, 3000])
def test_the_order_is_that_of_lexsort(sizes, count, distinct):
    coords = coordinates(np.random.default_rng(count), sizes, count, distinct)
    order, new = stable_order(coords, sizes)
    np.testing.assert_array_equal(order, np.lexsort(coords[::-1]))
    rows = list(zip(*(c[order].tolist() for c in coords)))
    assert new.tolist() == [k == 0 or rows[k] != rows[k - 1] for k in range(count)]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_nothing(threads):
    coords = coordinates(np.random.default_rng(0), (50, 60), 4000, 20)
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        order, _ = stable_order(coords, (50, 60))
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(order, np.lexsort(coords[::-1]))


def test_take_is_indexing_and_casts():
    source, entries = np.arange(10) ** 2, np.array([3, 0, 9], dtype=np.int32)
    taken = take(source, entries, np.int32)
    assert taken.dtype == np.int32
    assert taken.tolist() == [9, 0, 81]


def test_groups_are_added_in_their_order():
    values = np.array([1.0, 1e17, 5.0, -1e17])
    assert sum_groups(values, np.array([0, 1, 3, 2]), np.array([0, 3])).tolist() == [0.0, 5.0]
    assert sum_groups(values, np.array([1, 3, 0, 2]), np.array([0, 3])).tolist() == [1.0, 5.0]
