"""Training from beginning to end: a hypergraph and a problem in, a model out."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperlearn_dask.backend import (
    Device,
    check_device,
    memory_in_one_line,
)
from hyperlearn_dask.config import EncoderSpec, PlacementSpec, RelationSpec, TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import Problem, TermSettings, build_problem
from hyperlearn_dask.hypergraph.holdout import HoldOut, held_out
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.training.beginning import informed_entities, require_range, start_values
from hyperlearn_dask.training.chain import sample_posterior
from hyperlearn_dask.training.checkpoint import Checkpoints, State
from hyperlearn_dask.training.encoding import (
    begin,
    check_encoders,
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
    held,
)
from hyperlearn_dask.training.memory import here, memory_of_machine, require_memory, require_room
from hyperlearn_dask.training.report import OnSweep, SweepReport
from hyperlearn_dask.training.schedule import Course, Point, sum_of_squares, sweeps
from hyperlearn_dask.training.steps import Proposal
from hyperlearn_dask.training.streaming import streams
from hyperlearn_dask.training.validation import Judge, out_of_patience
from hyperlearn_dask.training.workers.recovery import SafePoints, over_losses

if TYPE_CHECKING:
    from distributed import Client

    from hyperlearn_dask.training.placing.placement import Placement

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
            noise=spec.noise,
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
    listeners = [on_event] if on_event is not None else []

    def tell_of(event: Event) -> None:
        for listener in listeners:
            listener(event)

    def swept(report: SweepReport) -> None:
        tell_of(report)
        if on_sweep is not None:
            on_sweep(report)

    aside = (
        contextlib.nullcontext(hypergraph)
        if apart
        else _put_aside(hypergraph, training, client, memory_limit)
    )
    with aside as rest:
        executor = _executor(
            rest, problem, training.dtype, client, device, placement, on_placement, memory_limit, tell
        )
        if client is not None:
            listeners.append(_post(client))
        began = time.monotonic()
        try:
            leads_on = partial(_leads_on, training)
            safe = SafePoints(checkpoints, mortal=executor.mortal, leads_on=leads_on, on_event=tell_of)
            tell_of(_started(rest, problem, training, executor, safe.state))
            train = partial(_train, rest, problem, training, executor, targets or {}, swept)
            with memory_in_one_line():
                model = over_losses(train, executor, safe, tell, tell_of)
            tell_of(_finished(model, training, time.monotonic() - began))
            return model
        except BaseException as error:
            tell_of(Stopped(" ".join(str(error).split()) or type(error).__name__))
            raise
        finally:
            executor.close()


@contextlib.contextmanager
def _put_aside(
    hypergraph: Hypergraph, training: TrainingSpec, client: Client | None, memory_limit: int | None
) -> Iterator[Hypergraph]:
    """The hypergraph without what validation is on, which is the relation's test tuples there."""
    name, known = training.validation, hypergraph.relations
    if name is None:
        yield hypergraph
        return
    if name not in known:
        raise InputError(
            f"no relation '{name}' (expected one of {', '.join(known)})", key="training.validation"
        )
    what = HoldOut(name, training.held_out, training.seed)
    fits = client is None and not streams(hypergraph, training.dtype, memory_limit)
    with held_out(hypergraph, what, client, in_memory=fits) as rest:
        yield rest


def _executor(
    hypergraph: Hypergraph,
    problem: Problem,
    dtype: str,
    client: Client | None,
    device: Device,
    placement: PlacementSpec | None,
    on_placement: Callable[[Placement], None] | None,
    memory_limit: int | None,
    tell: Callable[[str], None] | None,
) -> Executor:
    """What steps run on, once there is known to be room for the training."""
    setting = Setting(
        dtype,
        {name: term.offset for name, term in problem.terms.items()},
        {name: term.target_mode for name, term in problem.terms.items() if term.absent == "context"},
        device,
    )
    if client is not None:
        from hyperlearn_dask.training.workers.distributed import DaskExecutor

        executor = DaskExecutor(client, hypergraph, setting, problem, placement, on_placement)
        if device == "cuda":
            try:
                require_room(problem, executor.sites(), dtype)
            except BaseException:
                executor.close()
                raise
        return executor
    check_device(device)
    if device == "cuda":
        require_room(problem, [here(hypergraph, setting)], dtype)
    else:
        require_memory(problem, dtype, memory_of_machine())
    with memory_in_one_line():
        weighed = [name for name, term in problem.terms.items() if term.noise]
        return LocalExecutor(hypergraph, setting, streams(hypergraph, dtype, memory_limit, tell, weighed))


