"""The row of one new entity, all others as they are: the block problem of a single row.

    (H_v + mu I) a = c_v + eps p + mu sum_u s_u A_u
with H_v and c_v of its hyperedges, see :mod:`.blocks`, s_u = w_vu / sum w of its neighbours (its row of the
normalised Laplacian, as if they had its degree), and p its *prior*: what the modality's encoder makes of it,
or 0. Relations it has no hyperedge in say nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.blocks import BlockSystem, assemble, solve_block
from hyperlearn_dask.factorization.grams import augmented_gram
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import ContextShard, EntryShard, Product, contexts_of
from hyperlearn_dask.hypergraph.tensor import SparseTensor


def newcomer_row(
    problem: Problem,
    factors: Mapping[str, np.ndarray],
    modality: str,
    entries: Mapping[str, SparseTensor],
    prior: np.ndarray,
    neighbours: np.ndarray | None,
) -> np.ndarray:
    """The free columns (f,) of a new entity's row.

    Parameters
    ----------
    entries
        Its hyperedges by relation, the offset taken off; of the modality's mode the only row is 0.
    prior
        p (f,).
    neighbours
        sum_u s_u A_u (f,), None where it has none.

    Raises
    ------
    InputError
        When it is the target of a ``context`` relation: all contexts would say something about it, and
        those are not in a model.
    """
    alone = replace(
        problem,
        sizes={**problem.sizes, modality: 1},
        terms={name: problem.terms[name] for name in entries},
        encoders={},
    )
    # Which columns are free does not depend on what is known of this entity.
    free = problem.free_columns(modality)
    others = {m: a.astype(np.float64, copy=False) for m, a in factors.items() if m != modality}
    members = {m for name in entries for m in problem.terms[name].modalities} - {modality}
    grams = {m: augmented_gram(others[m]) for m in members}
    rows = {**others, modality: problem.resting_value(modality)[None, :]}
    products: list[Product] = []
    for name, tensor in entries.items():
        products += _products(alone, name, tensor, modality, rows, grams)
    gram, right = problem.ridge * np.eye(len(free)), problem.ridge * prior
    known = alone.free_columns(modality)
    if len(known):
        alone = replace(alone, ridge=0.0)
        system = assemble(alone, modality, 1, products, grams, np.dtype(np.float64)).formed()
        at = np.searchsorted(free, known)
        gram[np.ix_(at, at)] += system.gram[0] if system.by_row else system.gram
        right[at] += system.right[0]
    if neighbours is not None:
        mu = problem.graph_weights.get(modality, 0.0)
        gram += mu * np.eye(len(free))
        right = right + mu * neighbours
    whole = BlockSystem(gram + _tiny(gram), right[None, :])
    return np.asarray(solve_block(whole, None, 0.0, np.zeros_like(whole.right))[0])


def _products(
    alone: Problem,
    name: str,
    tensor: SparseTensor,
    modality: str,
    rows: Mapping[str, np.ndarray],
    grams: Mapping[str, np.ndarray],
) -> list[Product]:
    term = alone.terms[name]
    shards: list[EntryShard | ContextShard] = [EntryShard(name, tensor)]
    if term.absent == "context":
        if term.modalities[term.target_mode] == modality:
            raise InputError(
                f"a new '{modality}' cannot be told by '{name}', whose target it is with absent = 'context': "
                "its zeros are in all contexts, and a model has none of them"
            )
        shards.append(ContextShard(name, contexts_of(tensor, term.target_mode)))
    return [shard.products(alone, rows, [modality], grams)[modality] for shard in shards]


def _tiny(gram: np.ndarray) -> np.ndarray:
    """A ridge of the size of rounding errors: nothing known and no ridge is no reason to fail."""
    return np.eye(len(gram)) * max(1e-14 * float(np.abs(gram).max(initial=0)), 1e-300)
