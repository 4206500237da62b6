"""Simple methods that a factorisation has to beat: means, counts, frequencies and votes.

Each ranking method takes a relation and gives a scorer for
:func:`hyperlearn_dask.use.evaluate.filtered_ranks`. Where counts tie, popularity decides: most
scores of such methods are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.neighbors import NearestNeighbors

from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor
from hyperlearn_dask.use.evaluate import Scorer

_TIE = 1e-6  # of the popularity (a share of 1), well below any difference of counts or frequencies


def incidence(tensor: SparseTensor, row: int, column: int) -> scipy.sparse.csr_array:
    """How many hyperedges join each entity of one mode (rows) with each of another (columns)."""
    known = (tensor.coords[row] >= 0) & (tensor.coords[column] >= 0)
    at = (tensor.coords[row][known], tensor.coords[column][known])
    shape = (tensor.shape[row], tensor.shape[column])
    return scipy.sparse.csr_array((np.ones(len(at[0])), at), shape=shape)


def popularity(relation: Relation, target: str) -> np.ndarray:
    """The share (targets,) of hyperedges that each target is in."""
    mode = relation.modalities.index(target)
    return np.bincount(relation.tensor.coords[mode], minlength=relation.shape[mode]) / relation.nnz


def by_popularity(relation: Relation, target: str) -> Scorer:
    """Every context gets the targets that are in most hyperedges."""
    share = popularity(relation, target)
    return lambda context: np.tile(share, (len(next(iter(context.values()))), 1))


def by_counts(relation: Relation, target: str, given: str) -> Scorer:
    """How often a target occurs with one entity of the context."""
    return by_frequency(relation, target, {given: 1.0})  # within a context the order is the same


def by_frequency(relation: Relation, target: str, weights: Mapping[str, float]) -> Scorer:
    """A weighted sum, over modalities of the context, of a target's share of their entity's hyperedges."""
    mode = relation.modalities.index(target)
    tables = {
        m: _rows_to_one(incidence(relation.tensor, relation.modalities.index(m), mode)) for m in weights
    }
    ties = _TIE * popularity(relation, target)

    def score(context: Mapping[str, np.ndarray]) -> np.ndarray:
        total = np.tile(ties, (len(next(iter(context.values()))), 1))
        for modality, table in tables.items():
            known = np.flatnonzero(context[modality] >= 0)
            total[known] += weights[modality] * table[context[modality][known]].toarray()
        return total

    return score


def by_votes(
    relation: Relation,
    target: str,
    voter: str,
    features: scipy.sparse.csr_array,
    *,
    neighbors: int,
    power: float = 1.0,
) -> Scorer:
    """The targets of the nearest entities of modality ``voter``, weighted by cosine to a power.

    ``features``: (entities of the voter x features); only entities with a hyperedge vote.
    """
    known = incidence(relation.tensor, relation.modalities.index(voter), relation.modalities.index(target))
    voters = np.flatnonzero(np.diff(known.indptr))
    search = NearestNeighbors(n_neighbors=min(neighbors, len(voters)), metric="cosine", algorithm="brute")
    search.fit(features[voters])
    ties = _TIE * popularity(relation, target)

    def score(context: Mapping[str, np.ndarray]) -> np.ndarray:
        distance, nearest = search.kneighbors(features[context[voter]])
        weight = np.clip(1 - distance, 0, None) ** power
        indptr = np.arange(0, nearest.size + 1, nearest.shape[1])
        ballots = scipy.sparse.csr_array(
            (weight.ravel(), voters[nearest.ravel()], indptr), shape=(len(nearest), known.shape[0])
        )
        return (ballots @ known).toarray() + ties

    return score


def entity_features(
    hypergraph: Hypergraph,
    modality: str,
    parts: Mapping[tuple[str, str], float],
    targets: Mapping[str, str],
) -> scipy.sparse.csr_array:
    """What an entity is joined with: a tf-idf block of length 1 per relation and other modality.

    ``parts``: the weight of the block per (relation, other modality); ``targets``: what each relation
    asks for. The contexts of test tuples are known and count; what is asked for stays hidden.
    """
    blocks = []
    for (name, other), weight in parts.items():
        relation = hypergraph.relations[name]
        row, column = relation.modalities.index(modality), relation.modalities.index(other)
        counts = incidence(relation.tensor, row, column)
        if relation.test is not None and targets[name] not in (modality, other):
            counts = counts + incidence(relation.test, row, column)
        blocks.append(weight * TfidfTransformer().fit_transform(counts))
    return scipy.sparse.csr_array(scipy.sparse.hstack(blocks, format="csr"))


def biases(relation: Relation, damping: float = 5.0) -> np.ndarray:
    """Test values predicted by the mean plus a damped offset per entity of each mode, in turn."""
    test = relation.test
    assert test is not None
    train, mean = relation.tensor, relation.tensor.values.mean()
    rest, predicted = train.values - mean, np.full(test.nnz, mean)
    for mode, size in enumerate(train.shape):
        total = np.bincount(train.coords[mode], rest, size)
        offset = np.append(total / (np.bincount(train.coords[mode], minlength=size) + damping), 0.0)
        rest = rest - offset[train.coords[mode]]
        predicted += offset[test.coords[mode]]  # -1, no entity, has the last: 0
    return predicted


def _rows_to_one(table: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    total = table.sum(axis=1)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / np.where(total > 0, total, 1)) @ table)
