"""Learning how much local evidence counts, on hyperedges that neither factors nor terms have seen.

A random tenth of a relation's training hyperedges is held out. A second, shorter training on the rest
gives factor scores, the rest itself the terms of :mod:`hyperlearn_dask.factorization.local.evidence`, and the
weights, not negative, maximise the likelihood of the held-out targets t in their contexts c:

    sum_(c,t) log softmax_t(w_0 asinh z(c, .) + sum_k w_k log(1 + e_k(c, .) / e_0)),

over all targets but the others known for c. The final terms have every training hyperedge. A graph that
was built from such a relation (a feature of ``kind = "relation"``) has seen what is held out: it has no
part in the second training, and no votes for that relation. The same is true of an encoder's features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import scipy.optimize
import scipy.sparse as sp

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.local.evidence import FACTORS, POPULARITY, Evidence, gather_evidence
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.hypergraph.holdout import HoldOut, left, relation_of
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor
from hyperlearn_dask.training.fit import fit

HELD_OUT = 10  # one hyperedge in so many
SWEEPS = 15  # of the second training, at most
TUPLES = 3000  # that weights are learned from, at most
_CELLS = 1 << 25  # factor scores held at once in float32: 128 MiB
_CACHED = 1 << 17  # scores worked on at once in float32, several times: 512 KiB
_SHRINKAGE = 1e-4  # keeps weights finite where every held-out target is easily told


def add_evidence(
    model: Model,
    hypergraph: Hypergraph,
    names: Collection[str],
    training: TrainingSpec,
    graphs_from: Mapping[str, Collection[str]] | None = None,
) -> Model:
    """The model with local evidence for some relations; the model itself where none is named.

    The second training runs in this process.

    Parameters
    ----------
    model
        Trained on the hypergraph.
    names
        Relations whose targets (``model.targets``) shall be scored with evidence.
    training
        The settings that the model was trained with.
    graphs_from
        Per modality the relations that its graph was built from, where it was built from some.

    Raises
    ------
    InputError
        When a relation has no target, no meaning for evidence, or too few hyperedges.
    """
    if not names:
        return model
    held = {name: _hold_out(model, hypergraph.relations[name], training.seed) for name in names}
    used = graphs_from or {}
    seen = {m for m, relations in used.items() if not held.keys().isdisjoint(relations)}
    rest = replace(
        hypergraph,
        relations={
            name: relation_of(relation, left(relation.tensor, held[name])) if name in held else relation
            for name, relation in hypergraph.relations.items()
        },
        graphs={m: graph for m, graph in hypergraph.graphs.items() if m not in seen},
        path=None,
    )
    unseeing = {m: mu for m, mu in model.problem.graph_weights.items() if m not in seen}
    plain = {m: encoder for m, encoder in model.problem.encoders.items() if m not in seen}
    shorter = replace(training, sweeps=min(SWEEPS, training.sweeps), draws=0, validation=None)
    second = fit(rest, replace(model.problem, graph_weights=unseeing, encoders=plain), shorter)
    evidence = {}
    for name in names:
        target = model.targets[name]
        graphs = {m: graph for m, graph in hypergraph.graphs.items() if name not in used.get(m, ())}
        part = gather_evidence(rest.relations, name, target, graphs)
        tuples = hypergraph.relations[name].tensor[held[name]]
        weights = learn_weights(second, part, hypergraph.relations[name], tuples)
        whole = gather_evidence(hypergraph.relations, name, target, graphs)
        evidence[name] = replace(whole, weights=weights)
    return replace(model, evidence=evidence)


def check_evidence(relation: Relation, absent: str, target: str | None) -> None:
    """Refuse evidence for a relation that has no target, no meaning for it, or too few hyperedges."""
    key = f"relations.{relation.name}.evidence"
    if absent == "unknown":
        raise InputError('has no meaning with absent = "unknown"', key=key)
    if target is None:
        raise InputError(f"needs a target (one of {', '.join(relation.modalities)})", key=key)
    if relation.nnz < HELD_OUT:
        raise InputError(f"needs at least {HELD_OUT} hyperedges, there are {relation.nnz}", key=key)


def learn_weights(
    model: Model, evidence: Evidence, relation: Relation, tuples: SparseTensor
) -> dict[str, float]:
    """The weight of each term and of the factor score, from tuples that neither has seen.

    ``relation``: with all that is known, ``tuples`` included. Where none of them has a target that
    the evidence knows, the factor score alone counts.
    """
    mode = relation.modalities.index(evidence.target)
    columns = np.flatnonzero(evidence.seen)
    tuples = tuples[evidence.seen[tuples.coords[mode]]]
    tuples = tuples[: max(1, min(TUPLES, _CELLS // max(1, len(columns))))]
    rows = max(1, _CACHED // max(1, len(columns)))
    batches = [
        _Batch(model, evidence, relation, tuples[start : start + rows], columns)
        for start in range(0, tuples.nnz, rows)
    ]
    names = [FACTORS, POPULARITY, *(name for name, _ in evidence.found({}))]
    if not batches:
        return {name: float(name == FACTORS) for name in names}
    # In units of each term's spread, so that one step length suits them all.
    squares = sum(batch.squares for batch in batches) / (tuples.nnz * len(columns))
    spread = np.sqrt(np.where(squares > 0, squares, 1))

    def loss(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _SHRINKAGE * scaled @ scaled, 2 * _SHRINKAGE * scaled
        for batch in batches:
            part, slope = batch.loss(scaled / spread)
            value, gradient = value + part / tuples.nnz, gradient + slope / spread / tuples.nnz
        return value, gradient

    start = np.where(squares > 0, 0.1, 0.0)
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), options={"maxiter": 100}
    )
    return {name: float(weight) for name, weight in zip(names, found.x / spread)}


class _Batch:
    """The terms of a few held-out tuples over the targets seen (``columns``)."""

    def __init__(
        self,
        model: Model,
        evidence: Evidence,
        relation: Relation,
        tuples: SparseTensor,
        columns: np.ndarray,
    ) -> None:
        mode = relation.modalities.index(evidence.target)
        context = {m: c for m, c in zip(relation.modalities, tuples.coords) if m != evidence.target}
        scores = model.score_targets(relation.name, evidence.target, context)
        (_, factors), (_, popularity), *others = evidence.terms(scores, context)
        # Row after row, as positions count.
        self.factors = factors[:, columns].astype(np.float32, order="C")
        self.popularity = popularity[columns]
        # Each sparse term as positions in the flattened batch, and values there.
        self.terms = [_entries(term[:, columns]) for _, term in others]
        answer = np.searchsorted(columns, tuples.coords[mode])
        self.answers = np.arange(tuples.nnz) * len(columns) + answer
        self.hidden, _ = _entries(_others_known(relation, mode, tuples)[:, columns])
        self.squares = np.array(
            [
                np.square(self.factors, dtype=np.float64).sum(),
                len(answer) * np.square(self.popularity).sum(),
                *(np.square(values).sum() for _, values in self.terms),
            ]
        )

    def loss(self, weights: np.ndarray) -> tuple[float, np.ndarray]:
        """-log softmax of the answers, summed over the tuples, and its gradient."""
        factors, popularity, *others = map(float, weights)
        scores = self.factors * factors
        scores += (popularity * self.popularity).astype(scores.dtype)
        flat = scores.reshape(-1)
        for weight, (at, values) in zip(others, self.terms):
            flat[at] += weight * values
        own = flat[self.answers].sum(dtype=np.float64)
        flat[self.hidden] = -np.inf
        top = scores.max(axis=1, keepdims=True)
        scores -= top
        np.exp(scores, out=scores)
        total = scores.sum(axis=1, keepdims=True, dtype=np.float64)
        # d/dw_k = sum over tuples of (E_p[e_k] - e_k(answer)), p the softmax
        scores /= total.astype(scores.dtype)
        flat[self.answers] -= 1
        gradient = [np.vdot(scores, self.factors), (scores @ self.popularity.astype(scores.dtype)).sum()]
        gradient += [flat[at] @ values for at, values in self.terms]
        return float((np.log(total) + top).sum() - own), np.array(gradient, dtype=np.float64)


def _hold_out(model: Model, relation: Relation, seed: int) -> np.ndarray:
    """Which of a relation's hyperedges (indices, in random order) are held out."""
    check_evidence(relation, model.problem.terms[relation.name].absent, model.targets.get(relation.name))
    return HoldOut(relation.name, 1 / HELD_OUT, seed).of(relation.nnz)


