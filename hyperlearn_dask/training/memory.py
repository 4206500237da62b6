"""What memory there is, what training needs of it at the least, and a refusal where that is more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from hyperlearn_dask.backend import free_memory
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.training.executor import Setting, ShardPlace, whole_places

INDEX = 4  # bytes of a coordinate
PLACE = 8  # bytes of an entry's place among those grouped by row
HELD = 2  # arrays of a factor's size in every sweep, by any schedule: it, and what it becomes
MATRICES = 6  # factor, its direction, its proposal, those of the sweep before, and a right-hand side

_CGROUP = Path("/sys/fs/cgroup")


def memory_left() -> int:
    """Bytes that this process may still take, by the machine and by its container."""
    left = int(psutil.virtual_memory().available)
    limit = _of_container("max")
    if limit is None:
        return left
    # Files that were read are in there too, as long as nobody needs the memory.
    files = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    used = (_of_container("current") or 0) - int(files["inactive_file"]) - int(files["active_file"])
    return max(1, min(left, limit - used))


def memory_of_machine() -> int:
    """Bytes that there are, on the machine or in its container."""
    whole = int(psutil.virtual_memory().total)
    limit = _of_container("max")
    return whole if limit is None else min(whole, limit)


def _of_container(figure: str) -> int | None:
    """A figure of this process's control group; None where there is none, or no limit."""
    try:
        text = (_CGROUP / f"memory.{figure}").read_text().strip()
    except OSError:
        return None
    return None if text == "max" else int(text)


@dataclass(frozen=True)
class Site:
    """A GPU: its free bytes, and what shall be there. ``edges``: entries of its Laplacians."""

    name: str
    free: int
    rows: Mapping[str, int]  # of every modality that it owns some of
    places: tuple[ShardPlace, ...]
    edges: int


def here(hypergraph: Hypergraph, setting: Setting) -> Site:
    """This process's GPU, for all of a training."""
    edges = sum(graph.laplacian.nnz for graph in hypergraph.graphs.values())
    places = tuple(whole_places(hypergraph, setting))
    rows = {m: len(entities) for m, entities in hypergraph.modalities.items()}
    return Site("the GPU", free_memory(), rows, places, edges)


def require_room(problem: Problem, sites: Sequence[Site], dtype: str) -> None:
    """Refuse a training that cannot fit: before anything is loaded, and in one line."""
    for site in sites:
        needed = bytes_at(problem, site, np.dtype(dtype).itemsize)
        if needed > site.free:
            raise InputError(
                f"does not fit: its data and factors take at least {_gib(needed)} of GPU memory, "
                f"{_gib(site.free)} are free; more GPUs, fewer columns or float32 make it smaller",
                key=site.name,
            )


def require_memory(problem: Problem, dtype: str, memory: int) -> None:
    """Refuse factors, and Grams of them, that a machine with so many bytes cannot hold."""
    numbers = sum(HELD * size * problem.rank + problem.rank**2 for size in problem.sizes.values())
    needed = numbers * np.dtype(dtype).itemsize
    if needed > memory:
        raise InputError(
            f"{problem.rank:,} columns take at least {_gib(needed)} of memory in training, "
            f"this machine has {_gib(memory)}; fewer columns, float32 or a cluster make it smaller",
            key="training",
        )


def bytes_at(problem: Problem, site: Site, itemsize: int) -> int:
    """A lower bound: what is there at the same time in every sweep."""
    total = site.edges * (INDEX + itemsize)
    for modality, rows in site.rows.items():
        width = len(problem.free_columns(modality))
        total += MATRICES * rows * problem.rank * itemsize
        if any(term.absent != "zero" for term in problem.terms_of(modality)):
            total += rows * width**2 * itemsize  # a matrix H_i for every row
    for place in site.places:
        total += _bytes_of_shard(problem, place, itemsize)
    return total


def _bytes_of_shard(problem: Problem, place: ShardPlace, itemsize: int) -> int:
    """Entries, their groupings, and the rows of factors and directions that they are multiplied with."""
    term = problem.terms[place.relation]
    rows = [
        place.rows if mode == place.sort_mode else problem.sizes[modality]
        for mode, modality in enumerate(term.modalities)
    ]
    total = 2 * sum(rows) * problem.rank * itemsize
    if place.holds_contexts:  # of which there may be few
        return total
    entries = place.stop - place.start
    grouped = PLACE * len(rows) if term.background != 1 else 0
    return total + entries * (INDEX * len(rows) + itemsize + grouped)


def _gib(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB"
