import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.placement import cut, cut_rows, place


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_shards_are_whole_rows_in_order_and_cover_every_entry(counts, pieces):
    indptr = np.concatenate([[0], np.cumsum(counts)])
    shards = cut_rows("r", indptr, pieces)
    assert 1 <= len(shards) <= pieces
    assert [s.number for s in shards] == list(range(len(shards)))
    at = 0
    for shard in shards:
        assert shard.start == at
        assert shard.stop > at or indptr[-1] == 0
        assert indptr[shard.first_row] <= shard.start
        assert indptr[shard.first_row + shard.rows] == shard.stop
        at = shard.stop
    assert at == indptr[-1]


def test_shards_are_balanced():
    indptr = np.arange(0, 10_001, 10)
    sizes = [s.stop - s.start for s in cut_rows("r", indptr, 4)]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 10


def test_a_modality_goes_to_the_worker_that_declares_it():
    shards = cut({"r": np.arange(7)}, {"r": 0}, 2, {})
    placement = place({"a": 5, "b": 6}, shards, {"tcp://1": {"b": 1.0}, "tcp://2": {"a": 1.0}})
    assert placement.owners == {"a": "tcp://2", "b": "tcp://1"}
    assert set(placement.holders.values()) == {"tcp://1", "tcp://2"}


def test_without_declarations_long_modalities_are_spread():
    placement = place({"a": 100, "b": 90, "c": 5, "d": 5}, [], {"tcp://1": {}, "tcp://2": {}})
    assert placement.owners["a"] != placement.owners["b"]


def test_fewer_workers_than_shards_share_them():
    shards = cut({"r": np.arange(101)}, {"r": 1}, 4, {"r": 0})
    assert len(shards) == 8 and all(shard.sort_mode == 1 for shard in shards)
    placement = place({"a": 1}, shards, {"tcp://1": {}, "tcp://2": {}})
    assert sorted(placement.holders.values()) == ["tcp://1"] * 4 + ["tcp://2"] * 4


def test_contexts_without_the_longest_mode_are_in_one_shard():
    shards = cut({"r": np.arange(101)}, {"r": 1}, 4, {"r": 1})
    assert [shard.rows for shard in shards if shard.holds_contexts] == [100]


def test_a_cluster_without_workers_is_refused():
    with pytest.raises(InputError, match="no workers"):
        place({"a": 1}, [], {})
