"""The two schedules of block-coordinate training, over any executor.

Both propose a direction for all modalities and take the joint step A + alpha D with the exact
minimiser alpha of F along D, so F never rises:

- ``parallel`` (the published scheme): every block is solved from the same point. The solutions are a
  gradient preconditioned by the blocks, so successive directions are made conjugate (Polak and
  Ribiere), which reaches the same F in less than half the sweeps. With ``zero`` relations its first sweep
  is a sequential one: solved from the same start, all blocks fit the same part of the data, and
  training ended up to 0.3 % higher;
- ``sequential`` (Gauss-Seidel): each block is solved from where the ones before it arrived, the longest
  last, as F falls faster so: to the same F on Tate's tensor in 8 sweeps instead of 22.

A modality with an encoder moves its encoder's parameters, and its rows with them.

A sweep is handed the course of the one before, and keeps no part of it longer than it needs: directions are
as large as factors, and training has little else in memory.

What a sweep decides, how far its direction turns and how long its step is, steps decide where they run.
So the next sweep can be on its way before anybody has seen this one's objective.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.starts import joins
from hyperlearn_dask.training.executor import Executor, Handle, ShardPlace, entry_places
from hyperlearn_dask.training.report import SweepReport
from hyperlearn_dask.training.steps import (
    Way,
    encoded_way,
    gram_of,
    line_of_shard,
    moments_along,
    products_of_shard,
    proposal_of,
    squares_of_shard,
    step_along,
    turn_to,
)


@dataclass(frozen=True)
class Point:
    """Where training stands: handles of every factor, and its augmented Gram or a handle of it.

    ``encoded``: the ``code``, ``features`` and ``turn`` of every modality's :class:`Encoder`, if it has one.
    """

    factors: dict[str, Handle]
    grams: dict[str, Handle]
    encoded: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Course:
    """Where a sweep goes: handles of its proposals, directions and their moments, and of F's slopes.

    ``slopes``: along the proposal of each block, or their sum, the slope of F; ``codes``: the directions
    of the encoders' codes.
    """

    proposals: dict[str, Handle]
    directions: dict[str, Handle]
    moments: dict[str, Handle]
    slopes: list[Handle]
    codes: dict[str, Handle] = field(default_factory=dict)

    @property
    def from_one_point(self) -> bool:
        """Whether all its blocks were solved from one point, so that the next can be made conjugate to it."""
        return bool(self.proposals)

    def way(self, modality: str) -> Handle:
        """The direction of what a modality moves by itself: its encoder's code, or its rows."""
        return self.codes[modality] if modality in self.codes else self.directions[modality]


def sweeps(
    problem: Problem,
    executor: Executor,
    factors: dict[str, Handle],
    schedule: str,
    course: Course | None = None,
    done: int = 0,
    encoded: dict[str, dict[str, Any]] | None = None,
    squares: dict[str, float] | None = None,
) -> Iterator[tuple[SweepReport, Point, Course]]:
    """Sweep after sweep, without end: the caller decides when to stop.

    ``factors``: handles of the start values per modality, or of where ``done`` sweeps, the last one
    by ``course``, have led; ``encoded``: see :class:`Point`; ``squares``: see :func:`sum_of_squares`, which
    is asked where they are not known. The course that comes with a report is empty where no sweep needs it.
    """
    propose = {"parallel": propose_parallel, "sequential": propose_sequential}[schedule]
    squares = squares or sum_of_squares(problem, executor)
    point = replace(point_at(problem, executor, factors), encoded=encoded or {})
    handed = [] if course is None else [course]
    del factors, course
    executor.seconds.clear()
    executor.received.clear()
    under_way: deque[tuple[int, Handle, Point, Course]] = deque()
    began = time.perf_counter()
    for latest in itertools.count(done + 1):
        first = latest == 1 and any(joins(term).any() for term in problem.terms.values())
        course = (propose_sequential if first else propose)(problem, executor, point, handed)
        step = along(problem, executor, point, course, squares, f"step-{latest}")
        point = _advance(executor, problem, point, course, step)
        if course.from_one_point:
            course = replace(course, slopes=[executor.small(executor.pick(step, "slope"), 8)])
        else:  # its directions may have become the factors by now
            course = Course({}, {}, {}, [])
        under_way.append((latest, step, point, course))
        handed.append(course)
        del course
        while len(under_way) > executor.ahead(latest):
            number, step, there, way = under_way.popleft()
            alpha, parts = executor.gather([executor.pick(step, name) for name in ("alpha", "parts")])
            now = time.perf_counter()
            report = SweepReport(
                sweep=number,
                objective=sum(parts.values()),
                parts=parts,
                step=alpha,
                seconds=now - began,
                seconds_by=dict(executor.seconds),
                bytes_by=dict(executor.received),
            )
            executor.seconds.clear()
            executor.received.clear()
            yield report, there, way
            del there, way
            # Sweeps under way go on while the caller looks at the report.
            began = now if under_way else time.perf_counter()


