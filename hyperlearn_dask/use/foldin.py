"""Entities that came after training: their rows without training again.

An encoder knows the row of an entity from its features and neighbours; hyperedges say the rest, each row
solved for by itself with all others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.newcomers import newcomer_row
from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order
from hyperlearn_dask.hypergraph.tensor import Modality, SparseTensor
from hyperlearn_dask.use.lookup import find

# The other members of a new entity's hyperedge, by modality; with a value where it is not 1.
Hyperedge = Mapping[str, str] | tuple[Mapping[str, str], float]


def encode(
    model: Model,
    modality: str,
    features: Any = None,
    neighbours: Sequence[Mapping[str, float]] | None = None,
) -> np.ndarray:
    """The rows (k x rank) that a modality's encoder gives to k entities that training has not seen.

    Parameters
    ----------
    model
        A trained model.
    modality
        One with an encoder.
    features
        What the entities are like (k x columns), columns as in training; NumPy or SciPy sparse. None for
        an encoder on free rows.
    neighbours
        Per entity its neighbours in the graph: ids or labels with positive weights. None: nobody has any.

    Raises
    ------
    InputError
        When the modality has no encoder, or what is given does not fit it.
    """
    encoding = model.encoders.get(modality)
    if encoding is None:
        have = ", ".join(model.encoders) or "none has"
        raise InputError(f"modality '{modality}' has no encoder (those that have one: {have})")
    if (features is None) != (encoding.inputs == 0):
        raise InputError(
            f"the encoder of '{modality}' is on {encoding.spec.on}: "
            + ("it takes no features" if encoding.inputs == 0 else "features are missing")
        )
    if features is not None and np.ndim(features) != 2 and not sp.issparse(features):
        raise InputError(f"expected features as a matrix, got an array of {np.ndim(features)} dimensions")
    if features is not None and features.shape[1] != encoding.inputs:
        raise InputError(f"expected {encoding.inputs} features, got {features.shape[1]}", key=modality)
    count = len(neighbours or ()) if features is None else features.shape[0]
    known = len(encoding.messages)
    links = _links(model, modality, [{}] * count if neighbours is None else neighbours, known)
    if links.shape[0] != count:
        raise InputError(f"expected the neighbours of {count} entities, got {links.shape[0]}", key=modality)
    rows = np.tile(model.problem.resting_value(modality), (count, 1))
    rows[:, model.problem.free_columns(modality)] = encoding.rows(features, links)
    return rows


def fold_in(
    model: Model,
    modality: str,
    entity: str,
    *,
    hyperedges: Mapping[str, Sequence[Hyperedge]] | None = None,
    features: Any = None,
    neighbours: Mapping[str, float] | None = None,
    label: str | None = None,
) -> Model:
    """The model with one more entity, which training has not seen; nothing else changes.

    Its row is the best one given all others: drawn by the ridge to what the modality's encoder makes of it
    (to 0 where there is none), by the graph to its neighbours. Without hyperedges, an encoder without own
    rows has the last word. Posterior draws, and local evidence of relations that the modality is in, know
    nothing of the newcomer and are left out.

    Parameters
    ----------
    model
        A trained model.
    modality, entity, label
        What the newcomer is, its id, and what to call it.
    hyperedges
        Per relation its hyperedges: the other members by modality, or those and a value. Relations that
        are left out say nothing about it.
    features
        What it is like (columns,), for an encoder on features.
    neighbours
        Its neighbours in the graph, ids or labels with positive weights.

    Raises
    ------
    InputError
        When something is unknown, missing, or in a place where it has no meaning.
    """
    if modality not in model.modalities:
        raise InputError(f"no modality '{modality}' (the model has {', '.join(model.modalities)})")
    entity = str(entity)
    if (model.modalities[modality].ids == entity).any():
        raise InputError(f"modality '{modality}' has an entity '{entity}' already")
    free = model.problem.free_columns(modality)
    encoding = model.encoders.get(modality)
    prior = np.zeros(len(free))
    if encoding is not None and (features is not None or encoding.inputs == 0):
        matrix = None if features is None else np.atleast_2d(np.asarray(features, dtype=np.float64))
        prior = encode(model, modality, matrix, [neighbours or {}])[0, free]
    elif features is not None:
        raise InputError(f"modality '{modality}' has no encoder, so features say nothing about '{entity}'")
    row = model.problem.resting_value(modality)
    if hyperedges or encoding is None or encoding.spec.own or encoding.spec.on == "free":
        links = _links(model, modality, [neighbours or {}], len(model.modalities[modality]))
        mean = (links @ model.factors[modality][:, free])[0] / links.sum() if links.nnz else None
        entries = {name: _entries(model, name, modality, edges) for name, edges in (hyperedges or {}).items()}
        row[free] = newcomer_row(model.problem, model.factors, modality, entries, prior, mean)
    else:
        row[free] = prior
    return _with_entity(model, modality, entity, label, row)


def _links(
    model: Model, modality: str, neighbours: Sequence[Mapping[str, float]], known: int
) -> sp.csr_array:
    """Weights (newcomers x entities ``known``)."""
    rows, columns, weights = [], [], []
    for row, own in enumerate(neighbours):
        for name, weight in own.items():
            column = find(model.modalities[modality], name)
            if column >= known:
                raise InputError(f"'{name}' came after training, so what it is a neighbour of is not known")
            if not (weight > 0 and np.isfinite(weight)):
                raise InputError(f"expected a weight above 0 for neighbour '{name}', got {weight}")
            rows.append(row)
            columns.append(column)
            weights.append(float(weight))
    return sp.csr_array((weights, (rows, columns)), shape=(len(neighbours), known))


def _entries(model: Model, relation: str, modality: str, edges: Sequence[Hyperedge]) -> SparseTensor:
    """A newcomer's hyperedges as a tensor with one row in its mode."""
    terms = model.problem.terms
    if relation not in terms or modality not in terms[relation].modalities:
        there = ", ".join(name for name, term in terms.items() if modality in term.modalities)
        raise InputError(f"no relation '{relation}' of modality '{modality}' (it has {there})")
    term = terms[relation]
    others = [m for m in term.modalities if m != modality]
    coords: dict[str, list[int]] = {m: [] for m in term.modalities}
    values = []
    for edge in edges:
        members, value = edge if isinstance(edge, tuple) else (edge, 1.0)
        if set(members) != set(others):
            raise InputError(
                f"expected {', '.join(others)} of every hyperedge, got {', '.join(members) or 'nothing'}",
                key=relation,
            )
        coords[modality].append(0)
        for m in others:
            coords[m].append(find(model.modalities[m], members[m]))
        values.append(value - term.offset)
    shape = tuple(1 if m == modality else model.problem.sizes[m] for m in term.modalities)
    ordered = in_order(
        tuple(np.array(coords[m], dtype=np.int64) for m in term.modalities), np.array(values), shape, "error"
    )
    if isinstance(ordered, Repeat):
        raise InputError(f"names the same hyperedge twice, number {ordered.second + 1}", key=relation)
    return ordered[0]


def _with_entity(model: Model, modality: str, entity: str, label: str | None, row: np.ndarray) -> Model:
    own, factor = model.modalities[modality], model.factors[modality]
    labels = None
    if own.labels is not None or label is not None:
        before = np.full(len(own), "") if own.labels is None else own.labels
        labels = np.append(before, label or "")
    size = len(own) + 1
    return replace(
        model,
        problem=replace(model.problem, sizes={**model.problem.sizes, modality: size}),
        modalities={**model.modalities, modality: Modality(modality, np.append(own.ids, entity), labels)},
        factors={**model.factors, modality: np.vstack([factor, row.astype(factor.dtype)])},
        informed={**model.informed, modality: np.append(model.informed[modality], True)},
        draws=None,
        evidence={
            name: evidence
            for name, evidence in model.evidence.items()
            if modality not in model.problem.terms[name].modalities
        },
    )
