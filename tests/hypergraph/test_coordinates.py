import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order
from hyperlearn_dask.hypergraph.tensor import SparseTensor

SHAPES = [(3, 2), (2, 4, 2), (3, 3), (2, 2**40, 2**40)]  # the last has more cells than 64 bits number


@st.composite
def entries(draw):
    shape = draw(st.sampled_from(SHAPES))
    index = [st.integers(0, min(size, 4) - 1) for size in shape]
    return shape, draw(st.lists(st.tuples(st.tuples(*index), st.integers(-5, 5)), min_size=1, max_size=30))


def by_loops(shape, given_entries, rule):
    found = {}
    for index, value in given_entries:
        found[index] = found.get(index, 0) + value if rule == "sum" else value
    longest = shape.index(max(shape))
    return sorted(
        found.items(), key=lambda e: (e[0][longest], [i for m, i in enumerate(e[0]) if m != longest])
    )


@settings(deadline=None)  # the first compiles
@given(entries(), st.sampled_from(["sum", "last", "error"]))
def test_the_same_as_loops(entries, rule):
    shape, listed = entries
    coords = tuple(np.array(column) for column in zip(*(index for index, _ in listed)))
    result = in_order(coords, np.array([float(v) for _, v in listed]), shape, rule)
    indices = [index for index, _ in listed]
    if rule == "error" and len(set(indices)) < len(indices):
        second = next(n for n, index in enumerate(indices) if index in indices[:n])
        assert result == Repeat(indices.index(indices[second]), second)
        return
    tensor, merged = result
    expected = by_loops(shape, listed, rule)
    assert list(zip(*(c.tolist() for c in tensor.coords))) == [index for index, _ in expected]
    assert tensor.values.tolist() == [value for _, value in expected]
    assert merged == len(listed) - len(expected)


def test_rows_begin_where_they_begin():
    tensor, _ = in_order((np.array([4, 1, 1]), np.array([0, 1, 0])), np.ones(3), (5, 2))
    assert tensor.row_starts.tolist() == [0, 0, 2, 2, 2, 3]


@pytest.mark.parametrize(("size", "dtype"), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_coordinates_are_as_wide_as_they_need(size, dtype):
    tensor, _ = in_order((np.array([0]), np.array([size - 1])), np.ones(1), (2, size))
    assert tensor.coords[1].dtype == dtype
    assert tensor.coords[1][0] == size - 1


@pytest.mark.parametrize("rows", [0, 1, 7, 1000])
@pytest.mark.parametrize("entries", [0, 1, 300])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_rows_start_where_a_search_finds_them(rows, entries, dtype):
    index = np.sort(np.random.default_rng(rows).integers(0, max(rows, 1), entries if rows else 0))
    tensor = SparseTensor((index.astype(dtype),), np.ones(len(index)), (rows,))
    np.testing.assert_array_equal(tensor.row_starts, np.searchsorted(index, np.arange(rows + 1)))
