"""Loops in runs do every number once; what many processes compile and save is neither lost nor mistaken."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.compiling.saving import save_in_turn


@in_runs()
def count(begin, end, times, of, nothing):
    for k in range(begin, end):
        times[k] += of[0][k] if nothing is None else 0


def times(number):
    @in_runs()
    def run(begin, end, array):
        for k in range(begin, end):
            array[k] *= number

    return run


@in_runs(fastmath={"contract"})
def invert(begin, end, array, room):
    for k in range(begin, end):
        own = np.zeros(room, dtype=array.dtype)
        own[-1] = 1 / array[k]
        array[k] = own.sum()


@pytest.fixture(params=range(1, numba.config.NUMBA_NUM_THREADS + 1))
def threads(request):
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@in_runs()
def mark(begin, end, runs):
    for k in range(begin, end):
        runs[k, 0] = begin
        runs[k, 1] = end


@in_runs()
def hold(begin, end, array, room):
    for k in range(begin, end):
        array[k] = np.zeros(room)[0]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 1000])
def test_every_number_is_done_once(size, threads):
    done, ones = np.zeros(size + 1), np.ones(size + 1)
    count(size, done, (ones, ones), None)
    assert done.tolist() == [1.0] * size + [0.0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_threads_have_even_runs(size, threads):
    runs = np.zeros((size, 2), dtype=np.int64)
    mark(size, runs)
    lengths = [end - begin for begin, end in {tuple(run) for run in runs.tolist()}]
    assert sum(lengths) == size
    assert len(lengths) == min(size, threads)
    assert max(lengths) - min(lengths) <= 1


def test_runs_may_hold_memory_and_divide_by_0():
    array = np.array([0.0, -2.0, 4.0] * 100)
    invert(len(array), array, 3)
    assert array.tolist() == [np.inf, -0.5, 0.25] * 100


def test_a_run_without_memory_is_an_error():
    with pytest.raises(MemoryError, match="there is no memory for hold"):
        hold(3, np.zeros(3), 1 << 58)


def test_several_may_run_loops_at_once():
    arrays = [np.full(1000, float(n)) for n in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda array: [times(2)(len(array), array) for _ in range(10)], arrays))
    assert [set(array) for array in arrays] == [{n * 1024.0} for n in range(8)]


AGAIN = """
import numpy as np
from numba.core import event
from tests.test_compiling import count, times

array = np.ones(5)
with event.install_recorder("numba:compile") as compiled:
    times(2)(5, array)
    times(3)(5, array)
    count(5, array, (array.copy(),), None)
print(*set(array.tolist()), len(compiled.buffer) > 0)
"""


def test_another_process_finds_what_is_compiled_and_mistakes_nothing(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for compiles in (True, False):
        said = subprocess.check_output([sys.executable, "-c", AGAIN], env=environment, text=True)
        assert said.split() == ["12.0", str(compiles)]


def test_the_simplest_of_numbas_threads_will_do(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_THREADING_LAYER": "workqueue"}
    names = ("every_number", "threads_have", "several_may", "a_run_without")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_compiling.py"]
    subprocess.run([*command, "-k", " or ".join(names)], env=environment, check=True)


def test_what_many_save_at_once_is_all_there_and_not_mistaken(tmp_path):
    caches = [IndexDataCacheFile(str(tmp_path), "kernel", ("source",)) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: caches[n].save(f"signature {n}", f"code {n}"), range(40)))
    found = [caches[0].load(f"signature {n}") for n in range(40)]
    assert found == [f"code {n}" for n in range(40)]


def test_a_library_that_locks_its_cache_as_well_is_not_waited_for(tmp_path):
    saves = f"""
import fcntl
from numba.core.caching import IndexDataCacheFile
import hyperlearn_dask.compiling.in_runs

class Locked(IndexDataCacheFile):
    def save(self, *what):
        with open(self._index_path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().save(*what)

cache = Locked({str(tmp_path)!r}, "kernel", ("source",))
cache.save("signature", "code")
print(cache.load("signature"))
"""
    said = subprocess.check_output([sys.executable, "-c", saves], text=True, timeout=60)
    assert said.split() == ["code"]


def test_it_is_done_once():
    once = IndexDataCacheFile.save
    save_in_turn()
    assert IndexDataCacheFile.save is once
    assert not hasattr(once.__wrapped__, "__wrapped__")
