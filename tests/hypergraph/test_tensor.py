import numpy as np
import pytest

from hyperlearn_dask.hypergraph.tensor import RowIndex, SparseTensor

# Rows without entries at both ends and in between.
INDEX = np.array([1, 1, 1, 4, 6, 6], dtype=np.int32)
STARTS = np.array([0, 0, 3, 3, 3, 4, 4, 6, 6])


def tensor_of(index) -> SparseTensor:
    other = np.array([0, 1, 2, 0, 1, 2], dtype=np.int32)[6 - len(index) :]
    return SparseTensor((other, index), np.arange(6.0)[6 - len(index) :], (3, 8))


def test_a_row_index_is_the_coordinates():
    index = RowIndex(STARTS, 0, 6)
    assert len(index) == 6
    made = np.asarray(index)
    assert made.dtype == index.dtype == np.int32
    np.testing.assert_array_equal(made, INDEX)
    np.testing.assert_array_equal(np.bincount(index, minlength=8), np.diff(STARTS))


@pytest.mark.parametrize(
    "entries",
    [
        slice(None),
        slice(2, 5),
        slice(4, 4),
        np.array([5, 0, 3, 3]),
        np.array([], dtype=np.int64),
        INDEX == 6,
    ],
)
def test_some_coordinates_of_a_row_index(entries):
    some = RowIndex(STARTS, 0, 6)[entries]
    assert some.dtype == np.int32
    np.testing.assert_array_equal(some, INDEX[entries])
    # as the last of more entries, and of rows that do not begin at 0
    np.testing.assert_array_equal(RowIndex(STARTS + 4, 4, 10)[entries], some)
    np.testing.assert_array_equal(RowIndex(STARTS, 0, 6, 100)[entries], some + 100)


@pytest.mark.parametrize(
    ("index", "last"),
    [
        (INDEX, INDEX[3:]),
        (RowIndex(STARTS, 0, 6), RowIndex(STARTS, 3, 6)),
    ],
)
def test_entries_with_rows_counted_from_the_first(index, last):
    np.testing.assert_array_equal(tensor_of(index).row_starts, STARTS)
    part = tensor_of(last)
    np.testing.assert_array_equal(part.row_starts, [0, 0, 0, 0, 0, 1, 1, 3, 3])
    own = part.of_rows(4, 8)
    assert own.shape == (3, 4) and own.sort_mode == 1
    np.testing.assert_array_equal(own.by_entry().coords[1], [0, 2, 2])
    np.testing.assert_array_equal(own.row_starts, [0, 1, 1, 3, 3])


def test_entries_of_which_only_their_own_rows_are_known():
    part = tensor_of(RowIndex(STARTS[4:], 3, 6, 4))
    np.testing.assert_array_equal(part.by_entry().coords[1], INDEX[3:])
    own = part.of_rows(4, 8)
    np.testing.assert_array_equal(own.by_entry().coords[1], [0, 2, 2])
    np.testing.assert_array_equal(own.row_starts, [0, 1, 1, 3, 3])


def test_a_part_holds_where_its_own_rows_begin():
    own = RowIndex(np.arange(1_000_001), 500, 502).of_rows(500, 502)
    assert own.whole.base is None or own.whole.base.size == 3
    np.testing.assert_array_equal(own, [0, 1])


def test_a_row_index_of_nothing():
    index = RowIndex(np.zeros(4, dtype=np.int64), 0, 0)
    assert len(index) == 0 and np.asarray(index).shape == (0,)
