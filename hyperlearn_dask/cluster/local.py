"""Clusters on this machine: worker processes on its cores, or one on each of its GPUs."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed.deploy.cluster import Cluster
    from distributed.security import Security

# Every sweep allocates what the one before has freed. Dask has workers give that back at once, and to
# get it again costs a page fault for every 4 KiB; larger arrays than 32 MiB are given back in any case.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": 1 << 30, "MALLOC_MMAP_THRESHOLD_": 1 << 25, "MALLOC_ARENA_MAX": 1}
STARTER = "HYPERLEARN_TEMPLATE_OF"  # in the environment: a process's id and temporary folder, see template.py
THREAD_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What workers have imported when they are forked from the process that has.
FORKED_WITH = [
    "hyperlearn_dask.cluster.template",
    "distributed",
    "distributed.http.worker",
    "hyperlearn_dask.cluster.worker",
    "hyperlearn_dask.training.workers.on_worker",
    "sparse",  # Numba imports it with its first kernel
]
MOST_WORKERS = 8  # of a local cluster that is not told how many


@dataclass(frozen=True)
class Listening:
    """Where a cluster listens: loopback, unless somebody wants it otherwise; port 0 is any that is free."""

    host: str = "127.0.0.1"
    port: int = 0
    dashboard_port: int = 0


def local_cluster(
    kind: str,
    modalities: Sequence[str],
    *,
    workers: int | None = None,
    threads: int | None = None,
    security: Security | None = None,
    listening: Listening | None = None,
) -> Cluster:
    """Start a cluster on this machine; it ends when it is closed, or left as a context.

    Parameters
    ----------
    kind
        ``local``: worker processes that share the cores and memory evenly. ``cuda``: one per GPU.
    modalities
        Those that the workers own, see :func:`ownership`.
    workers
        How many, of ``local`` only; by default one per modality, at most ``MOST_WORKERS``, or as many
        as there are cores if no modalities are named.
    threads
        Of each worker, of ``local`` only; by default the cores are shared out.
    security
        Certificates: then every connection is encrypted.

    Raises
    ------
    InputError
        When GPUs or the packages for them are not there.
    """
    listening = listening or Listening()
    if kind == "cuda":  # as many workers as there are GPUs
        return _cuda_cluster(modalities, security, listening)
    return _cpu_cluster(modalities, workers, threads, security, listening)


def ownership(modalities: Sequence[str], workers: int) -> list[dict[str, float]]:
    """The resources that each worker declares: its modalities, or a name of its own.

    >>> ownership(["user", "movie", "tag"], 2)
    [{'user': 1.0, 'tag': 1.0}, {'movie': 1.0}]
    >>> ownership(["user"], 2)
    [{'user': 1.0}, {'worker 1': 1.0}]
    """
    return [dict.fromkeys(modalities[w::workers], 1.0) or {f"worker {w}": 1.0} for w in range(workers)]


def _cpu_cluster(
    modalities: Sequence[str],
    workers: int | None,
    threads: int | None,
    security: Security | None,
    listening: Listening,
) -> Cluster:
    from dask import config
    from dask.system import CPU_COUNT
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    count = workers or max(1, min(len(modalities) or CPU_COUNT, MOST_WORKERS))
    threads = threads or max(1, CPU_COUNT // count)
    # Libraries read these when they are imported, so they must be there before the first worker starts; the
    # workers of a later cluster limit their threads themselves. (Numba's are set by every step: its variable
    # must not change in the process that starts workers.)
    environment = config.get("distributed.nanny.pre-spawn-environ") | dict.fromkeys(THREAD_POOLS, threads)
    # Threads of OpenMP that spin while they wait would take the cores of the other workers.
    environment["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    environment |= MALLOC
    shared = {
        "protocol": "tcp://" if security is None else "tls://",
        "security": security,
        "host": listening.host,
    }
    _fork_workers()
    with config.set({"distributed.nanny.pre-spawn-environ": environment}):
        # LocalCluster would give every worker the same resources.
        return SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {
                    **shared,
                    "port": listening.port,
                    "dashboard_address": f"{listening.host}:{listening.dashboard_port}",
                },
            },
            workers={
                number: {
                    "cls": Nanny,
                    "options": {
                        **shared,
                        "nthreads": threads,
                        "memory_limit": MEMORY_LIMIT // count,
                        "resources": resources,
                        "silence_logs": logging.ERROR,
                        "preload": ["hyperlearn_dask.cluster.worker"],
                    },
                }
                for number, resources in enumerate(ownership(modalities, count))
            },
            security=security,
            silence_logs=logging.ERROR,
        )


def _fork_workers() -> None:
    """Have Dask start workers as copies of one process that has imported what they need, where that is safe.

    A worker, one that replaces a lost one as well, is then there in a tenth of a second instead of two
    and shares that memory with the others. The process starts with the first worker and ends with this
    one: the workers of all clusters have the environment of then. Dask asks for the method whenever it starts
    a worker, so the setting stays; one that somebody has chosen is respected.
    """
    from multiprocessing.util import get_temp_dir

    from dask import config
    from distributed.utils import get_mp_context

    method = "distributed.worker.multiprocessing-method"
    if sys.platform == "linux" and config.get(method) in ("spawn", "forkserver"):
        os.environ[STARTER] = f"{os.getpid()} {get_temp_dir()}"
        config.set({method: "forkserver"})
        get_mp_context().set_forkserver_preload(FORKED_WITH)  # in place of Dask's own list


def _cuda_cluster(modalities: Sequence[str], security: Security | None, listening: Listening) -> Cluster:
    """One worker per visible GPU, each declaring its modalities."""
    gpus = _count_gpus()
    for module, package in (("dask_cuda", "dask-cuda"), ("cupy", "CuPy")):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"{package} is not installed (pip install 'hyperlearn-dask[gpu]')", key="--scheduler cuda"
            )
    from dask_cuda import LocalCUDACluster

    declared = ownership(modalities, gpus)

    class OwnersCluster(LocalCUDACluster):
        """Its workers differ in what they declare; the base class gives all the same."""

        def new_worker_spec(self) -> dict[str, dict[str, Any]]:
            number = len(self.worker_spec)
            spec: dict[str, dict[str, Any]] = super().new_worker_spec()
            for worker in spec.values():
                worker["options"]["resources"] = declared[number]
            return spec

    return OwnersCluster(
        host=listening.host,
        scheduler_port=listening.port,
        dashboard_address=f"{listening.host}:{listening.dashboard_port}",
        protocol=_protocol(security),
        security=security,
        silence_logs=logging.ERROR,
        n_workers=gpus,
        **_memory_pool(),
        preload=["hyperlearn_dask.cluster.worker"],
    )


def _protocol(security: Security | None) -> str:
    """UCX, which carries arrays from GPU to GPU, where it is there; it does not encrypt."""
    if security is not None:
        return "tls"
    return "ucx" if importlib.util.find_spec("distributed_ucxx") else "tcp"


def _memory_pool() -> dict[str, Any]:
    """Options for a pool of RMM's on each GPU, CuPy's arrays in it too; without RMM CuPy has its own."""
    if importlib.util.find_spec("rmm") is None:
        return {}
    return {"rmm_async": True, "rmm_allocator_external_lib_list": ["cupy"]}


def _count_gpus() -> int:
    """How many GPUs the driver shows us; asking it makes no context on any."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise InputError(
            "no NVIDIA driver was found (libcuda.so.1 cannot be loaded)", key="--scheduler cuda"
        ) from None
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value < 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = "" if visible is None else f"; CUDA_VISIBLE_DEVICES is '{visible}'"
        raise InputError(
            f"the NVIDIA driver shows no GPU (its status is {status}{shown})", key="--scheduler cuda"
        )
    return count.value
