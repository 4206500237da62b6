"""Training from beginning to end: a hypergraph and a problem in, a model out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperlearn_dask.backend import (
    Array,
    Device,
    array_module,
    check_device,
    memory_in_one_line,
    to_device,
    to_host,
)
from hyperlearn_dask.config import EncoderSpec, PlacementSpec, RelationSpec, TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import Problem, TermSettings, build_problem
from hyperlearn_dask.factorization.shards import Shard
from hyperlearn_dask.factorization.starts import SAMPLE, start_factors
from hyperlearn_dask.hypergraph.holdout import HoldOut, held_out
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
from hyperlearn_dask.training.events import Event, Finished, OnEvent, Started, Stopped, record
from hyperlearn_dask.training.executor import (
    Executor,
    Handle,
    LocalExecutor,
    Setting,
    ShardPlace,
    entry_places,
    held,
)
from hyperlearn_dask.training.memory import here, require_room
from hyperlearn_dask.training.recovery import SafePoints, over_losses
from hyperlearn_dask.training.report import OnSweep, SweepReport
from hyperlearn_dask.training.sampling import draws
from hyperlearn_dask.training.schedule import Course, Point, point_at, sweeps
from hyperlearn_dask.training.steps import Proposal
from hyperlearn_dask.training.streaming import streams
from hyperlearn_dask.training.validation import Judge, out_of_patience

if TYPE_CHECKING:
    from distributed import Client

    from hyperlearn_dask.training.placement import Placement

# Posterior draws that a model keeps at most.
KEPT_DRAWS = 100
# Sweeps that must bring F too little before training stops.
STALLED = 3


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
    on_event: OnEvent | None = None,
    device: Device = "cpu",
    placement: PlacementSpec | None = None,
    on_placement: Callable[[Placement], None] | None = None,
    memory_limit: int | None = None,
    apart: bool = False,
) -> Model:
    """Train until a sweep brings less than ``training.tolerance`` of F's fall so far, or sweeps run out.

    With ``training.validation`` a share of that relation's training hyperedges is put aside, training
    stops as well when ``training.patience`` sweeps have told them no better than one before, and the
    factors of that one are returned. They have not seen what was put aside (only an offset "mean" is
    that of all). Where that is too much to go without, train once more without validation, with
    ``sweeps`` set to the sweep that ``Model.kept`` names.

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
        Hears, in lines, what has become of workers and what is streamed.
    on_event
        Told of all that happens, every sweep among it: see :mod:`~hyperlearn_dask.training.events`.
        The scheduler of a client is told as well, for its page on the dashboard.
    device
        ``cuda``: data and factors are kept, and steps run, on the GPU: this process's, or each worker's.
    placement
        What is wanted of the placement on a client's workers, which changes no result.
    on_placement
        Told who does what there, before training and whenever it has changed.
    memory_limit
        Bytes for training in this process, by default what is left of the machine's: relations that
        take more than their share are read from the store in every pass, see :mod:`.streaming`.
    apart
        The validation has been put aside already: it is the test tuples that its relation has here.

    Returns
    -------
    Model
        With one row of history per sweep. Without validation the state after the last sweep is the
        best, as F never rises; with it ``Model.kept`` is the row of the best.
    """
    if problem.encoders and device != "cpu":
        raise InputError("encoders train on the CPU", key="device")
    with contextlib.ExitStack() as stack:
        if training.validation is not None and not apart:
            name, known = training.validation, hypergraph.relations
            if name not in known:
                raise InputError(
                    f"no relation '{name}' (expected one of {', '.join(known)})", key="training.validation"
                )
            what = HoldOut(name, training.held_out, training.seed)
            hypergraph = stack.enter_context(held_out(hypergraph, what, client))
        return _fit(
            hypergraph,
            problem,
            training,
            targets or {},
            client,
            on_sweep,
            checkpoints,
            tell,
            on_event,
            device,
            placement,
            on_placement,
            memory_limit,
        )


def _fit(
    hypergraph: Hypergraph,
    problem: Problem,
    training: TrainingSpec,
    targets: Mapping[str, str],
    client: Client | None,
    on_sweep: OnSweep | None,
    checkpoints: Checkpoints | None,
    tell: Callable[[str], None] | None,
    on_event: OnEvent | None,
    device: Device,
    placement: PlacementSpec | None,
    on_placement: Callable[[Placement], None] | None,
    memory_limit: int | None,
) -> Model:
    """Train on a hypergraph that validation has been put aside of."""
    setting = Setting(
        training.dtype,
        {name: term.offset for name, term in problem.terms.items()},
        {name: term.target_mode for name, term in problem.terms.items() if term.absent == "context"},
        device,
    )
    executor: Executor
    listeners = [on_event] if on_event is not None else []
    if client is None:
        check_device(device)
        if device == "cuda":
            require_room(problem, [here(hypergraph, setting)], training.dtype)
        with memory_in_one_line():
            streamed = streams(hypergraph, training.dtype, memory_limit, tell)
            executor = LocalExecutor(hypergraph, setting, streamed)
    else:
        from hyperlearn_dask.monitor.post import Post
        from hyperlearn_dask.training.distributed import DaskExecutor

        executor = on_workers = DaskExecutor(client, hypergraph, setting, problem, placement, on_placement)
        post = Post(client)
        listeners.append(lambda event: post(record(event)))

    def tell_of(event: Event) -> None:
        for listener in listeners:
            listener(event)

    def swept(report: SweepReport) -> None:
        tell_of(report)
        if on_sweep is not None:
            on_sweep(report)

    began = time.monotonic()
    try:
        if client is not None and device == "cuda":
            require_room(problem, on_workers.sites(), training.dtype)
        safe = SafePoints(checkpoints, mortal=executor.mortal, on_event=tell_of)
        tell_of(_started(hypergraph, problem, training, executor, safe.state))
        train = partial(_train, hypergraph, problem, training, executor, targets, swept)
        with memory_in_one_line():
            model = over_losses(train, executor, safe, tell, tell_of)
        tell_of(_finished(model, training, time.monotonic() - began))
        return model
    except BaseException as error:
        tell_of(Stopped(" ".join(str(error).split()) or type(error).__name__))
        raise
    finally:
        executor.close()


def _started(
    hypergraph: Hypergraph,
    problem: Problem,
    training: TrainingSpec,
    executor: Executor,
    state: State | None,
) -> Started:
    return Started(
        data=None if hypergraph.path is None else str(hypergraph.path.resolve()),
        entities=dict(problem.sizes),
        hyperedges={name: relation.nnz for name, relation in hypergraph.relations.items()},
        settings={**dataclasses.asdict(training), "graph_weights": dict(problem.graph_weights)},
        going_on_from=None if state is None else state.place,
        where=executor.where(),
    )


def _finished(model: Model, training: TrainingSpec, seconds: float) -> Finished:
    return Finished(len(model.history), training.draws, model.history[-1]["objective"], seconds)


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
    informed = _informed(problem, executor, features)
    if state is None or not (state.draw or state.done):
        judge = None
        if (name := training.validation) is not None:
            judge = Judge(executor, problem, hypergraph, name, targets.get(name), informed)
        state = safe.state = _optimise(problem, training, executor, features, state, on_sweep, safe, judge)
    encoded = go_on(held(executor, state.codes), features, len(state.history))
    return Model(
        problem=problem,
        modalities=hypergraph.modalities,
        factors=dict(state.factors),
        informed=informed,
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
    judge: Judge | None,
) -> State:
    """The sweeps, from the start or from a state among them; the best state, else that after the last."""
    before: Course | None = None
    history: list[SweepReport] = []
    if state is None:
        factors, encoded = begin(problem, executor, features, _start(problem, executor, training))
        best = Point(factors, {}, encoded)
    else:
        factors = held(executor, state.factors)
        proposals = {m: Proposal(direction, 0.0, 0.0) for m, direction in state.proposals.items()}
        directions = held(executor, state.directions)
        codes = {m: directions[m] for m in state.codes}
        before = Course(held(executor, proposals), directions, {}, state.slope, codes)
        history += state.history
        encoded = go_on(held(executor, state.codes), features, len(history))
        best = Point(factors, {}, encoded)
        if state.best:
            its_codes = held(executor, state.best_codes)
            best = Point(held(executor, state.best), {}, go_on(its_codes, features, len(history)))
    for report, point, course in sweeps(
        problem, executor, factors, training.schedule, before, done=len(history), encoded=encoded
    ):
        if judge is not None:
            report = judge.judged(report, point.factors, history)
        if judge is None or report.best:
            best = point
        history.append(report)
        if on_sweep is not None:
            on_sweep(report)
        if report.sweep >= training.sweeps or _has_converged(history, training, judge is not None):
            return State(tuple(history), *_values(executor, best), done=True)
        safe.offer(partial(_state, executor, history, point, course, best))
        executor.check()
    raise AssertionError("sweeps come without end")


def _state(
    executor: Executor, history: list[SweepReport], point: Point, course: Course, best: Point
) -> State:
    proposals = {m: executor.pick(proposal, "direction") for m, proposal in course.proposals.items()}
    ways = {m: course.way(m) for m in course.directions}
    proposals, ways = executor.gather([proposals, ways])
    factors, codes = _values(executor, point)
    other, other_codes = ({}, {}) if best is point else _values(executor, best)
    return State(tuple(history), factors, codes, proposals, ways, other, other_codes, course.slope)


def _values(executor: Executor, point: Point) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The factors of a point and the codes of its encoders, as values."""
    codes = {m: one["code"] for m, one in point.encoded.items()}
    factors, codes = executor.gather([point.factors, codes])
    return factors, codes


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


