"""A trained model as a Zarr store: everything needed to use it, and where it came from.

``modalities/<m>`` holds ``ids``, ``labels`` (if there are any), ``factor`` (entities x rank), ``informed``
and, where training made some, ``draws`` (the rows of one posterior draw after the other); the root's
attributes hold the problem, the targets, the history and what training was asked for (``fingerprint``,
``settings``). ``evidence/<p>``, where relation p has local evidence, holds ``popularity``, a group per
table of shares (its ``keys`` and CSR arrays), one per graph that votes and one for the likeness of
contexts; its attributes the weights. ``encoders/<m>``, where modality m has an encoder, holds ``thetas``
(one below the other) and ``messages``; what it is like is in the problem. ``noise/<p>``, where entities
differ in the noise of relation p, holds an array per modality.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.encoders.encoding import Encoding
from hyperlearn_dask.factorization.local.evidence import Evidence
from hyperlearn_dask.factorization.local.likeness import Likeness
from hyperlearn_dask.factorization.local.regression import Regression
from hyperlearn_dask.factorization.local.shares import Shares
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.hypergraph.tensor import Modality

if TYPE_CHECKING:
    import zarr

FORMAT = "hyperlearn-model"


def save_model(model: Model, path: str | Path, *, fingerprint: str, settings: Mapping[str, Any]) -> None:
    """Write a model, whole or not at all; a model that was there before is replaced.

    Parameters
    ----------
    model
        The model.
    path
        The store, a folder.
    fingerprint
        A hash of all that the model follows from; a stage compares it to see whether it is up to date.
    settings
        What training was asked for, to be shown to a person: anything JSON can hold.
    """
    from hyperlearn_dask.storage import create_artefact, replacing, write_array

    with replacing(Path(path)) as staging:
        root = create_artefact(staging, FORMAT)
        described = {
            "fingerprint": fingerprint,
            "settings": settings,
            "problem": _describe(model.problem),
            "targets": model.targets,
            "history": model.history,
        }
        root.attrs.update(json.loads(json.dumps(described, default=_plain)))
        for name, modality in model.modalities.items():
            group = root.create_group(f"modalities/{name}")
            write_array(group, "ids", modality.ids)
            if modality.labels is not None:
                write_array(group, "labels", modality.labels)
            write_array(group, "factor", model.factors[name])
            write_array(group, "informed", model.informed[name].astype(np.uint8))
            if model.draws is not None:
                write_array(group, "draws", model.draws[name].reshape(-1, model.problem.rank))
        for name, evidence in model.evidence.items():
            _write_evidence(root.create_group(f"evidence/{name}"), evidence)
        for name, by_modality in model.noise.items():
            group = root.create_group(f"noise/{name}")
            for m, variances in by_modality.items():
                write_array(group, m, variances)
        for name, encoding in model.encoders.items():
            group = root.create_group(f"encoders/{name}")
            write_array(group, "thetas", encoding.thetas.reshape(-1, encoding.thetas.shape[2]))
            write_array(group, "messages", encoding.messages)


def open_model(path: str | Path) -> Model:
    """Read a model.

    Raises
    ------
    InputError
        When there is no model at ``path``, or a damaged one.
    """
    from hyperlearn_dask.storage import child_group, open_artefact, read_array

    root = open_artefact(Path(path), FORMAT)
    attrs: dict[str, Any] = root.attrs.asdict()
    try:
        problem = _rebuild(attrs["problem"])
        targets, history = dict(attrs["targets"]), tuple(attrs["history"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, "its attributes do not describe a factorisation problem") from error
    modalities, factors, informed, draws = {}, {}, {}, {}
    for name, size in problem.sizes.items():
        group = child_group(root, f"modalities/{name}")
        labels = read_array(group, "labels") if "labels" in group else None
        modalities[name] = Modality(name, read_array(group, "ids"), labels)
        factors[name] = read_array(group, "factor")
        informed[name] = read_array(group, "informed").astype(bool)
        if factors[name].shape != (size, problem.rank) or not (
            len(modalities[name]) == len(informed[name]) == size
        ):
            raise _damaged(path, f"the arrays of modality '{name}' do not fit its {size} entities")
        if "draws" in group:
            draws[name] = read_array(group, "draws").reshape(-1, size, problem.rank)
    evidence = {}
    if "evidence" in root:
        for name in child_group(root, "evidence").group_keys():
            try:
                evidence[name] = _read_evidence(child_group(root, f"evidence/{name}"))
            except (KeyError, TypeError, ValueError) as error:
                raise _damaged(path, f"the local evidence of relation '{name}' is not whole") from error
    encoders = {
        name: _read_encoding(path, child_group(root, f"encoders/{name}"), problem, name)
        for name in problem.encoders
    }
    noise = {
        name: {m: read_array(child_group(root, f"noise/{name}"), m) for m in term.noise}
        for name, term in problem.terms.items()
        if term.noise and draws
    }
    return Model(
        problem, modalities, factors, informed, targets, history, draws or None, evidence, encoders, noise
    )


def model_attrs(path: str | Path) -> dict[str, Any]:
    """What a stored model says about itself: ``fingerprint``, ``settings``, ``problem``, ``history`` …

    Raises
    ------
    InputError
        When there is no model at ``path``.
    """
    from hyperlearn_dask.storage import open_artefact

    return dict(open_artefact(Path(path), FORMAT).attrs)


def _describe(problem: Problem) -> dict[str, Any]:
    """A problem as JSON; groups as pairs, since their order is that of the columns."""
    return {
        "sizes": problem.sizes,
        "groups": list(problem.groups.items()),
        "terms": {
            name: {field.name: getattr(term, field.name) for field in dataclasses.fields(term)}
            for name, term in problem.terms.items()
        },
        "graph_weights": problem.graph_weights,
        "ridge": problem.ridge,
        "encoders": {name: dataclasses.asdict(spec) for name, spec in problem.encoders.items()},
    }


def _rebuild(described: Mapping[str, Any]) -> Problem:
    terms = {}
    for name, term in described["terms"].items():
        arrays = {key: np.array(term[key], dtype=bool) for key in ("used", "coupled")}
        tuples = {key: tuple(term.get(key, ())) for key in ("modalities", "noise")}
        terms[name] = Term(**{**term, **arrays, **tuples})
    groups = {name: int(width) for name, width in described["groups"]}
    return Problem(
        dict(described["sizes"]),
        groups,
        terms,
        dict(described["graph_weights"]),
        float(described["ridge"]),
        {
            name: EncoderSpec(**{**spec, "features": ()})
            for name, spec in described.get("encoders", {}).items()
        },
    )


def _read_encoding(path: str | Path, group: zarr.Group, problem: Problem, modality: str) -> Encoding:
    from hyperlearn_dask.storage import read_array

    spec, width = problem.encoders[modality], len(problem.free_columns(modality))
    thetas, messages = read_array(group, "thetas"), read_array(group, "messages")
    if thetas.ndim != 2 or thetas.shape[1] != width or len(thetas) % (spec.degree + 1):
        raise _damaged(path, f"the encoder of modality '{modality}' does not fit its columns")
    if messages.ndim != 2 or messages.shape[1] != width or len(messages) > problem.sizes[modality]:
        raise _damaged(path, f"the encoder of modality '{modality}' does not fit its entities")
    return Encoding(spec, thetas.reshape(spec.degree + 1, -1, width), messages)


def _write_evidence(group: zarr.Group, evidence: Evidence) -> None:
    from hyperlearn_dask.storage import write_array

    group.attrs.update({"target": evidence.target, "weights": evidence.weights})
    write_array(group, "popularity", evidence.popularity)
    for number, shares in enumerate(evidence.shares):
        _write_shares(group.create_group(f"shares/{number}"), shares)
    for modality, votes in evidence.votes.items():
        _write_table(group.create_group(f"votes/{modality}"), votes)
    if evidence.likeness is not None:
        _write_likeness(group.create_group("likeness"), evidence.likeness)


def _read_evidence(group: zarr.Group) -> Evidence:
    from hyperlearn_dask.storage import child_group, read_array

    parts = child_group(group, "shares")
    numbers = range(len(list(parts.group_keys())))
    shares = tuple(_read_shares(child_group(parts, str(number))) for number in numbers)
    votes = {}
    if "votes" in group:
        ballots = child_group(group, "votes")
        votes = {modality: _read_table(child_group(ballots, modality)) for modality in ballots.group_keys()}
    own: dict[str, Any] = group.attrs.asdict()
    popularity = read_array(group, "popularity")
    likeness = _read_likeness(child_group(group, "likeness")) if "likeness" in group else None
    return Evidence(own["target"], popularity, shares, votes, likeness, dict(own["weights"]))


def _write_likeness(group: zarr.Group, likeness: Likeness) -> None:
    from hyperlearn_dask.storage import write_array

    for modality, profile in likeness.profiles.items():
        _write_table(group.create_group(f"profiles/{modality}"), profile)
    if likeness.known is not None:
        _write_shares(group.create_group("known"), likeness.known)
    _write_shares(group.create_group("voters"), likeness.voters)
    _write_table(group.create_group("described"), likeness.described)
    _write_table(group.create_group("links"), likeness.regression.links)
    if likeness.regression.bias is not None:
        write_array(group, "bias", likeness.regression.bias)


def _read_likeness(group: zarr.Group) -> Likeness:
    from hyperlearn_dask.storage import child_group, read_array

    profiles = {}
    if "profiles" in group:
        below = child_group(group, "profiles")
        profiles = {modality: _read_table(child_group(below, modality)) for modality in below.group_keys()}
    return Likeness(
        profiles,
        _read_shares(child_group(group, "known")) if "known" in group else None,
        _read_shares(child_group(group, "voters")),
        _read_table(child_group(group, "described")),
        Regression(
            _read_table(child_group(group, "links")), read_array(group, "bias") if "bias" in group else None
        ),
    )


def _write_shares(group: zarr.Group, shares: Shares) -> None:
    from hyperlearn_dask.storage import write_array

    group.attrs.update({"modalities": shares.modalities, "sizes": [int(size) for size in shares.sizes]})
    write_array(group, "keys", shares.keys)
    _write_table(group, shares.table)


def _read_shares(group: zarr.Group) -> Shares:
    from hyperlearn_dask.storage import read_array

    attrs: dict[str, Any] = group.attrs.asdict()
    keys = read_array(group, "keys")
    return Shares(tuple(attrs["modalities"]), tuple(attrs["sizes"]), keys, _read_table(group))


def _write_table(group: zarr.Group, table: sp.csr_array) -> None:
    from hyperlearn_dask.storage import write_array

    group.attrs["shape"] = [int(size) for size in table.shape]
    for name in ("data", "indices", "indptr"):
        write_array(group, name, getattr(table, name))


def _read_table(group: zarr.Group) -> sp.csr_array:
    from hyperlearn_dask.storage import read_array

    arrays = tuple(read_array(group, name) for name in ("data", "indices", "indptr"))
    shape: Any = group.attrs["shape"]
    return sp.csr_array(arrays, shape=tuple(shape))


def _plain(value: object) -> object:
    """What JSON does not know: NumPy's numbers and arrays, paths, mappings that are no dicts."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be stored with a model")


def _damaged(path: str | Path, problem: str) -> InputError:
    return InputError(f"{problem}; train the model again", file=path)
