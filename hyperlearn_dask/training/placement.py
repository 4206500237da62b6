"""Who does what on a cluster: an owner for every modality, a holder for every shard."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.executor import ShardPlace


@dataclass(frozen=True)
class Placement:
    """The address of every modality's owner and of every shard's holder, among ``workers``."""

    owners: dict[str, str]
    holders: dict[ShardPlace, str]
    workers: tuple[str, ...]


def place(
    sizes: Mapping[str, int], shards: Sequence[ShardPlace], workers: Mapping[str, Mapping[str, float]]
) -> Placement:
    """Place modalities and shards on workers.

    A worker that declares a resource of a modality's name owns that modality. The modalities left
    over go, longest first, to the worker with the fewest entities so far. Shards go round the workers.

    Parameters
    ----------
    sizes
        Entities per modality.
    workers
        The declared resources of each worker, by its address.
    """
    if not workers:
        raise InputError("the cluster has no workers; start at least one (dask worker ADDRESS)")
    addresses = sorted(workers)
    declared = [r for resources in workers.values() for r in resources]
    owners = {r: a for a in addresses for r in workers[a] if r in sizes and declared.count(r) == 1}
    load = {a: sum(sizes[m] for m, owner in owners.items() if owner == a) for a in addresses}
    for modality in sorted(sizes.keys() - owners.keys(), key=lambda m: (-sizes[m], m)):
        owners[modality] = min(addresses, key=lambda a: load[a])
        load[owners[modality]] += sizes[modality]
    holders = {shard: addresses[shard.number % len(addresses)] for shard in shards}
    return Placement({m: owners[m] for m in sizes}, holders, tuple(addresses))


def cut(
    indptrs: Mapping[str, np.ndarray],
    sort_modes: Mapping[str, int],
    pieces: int,
    target_modes: Mapping[str, int],
) -> list[ShardPlace]:
    """Every relation in ``pieces`` shards at most, and in shards of contexts where it has them.

    Parameters
    ----------
    indptrs
        Per relation, where each row of its longest mode starts (rows + 1).
    sort_modes
        Per relation, that mode.
    target_modes
        Per relation with contexts, the mode they leave out. Where it is the sort mode contexts run
        across all rows, and one shard holds them all.
    """
    shards = [
        shard
        for relation, indptr in indptrs.items()
        for shard in cut_rows(relation, indptr, pieces, sort_modes[relation])
    ]
    for relation, target in target_modes.items():
        sort_mode = sort_modes[relation]
        runs = cut_rows(relation, indptrs[relation], 1 if target == sort_mode else pieces, sort_mode)
        shards += [shard.contexts(target) for shard in runs]
    return shards


def cut_rows(relation: str, indptr: np.ndarray, pieces: int, sort_mode: int = 0) -> list[ShardPlace]:
    """At most ``pieces`` runs of whole rows with about as many entries each.

    None is empty, but for the one of a relation without entries.
    """
    even = np.linspace(0, indptr[-1], pieces + 1 if indptr[-1] else 2)
    inner = np.searchsorted(indptr, even[1:-1], side="left")
    bounds = np.unique(np.concatenate([[0], inner, [len(indptr) - 1]]))
    shards: list[ShardPlace] = []
    for first, last in itertools.pairwise(bounds):
        start, stop = int(indptr[first]), int(indptr[last])
        if stop > start or indptr[-1] == 0:
            rows = int(last - first)
            shards.append(
                ShardPlace(relation, len(shards), start, stop, int(first), rows, sort_mode=sort_mode)
            )
    return shards
