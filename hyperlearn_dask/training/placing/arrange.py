"""Shards and their places for a problem and its sizes, by what everything costs."""

from __future__ import annotations

from collections.abc import Mapping
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
from hyperlearn_dask.training.placing.placement import Placement, RowCosts, cut, place, walked_by_owners


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


def arrange(
    problem: Problem,
    counts: Counts,
    shards: list[ShardPlace],
    workers: Mapping[str, Mapping[str, float]],
    spec: PlacementSpec,
    names: Mapping[str, str],
    *,
    strict: bool = True,
) -> Placement:
    """A place for every modality and shard.

    Parameters
    ----------
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
    return place(
        {m: NOMINAL.total(block_work(problem, counts, m)) for m in problem.sizes},
        shards,
        workers,
        shard_work={s: _seconds(problem, counts, s) for s in shards if not s.modality},
        traffic={s: traffic(problem, counts, s) for s in shards},
        chosen=chosen,
        names=names,
    )


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