def _has_converged(history: list[SweepReport], training: TrainingSpec, judged: bool) -> bool:
    """Whether there is nothing to be gained by more sweeps: in F, or for what is held out."""
    return _converged(history, training.tolerance) or (judged and out_of_patience(history, training.patience))


def _converged(history: list[SweepReport], tolerance: float) -> bool:
    """Whether the last sweeps brought next to nothing of what training has brought since its first.

    F itself is no yardstick: of a very sparse tensor even the best model leaves nearly all of
    ||X||^2. Several sweeps are looked at, as single ones may stall.
    """
    if len(history) <= STALLED + 1:
        return False
    first, before, now = (history[i].objective for i in (0, -1 - STALLED, -1))
    return before - now <= tolerance * STALLED * (first - now)


def _start(problem: Problem, executor: Executor, training: TrainingSpec) -> dict[str, Handle]:
    """Start values, made at one modality from a sample of every relation and split by modality."""
    samples: dict[str, list[Handle]] = {name: [] for name in problem.terms}
    for place in entry_places(executor):
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


def _sample(shard: Shard, place: ShardPlace, total: int) -> list[SparseTensor]:
    """The shard's part of an evenly spaced sample of the whole relation, whatever the shards are."""
    entries = np.arange(total) if total <= SAMPLE else np.linspace(0, total - 1, SAMPLE).astype(np.int64)
    found, start = [], place.start
    for part in shard.parts():
        stop = start + part.tensor.nnz
        own = entries[(entries >= start) & (entries < stop)] - start
        tensor = part.tensor[array_module(part.tensor.values).asarray(own)]
        coords = [to_host(c) for c in tensor.coords]
        coords[tensor.sort_mode] = coords[tensor.sort_mode] + part.first_row
        found.append(SparseTensor(tuple(coords), to_host(tensor.values), tensor.shape, tensor.sorted_by))
        start = stop
    return found


def _start_step(
    _: Array | None,
    problem: Problem,
    samples: Mapping[str, list[list[SparseTensor]]],
    kind: str,
    seed: int,
    dtype: str,
) -> dict[str, np.ndarray]:
    whole = {}
    for name, of_shards in samples.items():
        parts = [part for of_shard in of_shards for part in of_shard]
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
    places = entry_places(executor)
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


def _seen(shard: Shard) -> list[np.ndarray]:
    """Per mode, the rows that have entries."""
    found = []
    for part in shard.parts():
        rows = [to_host(array_module(c).unique(c)) for c in part.tensor.coords]
        rows[part.tensor.sort_mode] = rows[part.tensor.sort_mode] + part.first_row
        found.append(rows)
    return [np.unique(np.concatenate(of_mode)) for of_mode in zip(*found)]


def _linked(laplacian: Array) -> np.ndarray:
    return to_host(laplacian.diagonal()) > 0


def _row(report: SweepReport) -> dict[str, Any]:
    judged = {} if report.validation is None else {"validation": report.validation, "best": report.best}
    return {
        "sweep": report.sweep,
        "objective": report.objective,
        "step": report.step,
        "seconds": report.seconds,
        **judged,
        **report.parts,
    }