def _others_known(relation: Relation, mode: int, tuples: SparseTensor) -> sp.csr_array:
    """The targets known for each tuple's context, its own not among them: CSR (tuples x targets)."""
    tensor, others = relation.tensor, [m for m in range(len(relation.shape)) if m != mode]
    entries = np.arange(tensor.nnz)
    for m in others:
        entries = entries[np.isin(tensor.coords[m][entries], tuples.coords[m])]
    both = [np.concatenate([tuples.coords[m], tensor.coords[m][entries]]) for m in others]
    _, of = np.unique(np.stack(both, axis=1), axis=0, return_inverse=True)
    of = of.ravel()
    shape, contexts = (tuples.nnz, tensor.shape[mode]), int(of.max()) + 1
    asks = _ones(np.arange(tuples.nnz), of[: tuples.nnz], (tuples.nnz, contexts))
    has = _ones(of[tuples.nnz :], tensor.coords[mode][entries], (contexts, shape[1]))
    known = sp.csr_array(asks @ has - _ones(np.arange(tuples.nnz), tuples.coords[mode], shape))
    known.eliminate_zeros()
    return known


def _ones(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> sp.csr_array:
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _entries(table: sp.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """The positions of a table's entries in its flattened form, and the entries."""
    found = table.tocoo()
    rows, columns = found.coords
    return rows.astype(np.int64) * table.shape[1] + columns, found.data
