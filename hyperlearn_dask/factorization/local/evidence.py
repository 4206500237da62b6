"""Local evidence: what the stored hyperedges say literally about a target in a context.

Factors smooth that away. So the score of a target t in a context c becomes

    w_0 asinh z(c, t) + sum_k w_k log(1 + e_k(c, t) / e_0)

with z the factor score, standardised over the targets of a context (mean 0, deviation 1), and shares e_k
that are sparse products with the training relation X:

- *counts*: the share of t among the hyperedges of an entity of the context, or of a pair of them where
  the context has three or more. (A share for the whole context says nothing about a target that is new
  to it.)
- *votes*: the mean of these shares over an entity's neighbours in its graph, (I - L) X with rows of
  sum 1: one step of the multi-graph convolution, applied to the relation itself.
- *likeness*: the votes of contexts that are joined with the same as this one, in any relation, and a
  regression on what it is joined with (:mod:`hyperlearn_dask.factorization.local.likeness`).
- *popularity*: the share of t among all hyperedges.

The logarithms (asinh is one, on both sides of 0) are there because the weights come from a softmax: it
takes sums of logarithms for products of shares, but a share itself, or a score 50 deviations above the
mean, would decide alone. e_0 = 1/1000 is the share below which evidence fades away.

The weights are learned by :mod:`hyperlearn_dask.training.evidence`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.factorization.local.likeness import Likeness, gather_likeness
from hyperlearn_dask.factorization.local.shares import Shares, picked, rows_to_one, shares_of
from hyperlearn_dask.hypergraph.tensor import Graph, Relation

FACTORS = "factors"
POPULARITY = "popularity"
FAINT = 1e-3  # e_0


@dataclass(frozen=True, eq=False)
class Evidence:
    """The local terms of a relation for its target.

    ``popularity``: (targets,); ``shares``: by modality and, of larger contexts, pairs of them;
    ``votes``: per modality with a graph the weights (entities x rows of its shares) of the neighbours
    that have hyperedges, rows of sum 1 or empty; ``likeness``: None where nothing is known that
    contexts could have in common. ``weights``: by name of the term.
    """

    target: str
    popularity: np.ndarray
    shares: tuple[Shares, ...]
    votes: dict[str, sp.csr_array]
    likeness: Likeness | None = None
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def seen(self) -> np.ndarray:
        """The targets (bool) that have a hyperedge at all."""
        return self.popularity > 0

    def found(self, context: Mapping[str, np.ndarray]) -> Iterator[tuple[str, sp.csr_array]]:
        """The sparse shares (contexts x targets) of a batch of contexts, by name."""
        length = max((len(v) for v in context.values()), default=1)
        single = [s for s in self.shares if len(s.modalities) == 1]
        for shares in self.shares:
            if len(single) > 1:  # else it is the whole context
                yield f"counts of {' and '.join(shares.modalities)}", shares.rows(context, length)
        for shares in single:
            (modality,) = shares.modalities
            if modality in self.votes:
                yield f"neighbours of {modality}", self._voted(shares, context, length)
        if self.likeness is not None:
            yield from self.likeness.found(context, length)

    def _voted(self, shares: Shares, context: Mapping[str, np.ndarray], length: int) -> sp.csr_array:
        (modality,) = shares.modalities
        index = np.asarray(context.get(modality, np.full(length, -1)))
        votes = self.votes[modality]
        there = np.flatnonzero(index >= 0)
        return sp.csr_array(picked(votes, there, index[there], length) @ shares.table)

    def standardised(self, scores: np.ndarray) -> np.ndarray:
        """z: factor scores (contexts x targets) with mean 0 and deviation 1 over the targets seen."""
        seen = scores[:, self.seen]
        deviation = seen.std(axis=1, keepdims=True)
        difference = scores - seen.mean(axis=1, keepdims=True)
        return np.divide(difference, deviation, out=np.zeros_like(difference), where=deviation > 0)

    def terms(
        self, scores: np.ndarray, context: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray | sp.csr_array]]:
        """What is weighed, by name: (contexts x targets), popularity (targets,); ``scores``: the factors'."""
        yield FACTORS, np.arcsinh(self.standardised(scores))
        yield POPULARITY, np.log1p(self.popularity / FAINT)
        for name, shares in self.found(context):
            shares.data = np.log1p(shares.data / FAINT)
            yield name, shares

    def parts(
        self, scores: np.ndarray, context: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What each term adds (contexts x targets, by name) to the score of a batch of contexts."""
        for name, term in self.terms(scores, context):
            dense = np.broadcast_to(term, scores.shape) if isinstance(term, np.ndarray) else term.toarray()
            yield name, self.weights[name] * dense


def gather_evidence(
    relations: Mapping[str, Relation], name: str, target: str, graphs: Mapping[str, Graph]
) -> Evidence:
    """The terms of a relation for a target, from the training tensors of all; without weights.

    ``graphs``: those that vote.
    """
    tensor, modalities = relations[name].tensor, relations[name].modalities
    mode = modalities.index(target)
    others = [m for m in range(tensor.order) if m != mode]
    chosen: list[tuple[int, ...]] = [(m,) for m in others]
    if len(others) > 2:
        chosen += combinations(others, 2)
    shares = []
    for modes in chosen:
        members = tuple(modalities[m] for m in modes)
        shape = tuple(tensor.shape[m] for m in [*modes, mode])
        counts = shares_of([tensor.coords[m] for m in modes], tensor.coords[mode], members, shape)
        shares.append(replace(counts, table=rows_to_one(counts.table)))
    votes = {}
    for one in shares:
        graph = graphs.get(one.modalities[0])
        if len(one.modalities) == 1 and graph is not None:
            # I - L has the weights of the neighbours off the diagonal, where L has them negative.
            near = sp.csr_array((-graph.laplacian).maximum(0))
            votes[one.modalities[0]] = rows_to_one(sp.csr_array(near[:, one.keys]))
    share = np.bincount(tensor.coords[mode], minlength=tensor.shape[mode]) / max(1, tensor.nnz)
    return Evidence(target, share, tuple(shares), votes, gather_likeness(relations, name, target))