def propose_parallel(problem: Problem, executor: Executor, point: Point, handed: list[Course]) -> Course:
    """Every block solved from the same point, made conjugate to the direction before.

    ``handed``: takes the course before, if there is one, out of this list.
    """
    proposals_before: dict[str, Handle] = {}
    ways_before: dict[str, Handle] = {}
    slope = None
    course = handed.pop() if handed else None
    if course is not None and course.from_one_point:
        proposals_before = dict(course.proposals)
        ways_before = {m: course.way(m) for m in point.factors}
        [slope] = course.slopes
    del course
    shared = _shared_products(problem, executor, point)
    proposals = {}
    for modality in point.factors:
        products = shared.pop(modality) + own_products(problem, executor, point, modality, one_pass=False)
        before = proposals_before.pop(modality, None)
        proposals[modality] = _solve(problem, executor, point, modality, products, before)
        del products, before
    slopes, turn = _slopes(executor, proposals, "slope"), None
    if slope is not None:
        previous = _slopes(executor, proposals, "previous_slope")
        turn = executor.everywhere("turn", turn_to, slopes, previous, slope)
    ways = {
        m: _way(problem, executor, point, m, p, turn, ways_before.pop(m, None)) for m, p in proposals.items()
    }
    return _course(executor, problem, proposals, ways, slopes)


def _slopes(executor: Executor, proposals: Mapping[str, Handle], name: str) -> list[Handle]:
    return [executor.small(executor.pick(p, name), 8) for p in proposals.values()]


def _course(
    executor: Executor,
    problem: Problem,
    proposals: dict[str, Handle],
    ways: dict[str, Way],
    slopes: list[Handle],
) -> Course:
    directions = {m: way.direction for m, way in ways.items()}
    moments = {m: way.moments for m, way in ways.items()}
    return Course(proposals, directions, moments, slopes, {m: ways[m].code for m in problem.encoders})


def propose_sequential(problem: Problem, executor: Executor, point: Point, handed: list[Course]) -> Course:
    """One block after the other, each from where the ones before it arrived; the course before is dropped.

    Nobody asks where the last one arrived, the longest: its rows are not moved twice.
    """
    handed.clear()
    ways = {}
    order = sorted(point.factors, key=problem.sizes.__getitem__)
    for modality in order:
        factor = point.factors[modality]
        products = all_products(problem, executor, point, modality)
        proposal = _solve(problem, executor, point, modality, products, None)
        ways[modality] = _way(problem, executor, point, modality, proposal, None, None)
        if modality != order[-1]:
            moved = executor.moved("step", modality, factor, ways[modality].direction, 1.0)
            there = point_at(
                problem, executor, {**point.factors, modality: moved}, keep=point.grams, new=modality
            )
            point = replace(there, encoded=point.encoded)
    return _course(executor, problem, {}, ways, [])


def _shared_products(problem: Problem, executor: Executor, point: Point) -> dict[str, list[Handle]]:
    """The products of all modes, over the shards where one pass gives them all."""
    products: dict[str, list[Handle]] = {m: [] for m in point.factors}
    for place in executor.places:
        if _one_pass(problem, place):
            members = problem.terms[place.relation].modalities
            of_all = _products_at(problem, executor, point, place, members, f"mttkrp-{place.name}")
            for m in members:
                products[m].append(executor.pick(of_all, m))
    return products


def own_products(
    problem: Problem, executor: Executor, point: Point, modality: str, one_pass: bool
) -> list[Handle]:
    """One modality's products, over the shards where one pass would or would not give all modes'."""
    products = []
    for place in executor.places:
        members = problem.terms[place.relation].modalities
        if (
            place.products
            and modality in members
            and place.modality in ("", modality)
            and _one_pass(problem, place) == one_pass
        ):
            name = f"{'mttkrp' if _by_mttkrp(problem, place) else 'normal'}-{modality}-{place.name}"
            of_one = _products_at(problem, executor, point, place, (modality,), name)
            products.append(executor.pick(of_one, modality))
    return products


def all_products(problem: Problem, executor: Executor, point: Point, modality: str) -> list[Handle]:
    """One modality's products, over every shard."""
    return [
        product
        for one_pass in (True, False)
        for product in own_products(problem, executor, point, modality, one_pass)
    ]


def _one_pass(problem: Problem, place: ShardPlace) -> bool:
    """Whether one pass of a shard gives the products of all modes."""
    return place.products and not place.modality and _by_mttkrp(problem, place)


def _by_mttkrp(problem: Problem, place: ShardPlace) -> bool:
    """Whether products are MTTKRPs: where observed entries weigh no more than the background."""
    return not place.holds_contexts and problem.terms[place.relation].background == 1


def _products_at(
    problem: Problem,
    executor: Executor,
    point: Point,
    place: ShardPlace,
    modalities: tuple[str, ...],
    name: str,
) -> Handle:
    members = problem.terms[place.relation].modalities
    factors = _rows_at(problem, executor, place, point.factors)
    grams = (
        {members[place.target_mode]: point.grams[members[place.target_mode]]} if place.holds_contexts else {}
    )
    return executor.at_shard(name, place, products_of_shard, problem, factors, modalities, grams)


