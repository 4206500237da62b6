"""What a sweep of the parallel schedule costs, from sizes alone: work, traffic and memory of its steps.

With s bytes per number, n_m entities, f_m free columns of a modality, R_p columns of a relation of
order K and z_p entries, per sweep:

==========  =========================================================================================
step        work
==========  =========================================================================================
products    per entry and mode but the sort mode a row read and a row of the output read and written,
            3 R s, anywhere in tables of 2 n_m R s; K - 1 indices and the value in order; per row of the
            sort mode 2 R s. Where zeros weigh otherwise, per entry and mode f^2 / 2 multiply-adds, and
            n_m f^2 s written
line        per entry and mode but the sort mode two rows read, of factor and direction, in tables of
            2 n_m R s; indices, value and the sort mode's rows as above; R K (K + 1) / 2 multiply-adds
solve       per arriving product 4 n f s; 2 n f^2 multiply-adds; with a graph of l links
            1 + DEGREE products with L, each l rows of f s anywhere in n f s. Rows with Grams of their
            own: per product 3 n f^2 s, and n f^3 / 6 multiply-adds (with a graph ITERATIONS n f^2)
direction   3 n R^2 multiply-adds for its Grams, 9 n R s in order; two products with L; 3 n R s for the
            rows that a shard elsewhere keeps
step        3 n R s at the owner, and as much for the rows that a shard elsewhere keeps
==========  =========================================================================================

From holder to owner go the products, rows x f (and, where rows have Grams of their own, rows x f^2 or what
those are made from); from
owner to holder the rows of the proposal. Factors go once: a shard turns and moves its rows by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hyperlearn_dask.factorization.kernels.cpu import FORMED_AT_ONCE
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.training.executor import ShardPlace

INDEX = 4  # bytes of a coordinate, and of a link's column
TOUCH = 128  # what going to a row costs besides its bytes, in bytes
# What only the data decide: the degree of the filter that solves a block with a graph, the steps of
# conjugate gradients where rows have Grams of their own too.
DEGREE = 8
ITERATIONS = 10
# A loop over single numbers, as the normal equations', to one over registers full of them.
SCALAR = 3.0


@dataclass(frozen=True)
class Counts:
    """How much there is: entries per relation, and stored entries of L per modality with a graph."""

    entries: Mapping[str, int]
    links: Mapping[str, int] = field(default_factory=dict)
    itemsize: int = 8  # s


@dataclass(frozen=True)
class Work:
    """Bytes in order, rows anywhere as (bytes of the tables, bytes of rows), multiply-adds x bytes of one."""

    streamed: float = 0.0
    gathered: tuple[tuple[float, float], ...] = ()
    arithmetic: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.streamed + other.streamed,
            self.gathered + other.gathered,
            self.arithmetic + other.arithmetic,
        )

    def times(self, factor: float) -> Work:
        gathered = tuple((table, factor * rows) for table, rows in self.gathered)
        return Work(factor * self.streamed, gathered, factor * self.arithmetic)


@dataclass(frozen=True)
class Machine:
    """What a worker can do, and what ties it to others.

    ``gather``: rates by the size of the tables that rows come from, (bytes, bytes per second), sizes
    rising; between two of them the rate is interpolated.
    """

    stream: float  # bytes per second, read or written in order
    gather: tuple[tuple[float, float], ...]
    arithmetic: float  # multiply-adds per second x bytes per number
    link: float = 1.25e9  # bytes per second in, and as many out
    task: float = 0.7e-3  # seconds of the driver and scheduler per task
    memory: float = 16e9  # bytes
    base: float = 0.25e9  # bytes that a worker has before it has any data
    # Seconds from a step's end until what waits for it, through Dask, begins: a third of a sweep of tiny
    # tensors on two workers of a host with two cores. On one twice as fast it was 12 ms.
    hop: float = 22e-3
    by_row: bool = True  # whether kernels go along the rows of the longest mode

    def seconds(self, work: Work) -> dict[str, float]:
        """Seconds by what they are spent on."""
        sizes, rates = (np.log([float(v) for v in column]) for column in zip(*self.gather))
        gathering = sum(
            rows / np.exp(np.interp(np.log(max(table, 1.0)), sizes, rates)) for table, rows in work.gathered
        )
        return {
            "rows from memory": float(gathering),
            "memory in order": work.streamed / self.stream,
            "arithmetic": work.arithmetic / self.arithmetic,
        }

    def total(self, work: Work) -> float:
        return sum(self.seconds(work).values())


# One core of a server of 2023, measured. Placement weighs steps by it: on whatever machine, the same.
NOMINAL = Machine(2.5e10, ((1e6, 8e10), (5e6, 3.5e10), (2e7, 2e10), (6e7, 9e9)), 1.6e11)


# Shards.


def products_work(problem: Problem, counts: Counts, place: ShardPlace) -> Work:
    """Of the products that a shard forms in a sweep."""
    if not place.products:
        return Work()
    term = problem.terms[place.relation]
    members = [place.modality] if place.modality else list(term.modalities)
    if place.holds_contexts:
        return _contexts_products(problem, counts, term, place, members)
    if term.background == 1:
        return _mttkrp(problem, counts, term, place, members)
    return sum((_normal(problem, counts, term, place, m) for m in members), Work())


def line_work(problem: Problem, counts: Counts, place: ShardPlace) -> Work:
    """Of a shard's part of F along the step."""
    if place.modality:
        return Work()
    term, s = problem.terms[place.relation], counts.itemsize
    used = len(term.columns)
    if place.holds_contexts:
        degree = len(term.modalities)  # coefficients of z(alpha): one per context mode, and one more
        passes = degree * (degree + 1) / 2
        return Work(entries_of(place) * used * s * 3 * degree, (), entries_of(place) * passes * used**2 * s)
    row, order = used * s, len(term.modalities)
    others = [m for mode, m in enumerate(term.modalities) if mode != place.sort_mode]
    rows = sum(problem.sizes[m] for m in others)
    in_order = entries_of(place) * (INDEX * len(others) + s) + 2 * row * place.rows
    gathered = ((2 * rows * row, entries_of(place) * (2 * row + TOUCH) * len(others)),)
    walk = Work(in_order, gathered, entries_of(place) * row * order * (order + 1) / 2)
    if term.background == 1:
        return walk
    # One number at a time: the polynomial of every column, and its square.
    steps = order**2 * used
    return walk + Work(arithmetic=SCALAR * entries_of(place) * steps * s)


