"""Posterior sampling: the sequential schedule with draws in the place of solutions (Gibbs)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping

import numpy as np

from hyperlearn_dask.backend import Array, beside
from hyperlearn_dask.factorization.blocks import assemble
from hyperlearn_dask.factorization.objective import moments
from hyperlearn_dask.factorization.posterior import draw_block
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Product
from hyperlearn_dask.training.executor import Executor
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


def draws(
    problem: Problem, executor: Executor, point: Point, seed: int, done: int = 0
) -> Iterator[tuple[SweepReport, Point]]:
    """Draw after draw of all factors, without end; each block given the latest of the others.

    The report's objective is F at the draw, which goes up and down. The numbers depend on the seed,
    the draw and the modality, and on nothing about where they are made. ``done``: the number of the
    draw that ``point`` is.
    """
    squares = sum_of_squares(problem, executor)
    for number in itertools.count(done + 1):
        began = time.perf_counter()
        executor.seconds.clear()
        executor.received.clear()
        before, moves = point, {}
        for index, modality in enumerate(point.factors):
            factor = executor.at_modality(
                f"draw-{modality}",
                modality,
                _draw,
                problem,
                modality,
                point.factors[modality],
                all_products(problem, executor, point, modality),
                neighbour_grams(problem, point, modality),
                (seed, number, index),
            )
            moves[modality] = executor.at_modality(
                f"move-{modality}", modality, _move, problem, modality, before.factors[modality], factor
            )
            point = point_at(
                problem, executor, {**point.factors, modality: factor}, keep=point.grams, new=modality
            )
        directions, along_them = (
            {m: executor.pick(way, name) for m, way in moves.items()} for name in ("direction", "moments")
        )
        name = f"objective-{number}"
        course = Course({}, directions, along_them, [])
        step = along(problem, executor, before, course, squares, name, alpha=1.0)
        parts = executor.gather(executor.pick(step, "parts"))
        seconds = time.perf_counter() - began
        took, received = dict(executor.seconds), dict(executor.received)
        yield SweepReport(number, sum(parts.values()), parts, None, seconds, took, received), point


def _draw(
    laplacian: Array | None,
    problem: Problem,
    modality: str,
    factor: Array,
    products: list[Product],
    grams: Mapping[str, np.ndarray],
    seed: tuple[int, int, int],
) -> Array:
    system = assemble(problem, modality, len(factor), products, grams, factor.dtype)
    free = beside(problem.free_columns(modality), factor)
    mu = problem.graph_weights.get(modality, 0.0)
    drawn = factor.copy()
    drawn[:, free] = draw_block(system, laplacian, mu, factor[:, free], np.random.default_rng(seed))
    return drawn


def _move(laplacian: Array | None, problem: Problem, modality: str, before: Array, after: Array) -> Way:
    direction = after - before
    return Way(direction, moments(problem, modality, before, direction, laplacian))