def _post(client: Client) -> OnEvent:
    """What tells a client's scheduler, for its page on the dashboard."""
    from hyperlearn_dask.monitor.post import Post

    post = Post(client)
    return lambda event: post(record(event))


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
    informed = informed_entities(problem, executor, features)
    if state is None or not (state.draw or state.done):
        judge = None
        if (name := training.validation) is not None:
            judge = Judge(executor, problem, hypergraph, name, targets.get(name), informed)
        state = safe.state = _optimise(problem, training, executor, features, state, on_sweep, safe, judge)
    encoded = go_on(held(executor, state.codes), features, len(state.history))
    drawn: dict[str, np.ndarray] | None = None
    noise: dict[str, dict[str, np.ndarray]] = {}
    if training.draws:
        blocks = hypergraph.feature_blocks
        drawn, problem, noise = sample_posterior(
            problem, training, executor, features, blocks, state, on_sweep, safe
        )
    return Model(
        problem=problem,
        modalities=hypergraph.modalities,
        factors=dict(state.factors),
        informed=informed,
        targets=dict(targets),
        history=tuple(_row(report) for report in state.history),
        draws=drawn,
        noise=noise,
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
    squares = sum_of_squares(problem, executor)
    if state is None:
        require_range(problem, squares, training.dtype)
        factors, encoded = begin(problem, executor, features, start_values(problem, executor, training))
        best = Point(factors, {}, encoded)
    else:
        factors = held(executor, state.factors)
        proposals = {m: Proposal(direction, 0.0, 0.0) for m, direction in state.proposals.items()}
        directions = held(executor, state.directions)
        codes = {m: directions[m] for m in directions if m in state.codes}
        before = Course(held(executor, proposals), directions, {}, [state.slope], codes)
        history += state.history
        encoded = go_on(held(executor, state.codes), features, len(history))
        best = Point(factors, {}, encoded)
        if state.best:
            its_codes = held(executor, state.best_codes)
            best = Point(held(executor, state.best), {}, go_on(its_codes, features, len(history)))
    run = sweeps(problem, executor, factors, training.schedule, before, len(history), encoded, squares)
    del factors, before
    for report, point, course in run:
        if judge is not None:
            report = judge.judged(report, point.factors, history)
        if judge is None or report.best:
            best = point
        history.append(report)
        if on_sweep is not None:
            on_sweep(report)
        if _ended(history, training):
            return State(tuple(history), *_values(executor, best), done=True)
        take = partial(_state, executor, history, point, course, best)
        safe.offer(take)
        safe.check(executor, take)
        del take
        del point, course  # the next sweep needs the memory
    raise AssertionError("sweeps come without end")


def _state(
    executor: Executor, history: list[SweepReport], point: Point, course: Course, best: Point
) -> State:
    proposals = {m: executor.pick(proposal, "direction") for m, proposal in course.proposals.items()}
    ways = {m: course.way(m) for m in course.directions}
    proposals, ways, slopes = executor.gather([proposals, ways, course.slopes])
    factors, codes = _values(executor, point)
    other, other_codes = ({}, {}) if best is point else _values(executor, best)
    return State(tuple(history), factors, codes, proposals, ways, other, other_codes, float(sum(slopes)))


def _values(executor: Executor, point: Point) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The factors of a point and the codes of its encoders, as values."""
    codes = {m: one["code"] for m, one in point.encoded.items()}
    factors, codes = executor.gather([point.factors, codes])
    return factors, codes


def _leads_on(training: TrainingSpec, state: State) -> bool:
    """Whether training comes by a state: it ends by no sweep before, and by the last only to draw."""
    *before, last = (_ended(state.history[:number], training) for number in range(len(state.history) + 1))
    return not any(before) and last == (state.draw > 0)


def _ended(history: Sequence[SweepReport], training: TrainingSpec) -> bool:
    """Whether these were all sweeps, or more would gain nothing: in F, or for what is held out."""
    judged = training.validation is not None
    return (
        len(history) >= training.sweeps
        or _converged(history, training.tolerance)
        or (judged and out_of_patience(history, training.patience))
    )


def _converged(history: Sequence[SweepReport], tolerance: float) -> bool:
    """Whether the last sweeps brought next to nothing of what training has brought since its first.

    F itself is no yardstick: of a very sparse tensor even the best model leaves nearly all of
    ||X||^2. Several sweeps are looked at, as single ones may stall.
    """
    if len(history) <= STALLED + 1:
        return False
    first, before, now = (history[i].objective for i in (0, -1 - STALLED, -1))
    return before - now <= tolerance * STALLED * (first - now)


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
