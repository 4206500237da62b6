"""The steps of a sweep: module-level functions of a place's data (a shard or a Laplacian) and of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside, to_host
from hyperlearn_dask.factorization.blocks import assemble, descent
from hyperlearn_dask.factorization.encoders import encoder as encoders
from hyperlearn_dask.factorization.encoders.encoder import Encoder
from hyperlearn_dask.factorization.grams import augmented_gram, moved
from hyperlearn_dask.factorization.objective import (
    Moments,
    at_step,
    best_step,
    gram_along,
    moments,
    objective_line,
)
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Product, Shard, take_columns

AT_ONCE = 1 << 20  # values of a relation that are copied to float64
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
    """A modality's direction, what F needs to know along it, its encoder's if any; or handles of these."""

    direction: Array
    moments: Moments
    code: Array | None = None


@dataclass(frozen=True)
class Step:
    """How far a sweep goes: alpha, the summands of F there, and the augmented Gram of every modality.

    ``slope``: that of F along the proposals.
    """

    alpha: float
    parts: dict[str, float]
    grams: dict[str, np.ndarray]
    slope: float


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
    return to_host(shard.line(problem, factors, directions))


def squares_of_shard(shard: Shard) -> float:
    """Infinite where they are too large."""
    with np.errstate(over="ignore"):
        return sum(shard.each(lambda part: _sum_of_squares(part.tensor.values)))


def _sum_of_squares(values: Array) -> float:
    """In float64, some at a time: a copy of all would be as large as what training holds."""
    parts = (values[at : at + AT_ONCE].astype(np.float64) for at in range(0, len(values), AT_ONCE))
    return sum(float((part**2).sum()) for part in parts)


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
                system.formed(),
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


def moments_along(
    laplacian: Array | None, problem: Problem, modality: str, factor: Array, direction: Array
) -> Moments:
    return moments(problem, modality, factor, direction, laplacian)


def encoded_way(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    factor: Array,
    proposal: Array,
    turn: float,
    before: Array | None,
    encoded: Mapping[str, Any],
) -> Way:
    """The way of an encoder's rows; its code goes along its proposal and ``turn`` times its way before."""
    encoder = Encoder(problem.encoders[modality], laplacian, **encoded)
    code, free = proposal, beside(problem.free_columns(modality), factor)
    if before is not None and turn != 0 and encoder.conjugable:
        code = moved(proposal, turn, before)
    direction = spread(encoder.along(code), factor, free)
    known = moments(problem, modality, factor, direction, laplacian)
    return Way(direction, replace(known, encoder=encoders.cost(encoder, code, problem.ridge)), code)


def turn_to(
    _: Array | None, slopes: Sequence[float], previous_slopes: Sequence[float], before: float
) -> float:
    """How much of the direction before makes a proposal conjugate to it, after Polak and Ribiere.

    ``slopes``, ``previous_slopes``: of each block along its proposal, and along the one before;
    ``before``: what F's slope along the latter was then.
    """
    # beta = max(0, <g, P - P_before> / <g_before, P_before>)
    return max(0.0, (sum(slopes) - sum(previous_slopes)) / before) if before > 0 else 0.0


def step_along(
    _: Array | None,
    problem: Problem,
    lines: Mapping[str, Sequence[np.ndarray]],
    backgrounds: Mapping[str, Sequence[np.ndarray]],
    squares: Mapping[str, float],
    by_modality: Mapping[str, Moments],
    slopes: Sequence[float],
    alpha: float | None,
) -> Step:
    """The step along all directions, of the best length unless one is given."""
    summands = objective_line(problem, lines, backgrounds, squares, by_modality)
    best = best_step(summands) if alpha is None else alpha
    grams = {m: gram_along(of_one, best) for m, of_one in by_modality.items()}
    return Step(best, at_step(summands, best), grams, float(sum(slopes)))


def gram_of(_: Array | None, factor: Array) -> np.ndarray:
    return augmented_gram(factor)


# The steps that can be made for rows of a modality apart, where it has neither graph nor encoder; and which
# fields of what they give have a row for each entity. All else that they give adds up over the rows.
BY_ROWS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    proposal_of: ("direction",),
    moments_along: (),
    gram_of: (),
}
