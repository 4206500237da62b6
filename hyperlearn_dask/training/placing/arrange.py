"""Shards and their places for a problem and its sizes, by what everything costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import unit_attributes
from hyperlearn_dask.training.executor import ShardPlace
from hyperlearn_dask.training.placing.cost import (
    NOMINAL,
    Counts,
    block_work,
    line_work,
    products_work,
    traffic,
)
from hyperlearn_dask.training.placing.placement import (
    Part,
    Placement,
    RowCosts,
    cut,
    place,
    walked_by_owners,
)

# Tasks that a part more costs in a sweep, where its shard is: solving and directing.
PART_TASKS = 2


def counts_of(hypergraph: Hypergraph, dtype: str) -> Counts:
    """How much a stored hypergraph has, without reading its data."""
    assert hypergraph.path is not None, "only a store says so"
    graphs = {
        unit.partition("/")[2]: attributes
        for unit, attributes in unit_attributes(hypergraph.path).items()
        if unit.startswith("graphs/")
    }
    return Counts(
        {name: relation.nnz for name, relation in hypergraph.relations.items()},
        {m: 2 * a["edges"] + a["rows"] - a["isolated"] for m, a in graphs.items()},
        np.dtype(dtype).itemsize,
    )


def make_shards(
    problem: Problem,
    counts: Counts,
    indptrs: Mapping[str, np.ndarray],
    spec: PlacementSpec,
    workers: int,
) -> list[ShardPlace]:
    """The relations in shards of about as much work, as many stretches of them as the spec or workers say.

    ``indptrs``: per relation, where each row of its longest mode starts (rows + 1).
    """
    longest = {p: _longest(problem, p) for p in indptrs}
    targets = {p: t.target_mode for p, t in problem.terms.items() if t.absent == "context"}
    costs = {p: _row_costs(problem, counts, p, p in targets) for p in indptrs}
    shards = cut(indptrs, longest, spec.shards or workers, targets, costs)
    if spec.scheme == "shards":
        return shards
    return walked_by_owners(shards, {p: t.modalities for p, t in problem.terms.items()})


def split_rows(
    problem: Problem, counts: Counts, shards: Sequence[ShardPlace], spec: PlacementSpec
) -> dict[str, list[tuple[int, int]]]:
    """The modalities that are owned in parts: for each the first and last row (exclusive) of every part.

    Without graph and encoder every row of a block is a problem of its own. So where one relation is cut along
    the modality, the rows of every shard can be solved and moved where the shard is, and need not travel: if
    that saves more time than the tasks of the parts take, and nobody has chosen an owner.
    """
    splits = {}
    for m, size in problem.sizes.items():
        along = [s for s in shards if s.products and not (s.holds_contexts or s.modality)]
        along = [s for s in along if problem.terms[s.relation].modalities[s.sort_mode] == m]
        whole = m in spec.owners or m in problem.encoders or problem.uses_graph(m)
        if whole or len({s.relation for s in along}) != 1:
            continue
        pieces = len(along)
        saved = (1 - 1 / pieces) * NOMINAL.total(block_work(problem, counts, m))
        if saved > (pieces - 1) * PART_TASKS * NOMINAL.task:
            splits[m] = [*itertools.pairwise([0, *(s.first_row for s in along[1:]), size])]
    return splits


def arrange(
    problem: Problem,
    counts: Counts,
    shards: list[ShardPlace],
    workers: Mapping[str, Mapping[str, float]],
    spec: PlacementSpec,
    names: Mapping[str, str],
    *,
    splits: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    strict: bool = True,
) -> Placement:
    """A place for every modality and shard.

    Parameters
    ----------
    splits
        What :func:`split_rows` gave for the shards: parts are owned where their shards are.
    workers, names
        The resources that each declares, and what it is called, by its address.
    strict
        Whether a chosen owner who is not there is a mistake; else its modality goes elsewhere.

    Raises
    ------
    InputError
        When a chosen owner is not among the workers, or there are none.
    """
    chosen = {}
    for modality, name in spec.owners.items():
        if modality not in problem.sizes:
            raise InputError(
                f"no modality '{modality}' (expected one of {', '.join(problem.sizes)})",
                key="placement.owners",
            )
        found = [a for a in sorted(workers) if name in (a, names.get(a))]
        if found:
            chosen[modality] = found[0]
        elif strict and workers:
            known = ", ".join(sorted(names.get(a, a) for a in workers))
            raise InputError(
                f"no worker is called '{name}' (workers: {known})", key=f"placement.owners.{modality}"
            )
    splits = splits or {}
    placement = place(
        {m: NOMINAL.total(block_work(problem, counts, m)) for m in problem.sizes if m not in splits},
        shards,
        workers,
        shard_work={s: _seconds(problem, counts, s) for s in shards if not s.modality},
        traffic={
            s: {m: size for m, size in traffic(problem, counts, s).items() if m not in splits} for s in shards
        },
        chosen=chosen,
        names=names,
    )
    parts = {m: tuple(_parts(problem, placement, m, bounds)) for m, bounds in splits.items()}
    owners = placement.owners | {m: of_one[0].owner for m, of_one in parts.items()}
    return replace(placement, owners={m: owners[m] for m in problem.sizes}, parts=parts)


def _parts(
    problem: Problem, placement: Placement, modality: str, bounds: Sequence[tuple[int, int]]
) -> Iterator[Part]:
    """The parts of a modality, each owned by the holder of the shard that has its rows."""
    ends = {
        shard.first_row + shard.rows: holder
        for shard, holder in placement.holders.items()
        if problem.terms[shard.relation].modalities[shard.sort_mode] == modality and not shard.holds_contexts
    }
    for number, (first, stop) in enumerate(bounds):
        holder = next(ends[end] for end in sorted(ends) if end > first)
        yield Part(f"{modality}-{number}", modality, first, stop, holder)


def _seconds(problem: Problem, counts: Counts, shard: ShardPlace) -> float:
    return NOMINAL.total(products_work(problem, counts, shard) + line_work(problem, counts, shard))


def _longest(problem: Problem, relation: str) -> int:
    """The mode that a relation is sorted by."""
    return int(np.argmax([problem.sizes[m] for m in problem.terms[relation].modalities]))


def _row_costs(problem: Problem, counts: Counts, relation: str, contexts: bool) -> RowCosts:
    """The costs of an entry, a context and a row: of the whole relation, shared out."""
    entries, mode = max(1, counts.entries[relation]), _longest(problem, relation)
    rows = problem.sizes[problem.terms[relation].modalities[mode]]
    whole = ShardPlace(relation, 0, 0, entries, 0, rows, sort_mode=mode)
    no_rows = replace(whole, rows=0)
    every, without = (_seconds(problem, counts, shard) for shard in (whole, no_rows))
    target = problem.terms[relation].target_mode
    context = _seconds(problem, counts, no_rows.contexts(target)) if contexts else 0.0
    return RowCosts(without / entries, context / entries, (every - without) / max(1, rows))
