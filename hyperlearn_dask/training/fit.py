"""Training from beginning to end: a hypergraph and a problem in, a model out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperlearn_dask.backend import Array, Device, array_module, to_device, to_host
from hyperlearn_dask.config import EncoderSpec, RelationSpec, TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import Problem, TermSettings, build_problem
from hyperlearn_dask.factorization.shards import EntryShard
from hyperlearn_dask.factorization.starts import SAMPLE, start_factors
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.checkpoint import Checkpoints, State
from hyperlearn_dask.training.encoding import (
    begin,
    check_encoders,
    described,
    encodings,
    go_on,
    held_features,
)
from hyperlearn_dask.training.executor import Executor, Handle, LocalExecutor, Setting, ShardPlace, held
from hyperlearn_dask.training.recovery import SafePoints, over_losses
from hyperlearn_dask.training.report import OnSweep, SweepReport
from hyperlearn_dask.training.sampling import draws
from hyperlearn_dask.training.schedule import Course, Point, point_at, sweeps
from hyperlearn_dask.training.steps import Proposal

if TYPE_CHECKING:
    from distributed import Client

# Posterior draws that a model keeps at most.
KEPT_DRAWS = 100
# Sweeps that must bring too little before training stops.
PATIENCE = 3


def problem_of(
    hypergraph: Hypergraph,
    relations: Mapping[str, RelationSpec | TermSettings],
    training: TrainingSpec,
    graph_weights: Mapping[str, float],
    encoders: Mapping[str, EncoderSpec] | None = None,
) -> Problem:
    """The objective for a hypergraph: an offset of ``"mean"`` becomes the mean of the values.

    ``graph_weights``: mu_m; modalities without a graph are left out. ``encoders``: by modality.
    """
    check_encoders(encoders or {}, hypergraph, training.draws)
    terms = {}
    for name, spec in relations.items():
        offset = hypergraph.relations[name].mean if spec.offset == "mean" else float(spec.offset)
        terms[name] = TermSettings(
            spec.absent,
            spec.weight,
            spec.interactions,
            offset,
            spec.target,
            spec.absent_weight,
        )
    return build_problem(
        {m: len(entities) for m, entities in hypergraph.modalities.items()},
        {name: relation.modalities for name, relation in hypergraph.relations.items()},
        terms,
        training.groups,
        {m: mu for m, mu in graph_weights.items() if m in hypergraph.graphs},
        training.ridge,
        encoders,
    )


def fit(
    hypergraph: Hypergraph,
    problem: Problem,
    training: TrainingSpec,
    *,
    targets: Mapping[str, str] | None = None,
    client: Client | None = None,
    on_sweep: OnSweep | None = None,
    checkpoints: Checkpoints | None = None,
    tell: Callable[[str], None] | None = None,
    device: Device = "cpu",
) -> Model:
    """Train until a sweep brings less than ``training.tolerance`` of F's fall so far, or sweeps run out.

    Parameters
    ----------
    targets
        The modality each relation ranks, handed on to the model.
    client
        A Dask client: training runs on its workers, which read their shards from
        ``hypergraph.path``. None: in this process.
    on_sweep
        Called after every sweep.
    checkpoints
        Where the state is written from time to time, and gone on from if there is one. They stay
        there, to be cleared by the caller once the model is safe.
    tell
        Hears, in lines, what has become of workers.
    device
        ``cuda``: training in this process keeps its data and factors on the GPU.

    Returns
    -------
    Model
        With one row of history per sweep; the state after the last sweep is the best, as F never rises.
    """
    if problem.encoders and device != "cpu":
        raise InputError("encoders train on the CPU", key="device")
    setting = Setting(
        training.dtype,
        {name: term.offset for name, term in problem.terms.items()},
        {name: term.target_mode for name, term in problem.terms.items() if term.absent == "context"},
    )
    executor: Executor
    if client is None:
        executor = LocalExecutor(hypergraph, setting, device)
    else:
        from hyperlearn_dask.training.distributed import DaskExecutor

        executor = DaskExecutor(client, hypergraph, setting)
    try:
        train = partial(_train, hypergraph, problem, training, executor, targets or {}, on_sweep)
        return over_losses(train, executor, SafePoints(checkpoints, mortal=executor.mortal), tell)
    finally:
        executor.close()


def _train(
    hypergraph: Hypergraph,
    problem: Problem,
    training: TrainingSpec,
    executor: Executor,
    targets: Mapping[str, str],
    on_sweep: OnSweep | None,
    safe: SafePoints,
) -> Model:
    state = safe.state
    features = held_features(problem, executor, hypergraph, training.dtype)
    if state is None or not (state.draw or state.done):
        state = safe.state = _optimise(problem, training, executor, features, state, on_sweep, safe)
    encoded = go_on(held(executor, state.codes), features, len(state.history))
    return Model(
        problem=problem,
        modalities=hypergraph.modalities,
        factors=dict(state.factors),
        informed=_informed(problem, executor, features),
        targets=dict(targets),
        history=tuple(_row(report) for report in state.history),
        draws=_sample_posterior(problem, training, executor, state, on_sweep, safe)
        if training.draws
        else None,
        encoders=encodings(problem, executor, encoded),
    )


def _optimise(
    problem: Problem,
    training: TrainingSpec,
    executor: Executor,
    features: Mapping[str, Handle],
    state: State | None,
    on_sweep: OnSweep | None,
    safe: SafePoints,
) -> State:
    """The sweeps, from the start or from a state among them; the state after the last."""
    before: Course | None = None
    history: list[SweepReport] = []
    if state is None:
        factors, encoded = begin(problem, executor, features, _start(problem, executor, training))
    else:
        factors = held(executor, state.factors)
        proposals = {m: Proposal(direction, 0.0, 0.0) for m, direction in state.proposals.items()}
        directions = held(executor, state.directions)
        codes = {m: directions[m] for m in state.codes}
        before = Course(held(executor, proposals), directions, {}, state.slope, codes)
        history += state.history
        encoded = go_on(held(executor, state.codes), features, len(history))
    for report, point, course in sweeps(
        problem, executor, factors, training.schedule, before, done=len(history), encoded=encoded
    ):
        history.append(report)
        if on_sweep is not None:
            on_sweep(report)
        if report.sweep >= training.sweeps or _converged(history, training.tolerance):
            return State(
                tuple(history), executor.gather(point.factors), codes=_codes(executor, point), done=True
            )
        safe.offer(partial(_state, executor, history, point, course))
        executor.check()
    raise AssertionError("sweeps come without end")


def _state(executor: Executor, history: list[SweepReport], point: Point, course: Course) -> State:
    proposals = {m: executor.pick(proposal, "direction") for m, proposal in course.proposals.items()}
    ways = {m: course.way(m) for m in course.directions}
    factors, proposals, directions = executor.gather([point.factors, proposals, ways])
    codes = _codes(executor, point)
    return State(tuple(history), factors, proposals, directions, course.slope, codes=codes)


def _codes(executor: Executor, point: Point) -> dict[str, np.ndarray]:
    codes: dict[str, np.ndarray] = executor.gather({m: one["code"] for m, one in point.encoded.items()})
    return codes


def _sample_posterior(
    problem: Problem,
    training: TrainingSpec,
    executor: Executor,
    state: State,
    on_sweep: OnSweep | None,
    safe: SafePoints,
) -> dict[str, np.ndarray]:
    """The chain of draws after the burn-in, thinned evenly to :data:`KEPT_DRAWS` at most, in float32."""
    kept: dict[str, list[np.ndarray]] = {m: [] for m in problem.sizes}
    for m, below_each_other in state.kept.items():
        kept[m] += [*below_each_other.reshape(-1, problem.sizes[m], problem.rank)]
    thin = -(-training.draws // KEPT_DRAWS)
    point = point_at(executor, held(executor, state.drawn or state.factors))
    for report, drawn in draws(problem, executor, point, training.seed, done=state.draw):
        if on_sweep is not None:
            on_sweep(report)
        number = report.sweep - training.burn_in
        if number > 0 and number % thin == 0:
            for m, factor in executor.gather(drawn.factors).items():
                kept[m].append(factor.astype(np.float32))
        if number >= training.draws:
            return {m: np.stack(factors) for m, factors in kept.items()}
        safe.offer(partial(_state_of_draws, executor, state, report.sweep, drawn, kept))
        executor.check()
    raise AssertionError("draws come without end")


def _state_of_draws(
    executor: Executor, optimum: State, draw: int, drawn: Point, kept: Mapping[str, list[np.ndarray]]
) -> State:
    stacked = {m: np.concatenate(factors) for m, factors in kept.items() if factors}
    values = executor.gather(drawn.factors)
    return dataclasses.replace(optimum, draw=draw, drawn=values, kept=stacked, done=False)


def _converged(history: list[SweepReport], tolerance: float) -> bool:
    """Whether the last sweeps brought next to nothing of what training has brought since its first.

    F itself is no yardstick: of a very sparse tensor even the best model leaves nearly all of
    ||X||^2. Several sweeps are looked at, as single ones may stall.
    """
    if len(history) <= PATIENCE + 1:
        return False
    first, before, now = (history[i].objective for i in (0, -1 - PATIENCE, -1))
    return before - now <= tolerance * PATIENCE * (first - now)


def _start(problem: Problem, executor: Executor, training: TrainingSpec) -> dict[str, Handle]:
    """Start values, made at one modality from a sample of every relation and split by modality."""
    samples: dict[str, list[Handle]] = {name: [] for name in problem.terms}
    for place in _entry_places(executor):
        total = max(p.stop for p in executor.places if p.relation == place.relation)
        samples[place.relation].append(executor.at_shard("sample", place, _sample, place, total))
    first = next(iter(problem.sizes))
    start = executor.at_modality(
        "start", first, _start_step, problem, samples, training.start, training.seed, training.dtype
    )
    return {
        m: executor.at_modality(f"start-{m}", m, _placed, executor.pick(start, m), executor.device)
        for m in problem.sizes
    }


def _entry_places(executor: Executor) -> list[ShardPlace]:
    return [place for place in executor.places if not place.holds_contexts]


def _sample(shard: EntryShard, place: ShardPlace, total: int) -> SparseTensor:
    """The shard's part of an evenly spaced sample of the whole relation, whatever the shards are."""
    entries = np.arange(total) if total <= SAMPLE else np.linspace(0, total - 1, SAMPLE).astype(np.int64)
    own = entries[(entries >= place.start) & (entries < place.stop)] - place.start
    tensor = shard.tensor[array_module(shard.tensor.values).asarray(own)]
    coords = [to_host(c) for c in tensor.coords]
    coords[tensor.sort_mode] = coords[tensor.sort_mode] + place.first_row
    return SparseTensor(tuple(coords), to_host(tensor.values), tensor.shape, tensor.sorted_by)