def _rows_at(
    problem: Problem, executor: Executor, place: ShardPlace, matrices: Mapping[str, Handle]
) -> dict[str, Handle]:
    """What a shard needs of factors or directions."""
    members = problem.terms[place.relation].modalities
    return {m: executor.rows(matrices[m], place, mode) for mode, m in enumerate(members)}


def _solve(
    problem: Problem,
    executor: Executor,
    point: Point,
    modality: str,
    products: list[Handle],
    before: Handle | None,
) -> Handle:
    grams = neighbour_grams(problem, point, modality)
    factor = point.factors[modality]
    return executor.at_modality(
        f"solve-{modality}",
        modality,
        proposal_of,
        problem,
        modality,
        factor,
        products,
        grams,
        before,
        point.encoded.get(modality),
    )


def _way(
    problem: Problem,
    executor: Executor,
    point: Point,
    modality: str,
    proposal: Handle,
    turn: Handle | None,
    before: Handle | None,
) -> Way:
    """The handles of a way along a proposal, and ``turn`` times the way before if there is one."""
    name, factor = f"direction-{modality}", point.factors[modality]
    direction = executor.pick(proposal, "direction")
    if modality in problem.encoders:
        code = direction, 0.0 if turn is None else turn, before
        encoded = point.encoded[modality]
        way = executor.at_modality(name, modality, encoded_way, problem, modality, factor, *code, encoded)
        return Way(*(executor.pick(way, part) for part in ("direction", "moments", "code")))
    if turn is not None and before is not None:
        direction = executor.moved("turn", modality, direction, before, turn)
    moments = executor.at_modality(name, modality, moments_along, problem, modality, factor, direction)
    return Way(direction, moments)


def neighbour_grams(problem: Problem, point: Point, modality: str) -> dict[str, Handle]:
    """The Grams of the modalities that some relation joins with this one."""
    neighbours = {m for term in problem.terms_of(modality) for m in term.modalities} - {modality}
    return {m: point.grams[m] for m in sorted(neighbours)}


def along(
    problem: Problem,
    executor: Executor,
    point: Point,
    course: Course,
    squares: Mapping[str, float],
    name: str,
    alpha: float | None = None,
) -> Handle:
    """The :class:`..steps.Step` along a course, of the best length unless one is given."""
    lines: dict[str, list[Handle]] = {term: [] for term in problem.terms}
    backgrounds: dict[str, list[Handle]] = {term: [] for term in problem.terms}
    for place in executor.places:
        if place.modality:
            continue  # its entries are in shards too
        factors = _rows_at(problem, executor, place, point.factors)
        ways = _rows_at(problem, executor, place, course.directions)
        line = executor.at_shard(f"line-{place.name}", place, line_of_shard, problem, factors, ways)
        term = problem.terms[place.relation]
        order, width = len(term.modalities), len(term.columns)
        if place.holds_contexts:
            backgrounds[place.relation].append(executor.small(line, 8 * (2 * order - 1) * width**2))
        else:
            lines[place.relation].append(executor.small(line, 8 * (2 * order + 1)))
    moments = {m: executor.small(known, _gram_bytes(problem)) for m, known in course.moments.items()}
    given = problem, lines, backgrounds, squares, moments, course.slopes, alpha
    if alpha is not None:  # nothing is to be moved by it
        return executor.at_modality(name, next(iter(point.factors)), step_along, *given)
    return executor.everywhere(name, step_along, *given, asked=True)


def _gram_bytes(problem: Problem) -> int:
    return 8 * (problem.rank + 1) ** 2


def _advance(executor: Executor, problem: Problem, point: Point, course: Course, step: Handle) -> Point:
    """The point a step further; its Grams follow from the moments."""
    alpha = executor.small(executor.pick(step, "alpha"), 8)
    grams = executor.pick(step, "grams")
    spent = not course.from_one_point
    return Point(
        {
            m: executor.moved("step", m, factor, course.directions[m], alpha, spent=spent)
            for m, factor in point.factors.items()
        },
        {m: executor.small(executor.pick(grams, m), _gram_bytes(problem)) for m in point.factors},
        {
            m: {
                **encoded,
                "code": executor.moved("step", m, encoded["code"], course.codes[m], alpha),
                "turn": encoded["turn"] + 1,
            }
            for m, encoded in point.encoded.items()
        },
    )


def point_at(
    problem: Problem,
    executor: Executor,
    factors: dict[str, Handle],
    keep: Mapping[str, Handle] | None = None,
    new: str | None = None,
) -> Point:
    """A point with its Grams: all of them made, or only of the ``new`` factor and the others kept."""
    grams = dict(keep or {})
    for m in factors if new is None else [new]:
        gram = executor.at_modality(f"gram-{m}", m, gram_of, factors[m])
        grams[m] = executor.small(gram, _gram_bytes(problem))
    return Point(factors, grams)


def sum_of_squares(problem: Problem, executor: Executor) -> dict[str, float]:
    """Of every relation, the sum of its values' squares."""
    places = entry_places(executor)
    values = executor.gather([executor.at_shard("squares", place, squares_of_shard) for place in places])
    total = dict.fromkeys(problem.terms, 0.0)
    for place, value in zip(places, values):
        total[place.relation] += value
    return total