def entries_of(place: ShardPlace) -> int:
    """Of a shard; contexts are at most as many."""
    return place.stop - place.start


def shard_modalities(problem: Problem, place: ShardPlace) -> tuple[str, ...]:
    """The modalities whose rows a shard reads."""
    return problem.terms[place.relation].modalities


def _mttkrp(problem: Problem, counts: Counts, term: Term, place: ShardPlace, wanted: list[str]) -> Work:
    row = len(term.columns) * counts.itemsize
    others = [m for mode, m in enumerate(term.modalities) if mode != place.sort_mode]
    rows = sum(problem.sizes[m] for m in others)
    touched = sum(row + 2 * row * (m in wanted) + TOUCH for m in others)
    in_order = entries_of(place) * (INDEX * len(others) + counts.itemsize) + 2 * row * place.rows
    private = sum(3 * problem.sizes[m] * row for m in others if m in wanted)
    return Work(in_order + private, ((2 * rows * row, entries_of(place) * touched),))


def _normal(problem: Problem, counts: Counts, term: Term, place: ShardPlace, modality: str) -> Work:
    s, entries = counts.itemsize, entries_of(place)
    row, f = len(term.columns) * s, len(term.free(term.mode(modality)))
    others = [m for m in term.modalities if m != modality]
    tables = sum(problem.sizes[m] * row for m in others)
    written = product_bytes(problem, counts, place, modality)
    return Work(
        entries * (INDEX * len(others) + s) + 2 * written,
        ((tables, entries * len(others) * (row + TOUCH)),),
        SCALAR * entries * (f * f / 2 + 2 * row / s) * s,
    )


def _contexts_products(
    problem: Problem, counts: Counts, term: Term, place: ShardPlace, wanted: list[str]
) -> Work:
    s, contexts, used = counts.itemsize, entries_of(place), len(term.columns)
    work = Work()
    for m in wanted:
        if term.mode(m) == term.target_mode:
            work += Work(3 * contexts * used * s, (), contexts * used * used * s)
        else:
            written = product_bytes(problem, counts, place, m)
            arithmetic = SCALAR * used * used * s * (contexts / 2 + rows_of(problem, place, m))
            work += Work(2 * written, (), arithmetic)
    return work


# Owners.


def solve_work(problem: Problem, counts: Counts, modality: str, products: float) -> Work:
    """Of a block: ``products`` for so many times its rows added up, then solved."""
    n, s, f = problem.sizes[modality], counts.itemsize, len(problem.free_columns(modality))
    links, mu = counts.links.get(modality, 0), problem.graph_weights.get(modality, 0.0)
    graph = _graph_product(n, f, links, s) if mu > 0 and links else Work()
    adding = Work((1 + 4 * products) * n * f * s)
    if not rows_have_grams(problem, modality):
        solving = Work(4 * n * f * s, (), 2 * n * f * f * s)
        return adding + solving + graph.times(1 + DEGREE)
    held = grams_held(problem, counts, modality, n)
    adding += Work((1 + 3 * products) * held)
    steps = ITERATIONS if mu > 0 and links else 1
    arithmetic = SCALAR * n * f**3 / 6 + 2 * steps * n * f * f
    return adding + Work((1 + steps) * held, (), arithmetic * s) + graph.times(1 + steps)


