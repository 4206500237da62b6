"""A part of a relation's training hyperedges put aside, to judge by them what the rest has taught.

The part is random and follows from a seed. In the hypergraph that is left the part stands in the place
of the relation's test tuples, and no relation has any others: what is chosen by it has seen no test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class HoldOut:
    """What is put aside: a share of a relation's hyperedges, at least one, by a seed."""

    relation: str
    share: float
    seed: int

    def of(self, entries: int) -> np.ndarray:
        """Which of a relation's entries (indices, in random order) are put aside."""
        number = int(self.share * entries)
        if not 0 < number < entries:
            raise InputError(
                f"a share of {self.share:g} of {entries:,} hyperedges leaves nothing to judge or to learn by",
                key=f"relations.{self.relation}",
            )
        return np.random.default_rng(self.seed).permutation(entries)[:number]

    def parts(self, tensor: SparseTensor) -> tuple[SparseTensor, SparseTensor]:
        """What is left of the relation's training tensor, and what is put aside."""
        aside = self.of(tensor.nnz)
        return left(tensor, aside), tensor[aside]


def left(tensor: SparseTensor, aside: np.ndarray) -> SparseTensor:
    """A tensor without some of its entries."""
    kept = np.ones(tensor.nnz, dtype=bool)
    kept[aside] = False
    return tensor[kept]


def relation_of(relation: Relation, tensor: SparseTensor, test: SparseTensor | None = None) -> Relation:
    """A relation with another training tensor and other test tuples, or none."""
    return Relation(
        relation.name,
        relation.modalities,
        relation.shape,
        tensor.nnz,
        lambda: tensor,
        None if test is None else lambda: test,
    )


def hold_out(hypergraph: Hypergraph, what: HoldOut) -> Hypergraph:
    """The hypergraph without what is put aside; that relation is in memory."""
    relations = {name: relation.untested() for name, relation in hypergraph.relations.items()}
    own = hypergraph.relations[what.relation]
    relations[what.relation] = relation_of(own, *what.parts(own.tensor))
    return replace(hypergraph, relations=relations, path=None)


def write_held_out(source: str | Path, path: str | Path, what: HoldOut) -> None:
    """The same from store to store; all but the relation is linked. Nothing is done if it is there.

    Graphs come along, those that were built from the relation too.
    """
    from hyperlearn_dask.hypergraph import store
    from hyperlearn_dask.storage import hash_of, link_unit, recover, replacing

    source, path = Path(source), Path(path)
    unit = f"relations/{what.relation}"
    stored = store.unit_attributes(source)
    fingerprint = hash_of([what, {name: about["digest"] for name, about in stored.items()}])
    recover(path)
    if path.exists() and store.unit_attributes(path).get(unit, {}).get("fingerprint") == fingerprint:
        return
    rest, aside = what.parts(store.read_relation(source, what.relation))
    modalities = store.open_relation(source, what.relation).modalities
    with replacing(path) as staging:
        root = store.create_hypergraph(staging, store.stored_order(source))
        for name in stored:
            if not name.startswith("tests/") and name != unit:
                link_unit(source, staging, name)
        store.write_relation(root, what.relation, modalities, rest, fingerprint)
        store.write_test(root, what.relation, modalities, aside, fingerprint)


@contextlib.contextmanager
def held_out(
    hypergraph: Hypergraph, what: HoldOut, client: Client | None, *, in_memory: bool = True
) -> Iterator[Hypergraph]:
    """The hypergraph without what is put aside, for as long as it is needed.

    In memory; where it shall not be, a store beside the hypergraph's, and one that a worker writes for a
    client's.
    """
    if client is None and in_memory:
        yield hold_out(hypergraph, what)
        return
    from hyperlearn_dask.hypergraph.store import open_hypergraph
    from hyperlearn_dask.storage import remove

    if hypergraph.path is None:
        raise InputError("a hypergraph in memory cannot train on a cluster; save it first")
    path = hypergraph.path.resolve().with_name(f"{hypergraph.path.stem}.rest.zarr")
    if client is None:
        write_held_out(hypergraph.path, path, what)
    else:
        client.submit(write_held_out, hypergraph.path.resolve(), path, what, pure=False).result()
    try:
        yield open_hypergraph(path)
    finally:
        remove(path)
