"""Questions to a trained model: which targets fit what is given, and which entities are alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.hypergraph.tensor import Modality
from hyperlearn_dask.use.lookup import find


@dataclass(frozen=True)
class Ranked:
    """One answer: an entity and its score.

    ``why``: what makes up the score, by name: the parts of :meth:`Model.ranking_parts` if one relation
    answered, the relations if several did. Empty in an answer of :func:`similar`. ``deviation``: the
    standard deviation of the score as an observation, where it was asked for.
    """

    id: str
    label: str
    score: float
    why: Mapping[str, float] = field(default_factory=dict, compare=False)
    deviation: float | None = None


@dataclass(frozen=True)
class Ranking:
    """The best answers to a question, best first.

    ``given``: the labels of what was given, per modality; ``relations``: which relations answered.
    Scores are a relation's own values if one answered (weighted sums where it has local evidence), sums
    of standard scores (mean 0, deviation 1 over the targets) if several did, cosines in an answer of
    :func:`similar`.
    """

    modality: str
    given: dict[str, str]
    relations: tuple[str, ...]
    rows: tuple[Ranked, ...]


def rank(
    model: Model,
    target: str,
    given: Mapping[str, str],
    *,
    relation: str | None = None,
    top: int = 10,
    exclude: Collection[str] = (),
    with_uncertainty: bool = False,
) -> Ranking:
    """The entities of modality ``target`` that fit best with the given ones.

    The first relation that joins the target with everything given answers. If there is none, every
    relation that joins the target with some of it does: scores of different relations have different
    units, so each relation's are standardised over the targets, and then added. Modalities of a
    relation that are not given count as their mean. Entities training knew nothing about are left out.

    Parameters
    ----------
    model
        A trained model.
    target
        The modality asked for.
    given
        An id or label per given modality.
    relation
        The relation that shall answer.
    top
        How many answers are wanted.
    exclude
        Ids or labels of targets to leave out.
    with_uncertainty
        Give every answer its standard deviation, between the posterior draws and with the relation's
        noise: see :meth:`Model.target_deviations`.

    Raises
    ------
    InputError
        When a modality, relation or entity is unknown, or no relation can use something given; with
        uncertainty, when the model has no posterior draws or the score is not one relation's own value.
    """
    asked = _modality(model, target)
    if target in given:
        raise InputError(f"'{target}' is both given and asked for")
    index = {m: find(_modality(model, m), text) for m, text in given.items()}
    names = _answering(model, target, tuple(given), relation)
    allowed = _allowed(model, target, [find(asked, text) for text in exclude], top)

    parts: dict[str, np.ndarray] = {}
    for name in names:
        members = model.problem.terms[name].modalities
        context = {m: np.array([i]) for m, i in index.items() if m in members}
        if len(names) == 1:
            parts = {part: own[0] for part, own in model.ranking_parts(name, target, context)}
        else:
            parts[name] = _standardised(model.ranking_scores(name, target, context)[0], allowed)
    deviations = _deviations(model, target, names, index) if with_uncertainty else None
    scores = np.sum(list(parts.values()), axis=0)
    labels = {m: model.modalities[m].label(i) for m, i in index.items()}
    return Ranking(target, labels, names, _best(asked, scores, allowed, top, parts, deviations))


def similar(model: Model, modality: str, entity: str, top: int = 10) -> Ranking:
    """The entities most like one of the same modality: the cosine of their factor rows.

    Only columns in which the modality has entries of its own are compared. The entity itself and
    those that training knew nothing about are left out.

    Raises
    ------
    InputError
        When the modality or entity is unknown, or training knew nothing about the entity.
    """
    asked = _modality(model, modality)
    index = find(asked, entity)
    if not model.informed[modality][index]:
        raise InputError(
            f"training knew nothing about '{asked.label(index)}' of modality '{modality}': "
            "it is in no relation and has no neighbours in a graph"
        )
    allowed = _allowed(model, modality, [index], top)
    rows = model.factors[modality][:, model.problem.free_columns(modality)]
    length = np.linalg.norm(rows, axis=1)
    scale = length * length[index]
    cosines = np.divide(rows @ rows[index], scale, out=np.zeros(len(rows)), where=scale > 0)
    return Ranking(modality, {modality: asked.label(index)}, (), _best(asked, cosines, allowed, top))


def _modality(model: Model, name: str) -> Modality:
    if name not in model.modalities:
        raise InputError(f"no modality '{name}' (the model has {', '.join(model.modalities)})")
    return model.modalities[name]


def _answering(model: Model, target: str, given: tuple[str, ...], relation: str | None) -> tuple[str, ...]:
    """The relations that answer a question."""
    members = {name: term.modalities for name, term in model.problem.terms.items()}
    if relation is not None:
        if relation not in members:
            raise InputError(f"no relation '{relation}' (the model has {', '.join(members)})")
        missing = [m for m in (target, *given) if m not in members[relation]]
        if missing:
            raise InputError(
                f"relation '{relation}' does not join '{missing[0]}' "
                f"(it joins {', '.join(members[relation])})"
            )
        return (relation,)
    complete = [name for name, joined in members.items() if {target, *given} <= set(joined)]
    if complete:
        return (complete[0],)
    partial = [name for name, joined in members.items() if target in joined and set(given) & set(joined)]
    for modality in given:
        if not any(modality in members[name] for name in partial):
            there = "; ".join(f"{name}: {', '.join(joined)}" for name, joined in members.items())
            raise InputError(f"no relation joins '{modality}' with '{target}' (relations are {there})")
    return tuple(partial)


def _deviations(
    model: Model, target: str, relations: tuple[str, ...], index: Mapping[str, int]
) -> np.ndarray:
    """The deviation of every target's score, where the score is one relation's own value."""
    if len(relations) > 1:
        raise InputError(
            f"the scores of several relations together ({', '.join(relations)}) have no uncertainty; "
            "ask one of them by name"
        )
    (relation,) = relations
    if relation in model.evidence and model.evidence[relation].target == target:
        raise InputError(f"scores of '{relation}' with local evidence have no uncertainty")
    context = {m: np.array([i]) for m, i in index.items()}
    deviations: np.ndarray = model.target_deviations(relation, target, context)[0]
    return deviations


def _allowed(model: Model, modality: str, exclude: list[int], top: int) -> np.ndarray:
    """Which entities (bool, one per entity) may be an answer."""
    if top < 1:
        raise InputError(f"{top} answers are asked for (expected 1 or more)")
    allowed = model.informed[modality].astype(bool)  # a copy
    allowed[exclude] = False
    return allowed


def _standardised(scores: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Scores with mean 0 and deviation 1 over the allowed targets; all 0 where they do not differ."""
    if not allowed.any():
        return np.zeros_like(scores)
    mean, deviation = scores[allowed].mean(), scores[allowed].std()
    return (scores - mean) / deviation if deviation > 0 else np.zeros_like(scores)


def _best(
    modality: Modality,
    scores: np.ndarray,
    allowed: np.ndarray,
    top: int,
    parts: Mapping[str, np.ndarray] | None = None,
    deviations: np.ndarray | None = None,
) -> tuple[Ranked, ...]:
    """The allowed entities with the highest scores, and why; equal ones in index order."""
    candidates = np.flatnonzero(allowed)
    order = candidates[np.argsort(-scores[candidates], kind="stable")[:top]]
    return tuple(
        Ranked(
            str(modality.ids[i]),
            modality.label(int(i)),
            float(scores[i]),
            {name: float(part[i]) for name, part in (parts or {}).items()},
            None if deviations is None else float(deviations[i]),
        )
        for i in order
    )
