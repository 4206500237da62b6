"""Dask clusters by name: none, workers of this machine, its GPUs, or a scheduler elsewhere.

A worker of ours declares a Dask resource for every modality it owns. Steps are pinned by resource and
not by name or address, because only a resource is still there when a nanny has restarted its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.deploy.cluster import Cluster

MOST_WORKERS = 8  # of a local cluster that is not told how many
CONNECT_SECONDS = 3
_HOST = "127.0.0.1"
_PROTOCOLS = ("tcp://", "tls://")


@contextlib.contextmanager
def open_scheduler(
    scheduler: str,
    modalities: Sequence[str],
    *,
    workers: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Client | None]:
    """A Dask client for as long as it is needed; a cluster started here ends with it.

    Parameters
    ----------
    scheduler
        ``none``: no cluster, the client is None. ``local``: worker processes on this machine, bound
        to 127.0.0.1. ``cuda``: one worker per GPU of this machine. ``tcp://HOST:PORT`` or
        ``tls://HOST:PORT``: a scheduler that is already there.
    modalities
        The modalities that workers own, one each; with fewer workers some own several, with more the
        others hold shards only.
    workers
        How many workers ``local`` starts; by default one per modality and at most ``MOST_WORKERS``.
    tell
        Called with a line about the cluster that was opened, the dashboard's address among it.

    Raises
    ------
    InputError
        When the name is unknown, the scheduler cannot be reached within ``CONNECT_SECONDS`` or has
        no workers, or ``cuda`` is asked for where it cannot be had.
    """
    check_scheduler(scheduler, workers)
    if scheduler == "none":
        yield None
        return
    from dask import config
    from distributed import Client

    # After a worker's death others try to reach it for this long before they go on: by default 30 s.
    with contextlib.ExitStack() as stack:
        stack.enter_context(config.set({"distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}))
        if scheduler in ("local", "cuda"):
            start = _local_cluster if scheduler == "local" else _cuda_cluster
            cluster = stack.enter_context(start(modalities, workers))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        else:
            client = stack.enter_context(_attach(scheduler))
        if tell is not None:
            count = len(client.scheduler_info(n_workers=-1)["workers"])
            tell(f"{count} Dask worker{'s' * (count != 1)}, dashboard at {client.dashboard_link}")
        yield client


def check_scheduler(scheduler: str, workers: int | None = None) -> None:
    """Refuse a scheduler that is none, without trying to reach it."""
    if scheduler not in ("none", "local", "cuda") and not scheduler.startswith(_PROTOCOLS):
        raise InputError(
            f"unknown scheduler '{scheduler}' (expected none, local, cuda, tcp://HOST:PORT or tls://HOST:PORT)",
            key="--scheduler",
        )
    if workers is not None and scheduler != "local":
        raise InputError(f"goes with --scheduler local only, not with '{scheduler}'", key="--workers")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers are too few (expected 1 or more)", key="--workers")


def ownership(modalities: Sequence[str], workers: int) -> list[dict[str, float]]:
    """The resources that each worker declares: its modalities, or a name of its own.

    >>> ownership(["user", "movie", "tag"], 2)
    [{'user': 1.0, 'tag': 1.0}, {'movie': 1.0}]
    >>> ownership(["user"], 2)
    [{'user': 1.0}, {'worker 1': 1.0}]
    """
    return [dict.fromkeys(modalities[w::workers], 1.0) or {f"worker {w}": 1.0} for w in range(workers)]


def _local_cluster(modalities: Sequence[str], workers: int | None) -> Cluster:
    """Worker processes on this machine that share its cores and memory evenly."""
    from dask import config
    from dask.system import CPU_COUNT
    from distributed import Nanny, Scheduler, SpecCluster
    from distributed.system import MEMORY_LIMIT

    count = workers or max(1, min(len(modalities), MOST_WORKERS))
    threads = max(1, CPU_COUNT // count)
    # A worker's libraries read these when they are imported, so they must be there before it starts.
    # (Numba's is set by every step: its variable must not change in the process that starts workers.)
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = config.get("distributed.nanny.pre-spawn-environ") | dict.fromkeys(pools, threads)
    with config.set({"distributed.nanny.pre-spawn-environ": environment}):
        # LocalCluster would give every worker the same resources.
        return SpecCluster(
            scheduler={
                "cls": Scheduler,
                "options": {"protocol": "tcp://", "host": _HOST, "dashboard_address": f"{_HOST}:0"},
            },
            workers={
                number: {
                    "cls": Nanny,
                    "options": {
                        "host": _HOST,
                        "nthreads": threads,
                        "memory_limit": MEMORY_LIMIT // count,
                        "resources": resources,
                        "silence_logs": logging.ERROR,
                    },
                }
                for number, resources in enumerate(ownership(modalities, count))
            },
            silence_logs=logging.ERROR,
        )


def _cuda_cluster(modalities: Sequence[str], workers: int | None) -> Cluster:
    """One worker per visible GPU, each declaring its modalities."""
    del workers  # as many as there are GPUs
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
        host=_HOST, dashboard_address=f"{_HOST}:0", silence_logs=logging.ERROR, n_workers=gpus
    )


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


def _attach(address: str) -> Client:
    """A client of a scheduler elsewhere, which must have workers."""
    from distributed import Client

    # A client that fails to connect makes noise when it is collected: see first who is there.
    try:
        asyncio.run(asyncio.wait_for(_greet(address), CONNECT_SECONDS + 1))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            f"no Dask scheduler can be reached there ({_reason(address, error)})", key=address
        ) from error
    client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise InputError("the scheduler has no workers; start one with: dask worker ADDRESS", key=address)
    return client


async def _greet(address: str) -> None:
    from distributed.comm import connect
    from distributed.core import rpc
    from distributed.security import Security

    certificates = Security().get_connection_args("client")
    comm = await connect(address, timeout=CONNECT_SECONDS, **certificates)
    await comm.close()
    async with rpc(address, connection_args=certificates) as other:
        if (await other.identity())["type"] != "Scheduler":
            raise ValueError("a Dask worker answers and no scheduler; give the scheduler's address")


def _reason(address: str, error: Exception) -> str:
    """The system's own words, if it refuses a plain connection too; else those of the error."""
    from distributed.comm import get_address_host_port

    try:
        socket.create_connection(get_address_host_port(address), timeout=1).close()
    except OSError as refused:
        return refused.strerror or str(refused)
    except ValueError:
        pass
    return str(error) or f"nothing that speaks its language answers within {CONNECT_SECONDS} s"
