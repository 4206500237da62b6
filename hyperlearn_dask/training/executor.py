"""Where the steps of a sweep run: one interface, two short implementations.

A step is a pure function of the mathematics. It runs *at* a place, a modality (where the Laplacian
is) or a shard (where the entries are), and its result stays where it was made until another step or
:meth:`Executor.gather` asks for it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hyperlearn_dask.backend import Array
from hyperlearn_dask.factorization.shards import ContextShard, EntryShard, Shard, contexts_of
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Handle = Any  # a value in process, a future on a cluster


@dataclass(frozen=True)
class ShardPlace:
    """Entries ``start`` to ``stop`` of a relation, or the contexts in them: some rows of its sort mode."""

    relation: str
    number: int
    start: int
    stop: int
    first_row: int
    rows: int
    target_mode: int = -1  # of a shard of contexts

    @property
    def holds_contexts(self) -> bool:
        return self.target_mode >= 0

    @property
    def name(self) -> str:
        return f"{self.relation}-{'contexts-' if self.holds_contexts else ''}{self.number}"

    def contexts(self, target_mode: int) -> ShardPlace:
        """The place of the same rows' contexts."""
        return replace(self, target_mode=target_mode)

    def cut(self, tensor: SparseTensor, offset: float, dtype: str) -> Shard:
        """The shard out of the relation's entries from ``start`` to ``stop``."""
        mode = tensor.sort_mode
        coords = list(tensor.coords)
        shape = list(tensor.shape)
        coords[mode] = coords[mode] - coords[mode].dtype.type(self.first_row)
        shape[mode] = self.rows
        values = (tensor.values - offset).astype(dtype)
        own = SparseTensor(tuple(coords), values, tuple(shape), sorted_by=mode)
        if not self.holds_contexts:
            return EntryShard(self.relation, own, self.first_row)
        # Contexts without the sort mode's rows count theirs from 0.
        first_row = 0 if self.target_mode == mode else self.first_row
        return ContextShard(self.relation, contexts_of(own, self.target_mode), first_row)


@dataclass(frozen=True)
class Setting:
    """What every place must know to have its data ready."""

    dtype: str
    offsets: Mapping[str, float]  # per relation, subtracted from its values
    target_modes: Mapping[str, int]  # per relation with contexts, the mode they leave out


class Executor(Protocol):
    """Runs steps and remembers how long they took."""

    places: list[ShardPlace]
    seconds: dict[str, float]  # by step name, since they were last cleared

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        """``step(laplacian or None, *args)``, where the modality is."""
        ...

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        """``step(shard, *args)``, where the shard is."""
        ...

    def gather(self, handles: Any) -> Any:
        """The values of handles, in whatever lists and dicts they stand."""
        ...

    def renew(self, handles: dict[str, Handle]) -> dict[str, Handle]:
        """The same values, per modality, with their past forgotten."""
        ...

    def close(self) -> None:
        """Free what the places keep."""
        ...


def held(executor: Executor, values: Mapping[str, Any]) -> dict[str, Handle]:
    """Handles of values, each where its modality is."""
    return {m: executor.at_modality(f"factor-{m}", m, _hold, value) for m, value in values.items()}


class LocalExecutor:
    """Everything in this process, at once; the kernels use all threads."""

    def __init__(self, hypergraph: Hypergraph, setting: Setting) -> None:
        whole = [
            ShardPlace(name, 0, 0, relation.nnz, 0, max(relation.shape))
            for name, relation in hypergraph.relations.items()
        ]
        targets = setting.target_modes
        contexts = [p.contexts(targets[p.relation]) for p in whole if p.relation in targets]
        self.places = whole + contexts
        self.seconds: dict[str, float] = defaultdict(float)
        self._laplacians = {m: laplacian_as(g.laplacian, setting.dtype) for m, g in hypergraph.graphs.items()}
        self._shards = {
            place: place.cut(
                hypergraph.relations[place.relation].tensor, setting.offsets[place.relation], setting.dtype
            )
            for place in self.places
        }

    def at_modality(self, name: str, modality: str, step: Callable[..., Any], *args: Any) -> Handle:
        return self._timed(name, step, self._laplacians.get(modality), *args)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        return self._timed(name, step, self._shards[place], *args)

    def gather(self, handles: Any) -> Any:
        return handles

    def renew(self, handles: dict[str, Handle]) -> dict[str, Handle]:
        return handles

    def close(self) -> None:
        self._shards.clear()

    def _timed(self, name: str, step: Callable[..., Any], *args: Any) -> Any:
        began = time.perf_counter()
        result = step(*args)
        self.seconds[name] += time.perf_counter() - began
        return result


def _hold(_: Array | None, value: Any) -> Any:
    return value


def laplacian_as(laplacian: Array, dtype: str) -> Array:
    """A Laplacian in the dtype of the factors, without a copy where it has it already."""
    return laplacian.astype(dtype, copy=False)
