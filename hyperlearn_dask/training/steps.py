"""The steps of a sweep: module-level functions of a place's data (a shard or a Laplacian) and of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside
from hyperlearn_dask.factorization import encoder as encoders
from hyperlearn_dask.factorization.blocks import assemble, descent
from hyperlearn_dask.factorization.encoder import Encoder
from hyperlearn_dask.factorization.grams import augmented_gram, moved
from hyperlearn_dask.factorization.objective import Moments, moments
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Product, Shard, take_columns

# Relative residual to which blocks are solved for a direction.
WAY_TOLERANCE = 1e-3
# The same of encoders, or 50 roundings: where conjugate gradients stop, one iteration sooner or later for the
# order of a sum, must make no difference that sweeps could carry on.
ENCODER_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Proposal:
    """A block's way to its solution, and what F's slope there is.

    ``direction``: of the rows, or of the encoder's code; ``slope``: <-gradient, direction>;
    ``previous_slope``: the same along the sweep before's proposal, 0 where there is none.
    """

    direction: Array
    slope: float
    previous_slope: float


@dataclass(frozen=True)
class Way:
    """A modality's direction, what F needs to know along it, and its encoder's if it has one."""

    direction: Array
    moments: Moments
    code: Array | None = None


def products_of_shard(
    shard: Shard,
    problem: Problem,
    factors: Mapping[str, Array],
    modalities: tuple[str, ...],
    grams: Mapping[str, np.ndarray],
) -> dict[str, Product]:
    return shard.products(problem, factors, modalities, grams)


def line_of_shard(
    shard: Shard, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
) -> np.ndarray:
    return shard.line(problem, factors, directions)


def squares_of_shard(shard: Shard) -> float:
    return sum(float((part.tensor.values.astype(np.float64) ** 2).sum()) for part in shard.parts())


def proposal_of(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    factor: Array,
    products: list[Product],
    grams: Mapping[str, np.ndarray],
    before: Proposal | None,
    encoded: Mapping[str, Any] | None,
) -> Proposal:
    system = assemble(problem, modality, len(factor), products, grams, factor.dtype)
    mu = problem.graph_weights.get(modality, 0.0)
    free = beside(problem.free_columns(modality), factor)
    if encoded is not None:
        return Proposal(
            *encoders.descent(
                Encoder(problem.encoders[modality], laplacian, **encoded),
                system,
                mu,
                problem.ridge,
                take_columns(factor, free),
                None if before is None else before.direction,
                max(ENCODER_TOLERANCE, 50 * float(np.finfo(factor.dtype).eps)),
            )
        )
    # The step along the way is exact, so the way itself need not be.
    way, slope, previous_slope = descent(
        system,
        laplacian,
        mu,
        take_columns(factor, free),
        None if before is None else take_columns(before.direction, free),
        WAY_TOLERANCE,
    )
    return Proposal(spread(way, factor, free), slope, previous_slope)


def spread(way: Array, factor: Array, free: Array) -> Array:
    """A direction of the free columns as one of all."""
    if len(free) == factor.shape[1]:
        return way
    direction = array_module(factor).zeros_like(factor)
    direction[:, free] = way
    return direction


def way_along(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    factor: Array,
    proposal: Array,
    beta: float,
    before: Array | None,
    encoded: Mapping[str, Any] | None,
) -> Way:
    encoder = None if encoded is None else Encoder(problem.encoders[modality], laplacian, **encoded)
    direction = proposal
    if before is not None and beta != 0 and (encoder is None or encoder.conjugable):
        direction = moved(proposal, beta, before)
    if encoder is None:
        return Way(direction, moments(problem, modality, factor, direction, laplacian))
    code, free = direction, beside(problem.free_columns(modality), factor)
    direction = spread(encoder.along(code), factor, free)
    known = moments(problem, modality, factor, direction, laplacian)
    return Way(direction, replace(known, encoder=encoders.cost(encoder, code, problem.ridge)), code)


def gram_of(_: Array | None, factor: Array) -> np.ndarray:
    return augmented_gram(factor)
