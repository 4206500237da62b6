"""Posterior sampling: the sequential schedule with draws in the place of solutions (Gibbs)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside
from hyperlearn_dask.factorization.blocks import assemble
from hyperlearn_dask.factorization.draws.posterior import draw_code
from hyperlearn_dask.factorization.draws.priors import Prior, draw_precision, prior_of, with_noise
from hyperlearn_dask.factorization.objective import moments
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Product, take_columns
from hyperlearn_dask.training.executor import Executor, Handle, entry_places
from hyperlearn_dask.training.report import SweepReport
from hyperlearn_dask.training.schedule import (
    Course,
    Point,
    all_products,
    along,
    neighbour_grams,
    point_at,
    sum_of_squares,
)
from hyperlearn_dask.training.steps import Way
from hyperlearn_dask.training.weighing import Weights, drawn_weights, even_weights, weighing


@dataclass(frozen=True)
class Draw:
    """A draw: its number and report, where it is, and, of relations whose noise is drawn, its variance.

    ``codes``: handles of the codes of the modalities with an encoder; ``weights``: of relations whose noise
    is its entities', see :mod:`..factorization.draws.noise`.
    """

    report: SweepReport
    point: Point
    codes: dict[str, Handle]
    noise: dict[str, float]
    weights: Weights


@dataclass(frozen=True, eq=False)
class Drawn:
    """A modality's rows (all columns), the code that makes the free ones, and what its ridges cost."""

    factor: Array
    code: Array | None
    cost: float


def draws(
    problem: Problem,
    executor: Executor,
    point: Point,
    seed: int,
    *,
    features: Mapping[str, Handle] | None = None,
    blocks: Mapping[str, Sequence[int]] | None = None,
    sampled: bool = False,
    noise: Mapping[str, float] | None = None,
    weights: Weights | None = None,
    done: int = 0,
) -> Iterator[Draw]:
    """Draw after draw of all factors, without end; each block given the latest of the others.

    The report's objective is F at the draw, which goes up and down. The numbers depend on the seed,
    the draw and the modality, and on nothing about where they are made.

    Parameters
    ----------
    point
        Where the chain begins, or has come to, with the codes of encoders.
    features, blocks
        Of the modalities with an encoder: handles of their features, and how many of their columns belong
        together each time.
    sampled
        Whether ridges, and the noise of relations with ``absent = "unknown"``, are drawn as well.
    noise, weights, done
        The variances and weights at ``point``, and the number of the draw that it is.
    """
    squares, counts = sum_of_squares(problem, executor), _counts(problem, executor)
    weights = weights or even_weights(problem, executor)
    codes: dict[str, Handle] = {m: one["code"] for m, one in point.encoded.items()}
    priors = {
        m: executor.at_modality(
            f"prior-{m}",
            m,
            _prior,
            problem,
            m,
            (features or {}).get(m),
            tuple((blocks or {}).get(m, ())),
            sampled,
        )
        for m in point.factors
    }
    variances = dict(noise or {})
    for number in itertools.count(done + 1):
        began = time.perf_counter()
        executor.seconds.clear()
        executor.received.clear()
        before, moves = point, {}
        now, weighed = with_noise(problem, variances), weighing(executor, problem, weights)
        for index, m in enumerate(point.factors):
            drawn = executor.at_modality(
                f"draw-{m}",
                m,
                _draw,
                now,
                m,
                priors[m],
                point.factors[m],
                codes.get(m),
                all_products(now, weighed, point, m),
                neighbour_grams(now, point, m),
                (seed, number, index),
            )
            moves[m] = executor.at_modality(f"move-{m}", m, _move, now, m, before.factors[m], drawn)
            if m in codes:
                codes = {**codes, m: executor.pick(drawn, "code")}
            factors = {**point.factors, m: executor.pick(drawn, "factor")}
            point = point_at(now, executor, factors, keep=point.grams, new=m)
        if weights:
            weights = drawn_weights(now, executor, point, weights, (seed, number, len(point.factors) + 1))
            weighed = weighing(executor, problem, weights)
            squares = sum_of_squares(problem, weighed)
        directions, along_them = (
            {m: executor.pick(way, name) for m, way in moves.items()} for name in ("direction", "moments")
        )
        course = Course({}, directions, along_them, [])
        step = along(now, weighed, before, course, squares, f"objective-{number}", alpha=1.0)
        parts = executor.gather(executor.pick(step, "parts"))
        if sampled:
            variances = _noise(now, parts, counts, (seed, number, len(point.factors)))
        seconds = time.perf_counter() - began
        took, received = dict(executor.seconds), dict(executor.received)
        report = SweepReport(number, sum(parts.values()), parts, None, seconds, took, received)
        yield Draw(report, point, codes, variances, weights)


def _counts(problem: Problem, executor: Executor) -> dict[str, int]:
    """How many values each relation has that knows its own."""
    counts = dict.fromkeys((name for name, term in problem.terms.items() if term.absent == "unknown"), 0)
    for place in entry_places(executor):
        if place.relation in counts:
            counts[place.relation] += place.stop - place.start
    return counts


def _noise(
    problem: Problem, parts: Mapping[str, float], counts: Mapping[str, int], seed: tuple[int, int, int]
) -> dict[str, float]:
    """The variance of the noise of each relation, drawn given how far its values are from the draw's."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, count in counts.items():
        weight = problem.terms[name].weight
        if weight > 0 and count:
            # The term's part of F is lambda sum (x - xhat)^2.
            squares = max(parts[f"fit {name}"], 0.0) / weight
            found[name] = 1 / draw_precision(count, squares, rng)
    return found


def _prior(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    features: Any,
    blocks: tuple[int, ...],
    sampled: bool,
) -> Prior:
    return prior_of(problem, modality, laplacian, features, blocks, sampled)


def _draw(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    prior: Prior,
    factor: Array,
    code: Array | None,
    products: list[Product],
    grams: Mapping[str, np.ndarray],
    seed: tuple[int, int, int],
) -> Drawn:
    rng = np.random.default_rng(seed)
    free = beside(problem.free_columns(modality), factor)
    block = take_columns(factor, free)
    own = block if code is None else code
    ridges = prior.draw_ridges(own, rng)
    ridgeless = replace(problem, ridge=0.0)
    system = assemble(ridgeless, modality, len(factor), products, grams, factor.dtype).formed()
    mu = problem.graph_weights.get(modality, 0.0)
    block, own = draw_code(prior, system, laplacian, mu, block, own, ridges, rng)
    drawn = factor.copy()
    drawn[:, free] = block
    # 1/2 sum_bg s_bg ||Z_bg||^2
    by_row = array_module(own).asarray(prior.by_row(ridges))
    return Drawn(
        drawn, None if code is None else own, float((by_row * own.astype(np.float64) ** 2).sum()) / 2
    )


def _move(laplacian: Array | None, problem: Problem, modality: str, before: Array, drawn: Drawn) -> Way:
    direction = drawn.factor - before
    known = moments(replace(problem, ridge=0.0), modality, before, direction, laplacian)
    cost = np.array([drawn.cost, 0.0, 0.0])
    if drawn.code is None:
        return Way(direction, replace(known, ridge=cost))
    return Way(direction, replace(known, encoder=cost))
