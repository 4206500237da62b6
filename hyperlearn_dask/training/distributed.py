"""Steps on Dask workers: each owns modalities (factor, Laplacian, block solve) and holds shards.

1. Workers read their shards and Laplacians straight from the store, once, when a step first asks.
2. A step is one task, named as the paper would (``mttkrp-made-0``, ``solve-artist``), pinned to the
   worker that has its data. Only factor rows, partial products, Grams and scalars travel.
3. Every few sweeps the factors are brought in and sent out anew, which cuts off the past that the
   scheduler must remember to recompute a lost result.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from distributed import Client, get_worker

from hyperlearn_dask.backend import Array
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.shards import Shard
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import read_graph, read_indptr, read_relation, unit_digests
from hyperlearn_dask.training.executor import Handle, Setting, ShardPlace, held, laplacian_as
from hyperlearn_dask.training.placement import Pin, place


class DaskExecutor:
    """Steps as pinned tasks on the workers of a client. See :class:`..executor.Executor`."""

    def __init__(self, client: Client, hypergraph: Hypergraph, setting: Setting) -> None:
        if hypergraph.path is None:
            raise InputError("a hypergraph in memory cannot train on a cluster; save it first")
        self._client = client
        self._path = str(hypergraph.path.resolve())
        self._setting = setting
        self._token = uuid.uuid4().hex[:8]
        self._count = itertools.count()
        self._digests = unit_digests(hypergraph.path)
        self._graphs = set(hypergraph.graphs)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        self.placement = place(
            {m: len(entities) for m, entities in hypergraph.modalities.items()},
            {name: read_indptr(hypergraph.path, name) for name in hypergraph.relations},
            {address: worker["resources"] for address, worker in workers.items()},
            {
                name: (mode, mode == int(np.argmax(hypergraph.relations[name].shape)))
                for name, mode in setting.target_modes.items()
            },
        )
        self.places = list(self.placement.holders)
        self.seconds: dict[str, float] = defaultdict(float)
        self._topic = f"hyperlearn-{self._token}"
        client.subscribe_topic(self._topic, self._on_event)

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        digest = self._digests[f"graphs/{modality}"] if modality in self._graphs else None
        data = (_laplacian, self._path, modality, digest, self._setting.dtype)
        return self._submit(name, self.placement.owners[modality], data, step, args)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        offset = self._setting.offsets[place.relation]
        digest = self._digests[f"relations/{place.relation}"]
        data = (_shard, self._path, place, digest, offset, self._setting.dtype)
        return self._submit(name, self.placement.holders[place], data, step, args)

    def gather(self, handles: Any) -> Any:
        return self._client.gather(handles)

    def renew(self, handles: dict[str, Handle]) -> dict[str, Handle]:
        return held(self, self.gather(handles))

    def close(self) -> None:
        """Free what the workers keep for this executor."""
        self._client.unsubscribe_topic(self._topic)
        self._client.run(_forget)

    def _submit(
        self, name: str, pin: Pin, data: tuple[Any, ...], step: Callable[..., Any], args: tuple[Any, ...]
    ) -> Handle:
        return self._client.submit(
            _run,
            self._topic,
            name,
            data,
            step,
            *args,
            key=(name, self._token, next(self._count)),
            pure=False,
            **pin.submit_options,
        )

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        _, record = event
        self.seconds[record["name"]] += record["seconds"]


# On the worker.

# One step at a time: a step uses all of the worker's cores, and Numba's thread pool has one user.
_busy = threading.Lock()


def _run(topic: str, name: str, data: tuple[Any, ...], step: Callable[..., Any], *args: Any) -> Any:
    load, *what = data
    kernels.limit_threads(get_worker().state.nthreads)
    with _busy:
        began = time.perf_counter()
        result = step(load(*what), *args)
        seconds = time.perf_counter() - began
    get_worker().log_event(topic, {"name": name, "seconds": seconds})
    return result


@lru_cache(maxsize=64)
def _shard(path: str, place: ShardPlace, digest: str, offset: float, dtype: str) -> Shard:
    """The shard as the store with this digest has it: a restarted worker reads it again."""
    return place.cut(read_relation(path, place.relation, place.start, place.stop), offset, dtype)


@lru_cache(maxsize=64)
def _laplacian(path: str, modality: str, digest: str | None, dtype: str) -> Array | None:
    return None if digest is None else laplacian_as(read_graph(path, modality).laplacian, dtype)


def _forget() -> None:
    _shard.cache_clear()
    _laplacian.cache_clear()
