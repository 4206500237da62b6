"""Schedulers by name: what is started, what is refused, and that it ends cleanly."""

from __future__ import annotations

import ctypes
import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperlearn_dask.cluster import CONNECT_SECONDS, check_scheduler, local, open_scheduler, ownership
from hyperlearn_dask.errors import InputError

MODALITIES = ["user", "movie", "tag"]

LOCAL = """
import os
import sys
from distributed import get_worker
from threadpoolctl import threadpool_info
from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.cluster.local import FORKED_WITH

if __name__ == "__main__":
    with open_scheduler("local", [], workers=1):
        pass  # its workers have more threads, and the environment of those below
    with open_scheduler("local", ["user", "movie", "tag"], workers=2, tell=print) as client:
        for address, worker in sorted(client.scheduler_info(n_workers=-1)["workers"].items()):
            print(address.rpartition(":")[0], sorted(worker["resources"]))
        pin = {"movie": 1}
        pool = client.submit(os.environ.get, "OMP_NUM_THREADS", resources=pin).result()
        print("pool", pool, "NUMBA_NUM_THREADS" in os.environ)
        threads = client.submit(lambda: get_worker().state.nthreads, resources=pin).result()
        pools = client.submit(threadpool_info, resources=pin).result()
        print("limited", all(pool["num_threads"] <= threads for pool in pools))
        missing = client.submit(lambda: set(FORKED_WITH) - set(sys.modules), resources=pin).result()
        parent = client.submit(os.getppid, resources=pin).result()
        print("forked", missing or parent != os.getpid())
        with open_scheduler(client.scheduler.address, []) as other:
            print("attached", other.submit(sum, (1, 2), resources=pin).result())
"""


@given(
    modalities=st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=6), workers=st.integers(1, 9)
)
def test_every_modality_has_one_owner_and_every_worker_a_resource(
    modalities: list[str], workers: int
) -> None:
    declared = ownership(modalities, workers)
    assert len(declared) == workers
    assert all(declared)
    owners = [name for resources in declared for name in resources if name in modalities]
    assert sorted(owners) == sorted(modalities)


def test_none_is_no_cluster() -> None:
    with open_scheduler("none", MODALITIES) as client:
        assert client is None


def test_a_local_cluster_is_private_declares_its_modalities_and_ends_in_silence() -> None:
    done = subprocess.run([sys.executable, "-W", "default", "-c", LOCAL], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert lines[0].startswith("2 Dask workers, dashboard at http://127.0.0.1:")
    assert sorted(lines[1:3]) == ["tcp://127.0.0.1 ['movie']", "tcp://127.0.0.1 ['tag', 'user']"]
    assert lines[3].startswith("pool ")
    assert int(lines[3].split()[1]) >= 1
    assert lines[3].split()[2] == "False"  # Numba here could compile nothing more, were it set
    assert lines[4:] == ["limited True", f"forked {sys.platform == 'linux'}", "attached 3"]


@pytest.mark.parametrize("scheduler", ["", "gpu", "localhost:8786", "http://localhost:8786"])
def test_an_unknown_scheduler_is_refused_with_the_known_ones(scheduler: str) -> None:
    with pytest.raises(InputError, match="none, local, cuda, tcp://HOST:PORT"):
        check_scheduler(scheduler)


@pytest.mark.parametrize(("scheduler", "workers"), [("local", 0), ("none", 2), ("tcp://h:1", 2)])
def test_a_number_of_workers_must_make_sense(scheduler: str, workers: int) -> None:
    with pytest.raises(InputError, match="--workers"):
        check_scheduler(scheduler, workers)


@contextmanager
def silent_port(*, listening: bool) -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "answers nothing"])
def test_an_unreachable_scheduler_is_given_up_in_seconds(listening: bool) -> None:
    began = time.monotonic()
    with (
        silent_port(listening=listening) as port,
        pytest.raises(InputError, match=f"tcp://127.0.0.1:{port}: no Dask scheduler can be reached there"),
        open_scheduler(f"tcp://127.0.0.1:{port}", MODALITIES),
    ):
        pass
    assert time.monotonic() - began < CONNECT_SECONDS + 4


def test_cuda_says_why_it_cannot_be_had() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(InputError, match="--scheduler cuda: no NVIDIA driver was found"):
            open_scheduler("cuda", MODALITIES).__enter__()
    else:
        pytest.skip("there is an NVIDIA driver")


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ((), {"protocol": "tcp"}),
        (
            ("rmm", "distributed_ucxx"),
            {"protocol": "ucx", "rmm_async": True, "rmm_allocator_external_lib_list": ["cupy"]},
        ),
    ],
)
def test_a_worker_per_gpu_declares_its_modalities(monkeypatch, packages, expected) -> None:
    """Against a stand-in that has what we use of LocalCUDACluster."""
    asked = {}

    class LocalCUDACluster:
        def __init__(self, **options: object) -> None:
            asked.update(options)
            self.worker_spec: dict[int, dict[str, object]] = {}
            while len(self.worker_spec) < options["n_workers"]:
                self.worker_spec.update(self.new_worker_spec())

        def new_worker_spec(self) -> dict[int, dict[str, object]]:
            return {len(self.worker_spec): {"options": {}}}

    there = {"dask_cuda", "cupy", *packages}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=LocalCUDACluster))
    monkeypatch.setattr(local, "_count_gpus", lambda: 2)
    cluster = local.local_cluster("cuda", MODALITIES)
    declared = [set(spec["options"]["resources"]) for spec in cluster.worker_spec.values()]
    assert declared == [{"user", "tag"}, {"movie"}]
    assert expected.items() <= asked.items()
    assert ("rmm_async" in asked) == ("rmm" in packages)
