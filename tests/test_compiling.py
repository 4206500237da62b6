"""Processes that save what Numba has compiled do not get in each other's way."""

from concurrent.futures import ThreadPoolExecutor

from numba.core.caching import IndexDataCacheFile

from hyperlearn_dask.compiling import save_in_turn


def test_what_many_save_at_once_is_all_there_and_not_mistaken(tmp_path):
    save_in_turn()
    caches = [IndexDataCacheFile(str(tmp_path), "kernel", ("source",)) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: caches[n].save(f"signature {n}", f"code {n}"), range(40)))
    found = [caches[0].load(f"signature {n}") for n in range(40)]
    assert found == [f"code {n}" for n in range(40)]


def test_it_is_done_once():
    save_in_turn()
    once = IndexDataCacheFile.save
    save_in_turn()
    assert IndexDataCacheFile.save is once
    assert not hasattr(once.__wrapped__, "__wrapped__")