def _start_step(
    _: Array | None,
    problem: Problem,
    samples: Mapping[str, list[SparseTensor]],
    kind: str,
    seed: int,
    dtype: str,
) -> dict[str, np.ndarray]:
    whole = {}
    for name, parts in samples.items():
        shape = tuple(problem.sizes[m] for m in problem.terms[name].modalities)
        coords = tuple(np.concatenate([p.coords[mode] for p in parts]) for mode in range(len(shape)))
        whole[name] = SparseTensor(coords, np.concatenate([p.values for p in parts]), shape)
    return start_factors(problem, whole, kind, seed, dtype)


def _placed(_: Array | None, factor: np.ndarray, device: Device) -> Array:
    return to_device(factor, device)


def _informed(problem: Problem, executor: Executor, features: Mapping[str, Handle]) -> dict[str, np.ndarray]:
    """Per modality, the entities with a hyperedge or, where its graph counts, a neighbour.

    Or with features, where it is encoded from them; and then, without own rows, hyperedges alone say nothing.
    """
    places = _entry_places(executor)
    seen = [executor.at_shard("seen", place, _seen) for place in places]
    linked = {
        m: executor.at_modality(f"linked-{m}", m, _linked) for m in problem.sizes if problem.uses_graph(m)
    }
    seen, linked = executor.gather([seen, linked])
    informed = {m: np.zeros(n, dtype=bool) for m, n in problem.sizes.items()}
    for place, rows in zip(places, seen):
        for modality, index in zip(problem.terms[place.relation].modalities, rows):
            informed[modality][index] = True
    for modality, rows in described(executor, features).items():
        informed[modality] = informed[modality] & problem.encoders[modality].own | rows
    for modality, rows in linked.items():
        informed[modality] |= rows
    return informed


def _seen(shard: EntryShard) -> list[np.ndarray]:
    rows = [to_host(array_module(c).unique(c)) for c in shard.tensor.coords]
    rows[shard.tensor.sort_mode] = rows[shard.tensor.sort_mode] + shard.first_row
    return rows


def _linked(laplacian: Array) -> np.ndarray:
    return to_host(laplacian.diagonal()) > 0


def _row(report: SweepReport) -> dict[str, Any]:
    return {
        "sweep": report.sweep,
        "objective": report.objective,
        "step": report.step,
        "seconds": report.seconds,
        **report.parts,
    }