def direction_work(problem: Problem, counts: Counts, modality: str) -> Work:
    """Of a modality's direction and its moments."""
    n, s, rank = problem.sizes[modality], counts.itemsize, problem.rank
    links, mu = counts.links.get(modality, 0), problem.graph_weights.get(modality, 0.0)
    graph = _graph_product(n, len(problem.free_columns(modality)), links, s) if mu > 0 and links else Work()
    return Work(9 * n * rank * s, (), 3 * n * rank * rank * s) + graph.times(2)


def step_work(problem: Problem, counts: Counts, modality: str) -> Work:
    """Of A + alpha D at the owner."""
    return Work(3 * problem.sizes[modality] * problem.rank * counts.itemsize)


def block_work(problem: Problem, counts: Counts, modality: str) -> Work:
    """All that an owner does for a modality in a sweep, one product for each of its relations."""
    return (
        solve_work(problem, counts, modality, len(problem.terms_of(modality)))
        + direction_work(problem, counts, modality)
        + step_work(problem, counts, modality)
    )


def rows_have_grams(problem: Problem, modality: str) -> bool:
    """Whether every row of the block has an H_i of its own."""
    return any(
        (term.absent == "context" and term.mode(modality) != term.target_mode) or term.background != 1
        for term in problem.terms_of(modality)
    )


def _graph_product(n: int, f: int, links: int, s: int) -> Work:
    return Work(links * (s + INDEX) + 3 * n * f * s, ((n * f * s, links * (f * s + TOUCH)),))


# Traffic.


def rows_of(problem: Problem, place: ShardPlace, modality: str) -> int:
    """How many rows of a modality a shard reads and has products for."""
    mode = problem.terms[place.relation].mode(modality)
    return place.rows if mode == place.sort_mode else problem.sizes[modality]


def rows_bytes(problem: Problem, counts: Counts, place: ShardPlace, modality: str) -> int:
    """Of the rows of a modality's factor, or proposal, that a shard reads."""
    return rows_of(problem, place, modality) * problem.rank * counts.itemsize


def product_bytes(problem: Problem, counts: Counts, place: ShardPlace, modality: str) -> int:
    """Of what a shard gives for a modality's block."""
    if not place.products or place.modality not in ("", modality):
        return 0
    term, s = problem.terms[place.relation], counts.itemsize
    f = len(term.free(term.mode(modality)))
    if place.holds_contexts and term.mode(modality) == term.target_mode:
        return f * f * 8
    own_gram = place.holds_contexts or term.background != 1
    right = rows_of(problem, place, modality) * f * s
    return right + own_gram * _gram_bytes(problem, counts, place, modality)


def _gram_bytes(problem: Problem, counts: Counts, place: ShardPlace, modality: str) -> int:
    """Of the Grams of rows, or, where those are large and larger than it, of what they are made from."""
    term, s = problem.terms[place.relation], counts.itemsize
    f, rows = len(term.free(term.mode(modality))), rows_of(problem, place, modality)
    others = [m for mode, m in enumerate(term.modalities) if m != modality and mode != place.target_mode]
    tables = sum(rows_of(problem, place, m) for m in others) * f * s
    made_from = entries_of(place) * (INDEX * len(others) + 8) + 8 * rows + tables
    return min(rows * f * f * s, max(FORMED_AT_ONCE, made_from))


def grams_held(problem: Problem, counts: Counts, modality: str, rows: int) -> int:
    """Bytes of the Grams of so many rows that an owner holds: few that a workspace serves for instead."""
    if not rows_have_grams(problem, modality):
        return 0
    held = rows * len(problem.free_columns(modality)) ** 2 * counts.itemsize
    apart = problem.graph_weights.get(modality, 0.0) == 0 and modality not in problem.encoders
    return min(held, FORMED_AT_ONCE) if apart else held


def traffic(problem: Problem, counts: Counts, place: ShardPlace) -> dict[str, int]:
    """Bytes a sweep sends between a shard and the owner of each of its modalities, if they are apart."""
    return {
        m: product_bytes(problem, counts, place, m) + rows_bytes(problem, counts, place, m)
        for m in shard_modalities(problem, place)
    }
