"""Who does what on a cluster: an owner for every modality, a holder for every shard."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.executor import ShardPlace


@dataclass(frozen=True)
class Pin:
    """A worker, named so that tasks find it again.

    ``resource``: a Dask resource only it declares, which survives its restart; else its address,
    and then any other worker may take over when it is gone.
    """

    address: str
    resource: str | None = None

    @property
    def submit_options(self) -> dict[str, Any]:
        """What ``Client.submit`` needs to send a task there."""
        if self.resource is not None:
            return {"resources": {self.resource: 1}}
        return {"workers": [self.address], "allow_other_workers": True}


@dataclass(frozen=True)
class Placement:
    """The pin of every modality's owner and of every shard's holder."""

    owners: dict[str, Pin]
    holders: dict[ShardPlace, Pin]


def place(
    sizes: Mapping[str, int],
    indptrs: Mapping[str, np.ndarray],
    workers: Mapping[str, Mapping[str, float]],
    context_cuts: Mapping[str, tuple[int, bool]] | None = None,
) -> Placement:
    """Place modalities and shards on workers.

    A worker that declares a resource of a modality's name owns that modality. The modalities left
    over go, longest first, to the worker with the fewest entities so far. Every relation is cut into
    as many shards as there are workers, along its longest mode, with about as many entries in each.

    Parameters
    ----------
    sizes
        Entities per modality.
    indptrs
        Per relation, where each row of its longest mode starts (rows + 1).
    workers
        The declared resources of each worker, by its address.
    context_cuts
        Per relation with contexts their target mode and whether that is the sort mode: then contexts
        run across all rows, and one worker holds them all.
    """
    if not workers:
        raise InputError("the cluster has no workers; start at least one (dask worker ADDRESS)")
    addresses = sorted(workers)
    declared = [r for resources in workers.values() for r in resources]
    own = {a: [r for r in workers[a] if declared.count(r) == 1] for a in addresses}
    owner = {r: a for a in addresses for r in own[a]}
    load = {a: sum(sizes.get(r, 0) for r in own[a]) for a in addresses}
    owners = {}
    for modality in sorted(sizes, key=lambda m: -sizes[m]):
        if modality in owner:
            owners[modality] = Pin(owner[modality], modality)
        else:
            least = min(addresses, key=lambda a: load[a])
            load[least] += sizes[modality]
            owners[modality] = _pin(least, own[least])
    holders = {
        shard: _pin(addresses[shard.number], own[addresses[shard.number]])
        for relation, indptr in indptrs.items()
        for shard in cut_rows(relation, indptr, len(addresses))
    }
    for relation, (target_mode, across) in (context_cuts or {}).items():
        for shard in cut_rows(relation, indptrs[relation], 1 if across else len(addresses)):
            pin = _pin(addresses[shard.number], own[addresses[shard.number]])
            holders[shard.contexts(target_mode)] = pin
    return Placement({m: owners[m] for m in sizes}, holders)


def cut_rows(relation: str, indptr: np.ndarray, pieces: int) -> Sequence[ShardPlace]:
    """At most ``pieces`` runs of whole rows with about as many entries each.

    None is empty, but for the one of a relation without entries.
    """
    even = np.linspace(0, indptr[-1], pieces + 1 if indptr[-1] else 2)
    rows = np.searchsorted(indptr, even[1:-1], side="left")
    bounds = np.unique(np.concatenate([[0], rows, [len(indptr) - 1]]))
    shards: list[ShardPlace] = []
    for first, last in itertools.pairwise(bounds):
        start, stop = int(indptr[first]), int(indptr[last])
        if stop > start or indptr[-1] == 0:
            shards.append(ShardPlace(relation, len(shards), start, stop, int(first), int(last - first)))
    return shards


def _pin(address: str, own: Sequence[str]) -> Pin:
    return Pin(address, own[0] if own else None)
