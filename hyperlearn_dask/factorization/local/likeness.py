"""What a context is like, by the hyperedges that its entities are in, and what follows for a target.

A context c is described by a sparse row f(c) of features, in blocks:

- *known targets*: those of the context itself, where contexts have two or more on average;
- *identity*: each of its entities, where a context has more than one;
- *company*: what each of its entities is joined with in the other relations together, a block per
  modality.

A block is a bag of words: tf-idf, unit length. One whose rows have one word as a rule says less exactly
who is like whom than one with many, and counts for :data:`SINGLE`. Two local terms come from it:

- *votes*: the targets of the :data:`NEAREST` contexts, by powers of the cosine of their rows, scaled to
  sum 1. A high power listens to near twins, a low one to the whole neighbourhood.
- *regression* of the targets of contexts on their features (:mod:`.regression`): what the whole of a
  description points to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.factorization.local.regression import Regression, classify, regress
from hyperlearn_dask.factorization.local.shares import Shares, picked, rows_to_one, shares_of
from hyperlearn_dask.hypergraph.tensor import Relation

SINGLE = 0.4  # the weight of a block with one word a row
NEAREST = 200  # contexts that vote
POWERS = (3, 8)  # of the cosine
CONTEXTS = 1 << 17  # that are looked at, at most
_SEVERAL = 1.5  # words a row, on average: more than one as a rule
_CELLS = 1 << 24  # cosines held at once in float32: 64 MiB

REGRESSION = "regression on what is known"
VOTES = {power: f"alike contexts, cosine^{power}" for power in POWERS}


@dataclass(frozen=True, eq=False)
class Likeness:
    """Contexts by their features.

    ``profiles``: per modality of the context, identity and company (entities x features); ``known``: the
    features of whole contexts, found by their entities; None where there are none. ``voters``: of the
    contexts that vote, which targets each has. ``described``: their features (voters x features).
    ``regression``: of the targets on such features.
    """

    profiles: dict[str, sp.csr_array]
    known: Shares | None
    voters: Shares
    described: sp.csr_array
    regression: Regression

    def found(self, context: Mapping[str, np.ndarray], length: int) -> Iterator[tuple[str, sp.csr_array]]:
        """The sparse terms (contexts x targets), none negative, of a batch of contexts, by name."""
        features = _describe(self.profiles, self.known, context, length)
        yield REGRESSION, self.regression.found(features)
        yield from zip(VOTES.values(), self._votes(features, self.voters.codes(context, length)))

    def _votes(self, features: sp.csr_array, codes: np.ndarray) -> list[sp.csr_array]:
        step = max(1, _CELLS // len(self.voters.keys))
        parts = [
            self._nearest(features[at : at + step], codes[at : at + step])
            for at in range(0, len(codes), step)
        ]
        return [
            rows_to_one(
                sp.csr_array(sp.vstack([ballots.power(power) for ballots in parts]) @ self.voters.table)
            )
            for power in POWERS
        ]

    def _nearest(self, features: sp.csr_array, codes: np.ndarray) -> sp.csr_array:
        """The cosines (contexts x voters) to the nearest voters; a context is not its own."""
        cosines = (_unit(features) @ self._facing).toarray()
        place = np.minimum(np.searchsorted(self.voters.keys, codes), len(self.voters.keys) - 1)
        own = np.flatnonzero(self.voters.keys[place] == codes)
        cosines[own, place[own]] = 0
        count = min(NEAREST, cosines.shape[1])
        near = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(cosines, near, axis=1)
        ballots = sp.csr_array(
            (values.ravel(), near.ravel(), np.arange(0, near.size + 1, count)), shape=cosines.shape
        )
        ballots.eliminate_zeros()
        return ballots

    @cached_property
    def _facing(self) -> sp.csr_array:
        return sp.csr_array(_unit(self.described).T)


def gather_likeness(relations: Mapping[str, Relation], name: str, target: str) -> Likeness | None:
    """Describe the contexts of a relation for a target; None where nothing describes them.

    Nothing but the training hyperedges of ``relations`` is looked at. A relation whose combinations of
    entities have no numbers below 2^63 goes without.
    """
    relation = relations[name]
    tensor, mode = relation.tensor, relation.modalities.index(target)
    others = [m for m in range(tensor.order) if m != mode]
    shape = tuple(tensor.shape[m] for m in [*others, mode])
    if math.prod(shape[:-1]) >= 2**63:
        return None
    given = tuple(relation.modalities[m] for m in others)
    whole = shares_of([tensor.coords[m] for m in others], tensor.coords[mode], given, shape)

    blocks: list[tuple[str | None, sp.csr_array]] = []  # whose, and what
    if whole.table.nnz > _SEVERAL * len(whole.keys):
        blocks.append((None, _bag(whole.table)))
    for m in given:
        blocks += [(m, _bag(table)) for table in _company(relations, name, m, given)]
    if not blocks:
        return None
    starts = np.cumsum([0, *(block.shape[1] for _, block in blocks)])
    placed = [(owner, _widened(block, start, starts[-1])) for (owner, block), start in zip(blocks, starts)]
    known: Shares | None = None
    profiles: dict[str, sp.csr_array] = {}
    for owner, block in placed:
        if owner is None:
            known = Shares(whole.modalities, whole.sizes, whole.keys, block)
        else:
            profiles[owner] = block + profiles[owner] if owner in profiles else block

    few = np.linspace(0, len(whole.keys) - 1, min(len(whole.keys), CONTEXTS)).astype(np.int64)
    voters = Shares(whole.modalities, whole.sizes, whole.keys[few], sp.csr_array(whole.table[few]))
    entities = dict(zip(given, np.unravel_index(voters.keys, voters.sizes)))
    described = _describe(profiles, known, entities, len(few))
    answers = sp.csr_array(voters.table.sign())
    if known is None:
        regression = classify(described, answers)
    else:
        regression = regress(described, answers, np.arange(shape[-1]))
    return Likeness(profiles, known, voters, described, regression)


def _company(
    relations: Mapping[str, Relation], name: str, modality: str, given: tuple[str, ...]
) -> Iterator[sp.csr_array]:
    """What the entities of a modality are, and what they meet in other relations than ``name``.

    What is of a modality that is ``given`` itself is left out: its own identity says it already.
    """
    if len(given) > 1:
        size = relations[name].shape[relations[name].modalities.index(modality)]
        yield sp.csr_array(sp.eye_array(size))
    met: dict[str, sp.csr_array] = {}
    for relation in relations.values():
        if relation.name == name or modality not in relation.modalities:
            continue
        tensor, mode = relation.tensor, relation.modalities.index(modality)
        for other, theirs in enumerate(relation.modalities):
            if other != mode and (len(given) == 1 or theirs not in given):
                at = (tensor.coords[mode], tensor.coords[other])
                shape = (tensor.shape[mode], tensor.shape[other])
                counts = sp.csr_array((np.ones(tensor.nnz), at), shape=shape)
                met[theirs] = met[theirs] + counts if theirs in met else counts
    yield from met.values()


def _bag(counts: sp.csr_array) -> sp.csr_array:
    """Counts as bags of words: tf-idf, rows of unit length, :data:`SINGLE` where they have one word."""
    written = np.diff(counts.indptr)
    often = np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.log((1 + (written > 0).sum()) / (1 + often)) + 1
    weight = 1.0 if counts.nnz > _SEVERAL * (written > 0).sum() else SINGLE
    return sp.csr_array(weight * _unit(sp.csr_array(counts @ sp.diags_array(idf))))


def _describe(
    profiles: Mapping[str, sp.csr_array],
    known: Shares | None,
    context: Mapping[str, np.ndarray],
    length: int,
) -> sp.csr_array:
    """f(c) (length x features) of a batch of contexts; what is not given has no features."""
    parts = [] if known is None else [known.rows(context, length)]
    for modality, profile in profiles.items():
        index = np.asarray(context.get(modality, np.full(length, -1)))
        there = np.flatnonzero(index >= 0)
        parts.append(picked(profile, there, index[there], length))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.astype(np.float32)


def _widened(block: sp.csr_array, start: int, width: int) -> sp.csr_array:
    """The block among ``width`` columns, its first being ``start``."""
    return sp.csr_array((block.data, block.indices + start, block.indptr), shape=(block.shape[0], width))


def _unit(table: sp.csr_array) -> sp.csr_array:
    length = np.sqrt(table.power(2).sum(axis=1))
    return sp.csr_array(sp.diags_array((1 / np.where(length > 0, length, 1)).astype(table.dtype)) @ table)
