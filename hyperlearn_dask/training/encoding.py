"""Encoders in training: what they begin with, whom they tell something about, what a model keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.backend import Array
from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.encoders.encoder import Encoder, starting_code
from hyperlearn_dask.factorization.encoders.encoding import Encoding, encoding_of
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import take_columns
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.training.executor import Executor, Handle


def check_encoders(encoders: Mapping[str, EncoderSpec], hypergraph: Hypergraph, draws: int) -> None:
    """Refuse an encoder that lacks what it needs."""
    for modality, spec in encoders.items():
        key = f"modalities.{modality}.encoder"
        if modality not in hypergraph.modalities:
            there = ", ".join(hypergraph.modalities)
            raise InputError(f"no modality '{modality}' (the hypergraph has {there})", key=key)
        if spec.on == "features" and modality not in hypergraph.features:
            raise InputError("is on features, and the modality has none", key=key)
        if spec.degree > 0 and modality not in hypergraph.graphs:
            raise InputError(
                f"has degree {spec.degree} and the modality no graph (degree = 0 needs none)", key=key
            )
        if draws and spec.on == "free":
            raise InputError(
                'is on free rows and has no posterior draws; train without draws, or with on = "features"',
                key=key,
            )


def held_features(
    problem: Problem, executor: Executor, hypergraph: Hypergraph, dtype: str
) -> dict[str, Handle]:
    """Handles of the features, or of None, of every modality that is encoded."""
    return {
        m: executor.hold(f"features-{m}", m, hypergraph.features[m].astype(dtype))
        if spec.on == "features"
        else None
        for m, spec in problem.encoders.items()
    }


def begin(
    problem: Problem, executor: Executor, features: Mapping[str, Handle], factors: Mapping[str, Handle]
) -> tuple[dict[str, Handle], dict[str, dict[str, Any]]]:
    """Encoders near a start: the factors that they make of it, and ``Point.encoded``."""
    encoded, made = {}, dict(factors)
    for m in problem.encoders:
        code = executor.at_modality(f"encode-{m}", m, _begin, problem, m, features[m], factors[m])
        encoded[m] = {"code": code, "features": features[m], "turn": 0}
        made[m] = executor.at_modality(f"encode-{m}", m, _encode, problem, m, encoded[m], factors[m])
    return made, encoded


def go_on(
    codes: Mapping[str, Handle], features: Mapping[str, Handle], turn: int
) -> dict[str, dict[str, Any]]:
    """Encoders as they were after ``turn`` sweeps."""
    return {m: {"code": code, "features": features[m], "turn": turn} for m, code in codes.items()}


def encodings(
    problem: Problem, executor: Executor, encoded: Mapping[str, Mapping[str, Any]]
) -> dict[str, Encoding]:
    """What a model keeps of its encoders."""
    kept: dict[str, Encoding] = executor.gather(
        {
            m: executor.at_modality(f"messages-{m}", m, _keep, problem, m, dict(one))
            for m, one in encoded.items()
        }
    )
    return kept


def described(executor: Executor, features: Mapping[str, Handle]) -> dict[str, np.ndarray]:
    """Per modality with an encoder on features, which entities (bool) have any."""
    found: dict[str, np.ndarray] = executor.gather(
        {
            m: executor.at_modality(f"described-{m}", m, _described, matrix)
            for m, matrix in features.items()
            if matrix is not None
        }
    )
    return found


def _begin(laplacian: Array | None, problem: Problem, modality: str, features: Any, factor: Array) -> Array:
    start = take_columns(factor, problem.free_columns(modality))
    return starting_code(problem.encoders[modality], laplacian, features, start, problem.ridge)


def _encode(
    laplacian: Array | None, problem: Problem, modality: str, encoded: Mapping[str, Any], factor: Array
) -> Array:
    free = problem.free_columns(modality)
    made = factor.copy()
    made[:, free] = Encoder(problem.encoders[modality], laplacian, **encoded).encode()
    return made


def _keep(laplacian: Array | None, problem: Problem, modality: str, encoded: Mapping[str, Any]) -> Encoding:
    return encoding_of(Encoder(problem.encoders[modality], laplacian, **encoded))


def _described(_: Array | None, features: sp.csr_array) -> np.ndarray:
    return np.diff(features.indptr) > 0
