"""The chain of posterior draws: begun at the optimum, thinned, gone on with from a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization.draws.priors import with_noise
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.training.checkpoint import State
from hyperlearn_dask.training.encoding import go_on
from hyperlearn_dask.training.executor import Executor, Handle, held
from hyperlearn_dask.training.report import OnSweep
from hyperlearn_dask.training.sampling import Draw, draws
from hyperlearn_dask.training.schedule import point_at
from hyperlearn_dask.training.workers.recovery import SafePoints

# Posterior draws that a model keeps at most.
KEPT_DRAWS = 100


def sample_posterior(
    problem: Problem,
    training: TrainingSpec,
    executor: Executor,
    features: Mapping[str, Handle],
    blocks: Mapping[str, Sequence[int]],
    state: State,
    on_sweep: OnSweep | None,
    safe: SafePoints,
) -> tuple[dict[str, np.ndarray], Problem, dict[str, dict[str, np.ndarray]]]:
    """The draws after the burn-in, thinned evenly to :data:`KEPT_DRAWS` at most, in float32.

    And the problem, with the mean over those of each variance that was drawn for a relation's own; and, by
    relation and modality, the mean of 1 / w of entities that differ in their noise.
    """
    thin = -(-training.draws // KEPT_DRAWS)
    # Draws x entities x rank, of which a state has those that are there already.
    kept = {
        m: np.empty((training.draws // thin, n, problem.rank), np.float32) for m, n in problem.sizes.items()
    }
    have = 0
    for m, below_each_other in state.kept.items():
        before = below_each_other.reshape(-1, problem.sizes[m], problem.rank)
        have = len(before)
        kept[m][:have] = before
    noise = {name: variances.tolist() for name, variances in state.noise.items()}
    inverse = {key: sums.copy() for key, sums in state.inverse.items()}
    point = point_at(problem, executor, held(executor, state.drawn or state.factors))
    codes = held(executor, state.drawn_codes or state.codes)
    point = dataclasses.replace(point, encoded=go_on(codes, features, 0))
    for draw in draws(
        problem,
        executor,
        point,
        training.seed,
        features=features,
        blocks=blocks,
        sampled=training.hyperparameters == "sampled",
        noise={name: variances[-1] for name, variances in noise.items()},
        weights={
            name: {
                m: executor.hold(f"weights-{name}-{m}", m, state.weights[f"{name}.{m}"])
                for m in sorted(term.noise)
            }
            for name, term in problem.terms.items()
            if term.noise and state.weights
        },
        done=state.draw,
    ):
        if on_sweep is not None:
            on_sweep(draw.report)
        for name, variance in draw.noise.items():
            noise.setdefault(name, []).append(variance)
        number = draw.report.sweep - training.burn_in
        if draw.weights and number > 0:
            for key, w in _flat(executor.gather(draw.weights)).items():
                inverse[key] = inverse.get(key, 0.0) + 1 / w
        if number > 0 and number % thin == 0:
            for m, factor in executor.gather(draw.point.factors).items():
                kept[m][have] = factor
            have += 1
        if number >= training.draws:
            means = {name: float(np.mean(all_[training.burn_in :])) for name, all_ in noise.items()}
            relative = {
                name: {m: inverse[f"{name}.{m}"] / training.draws for m in term.noise}
                for name, term in problem.terms.items()
                if term.noise
            }
            return kept, with_noise(problem, means), relative
        so_far = {m: drawn[:have].reshape(-1, problem.rank) for m, drawn in kept.items()} if have else {}
        take = partial(_state, executor, state, draw, so_far, noise, inverse)
        safe.offer(take)
        safe.check(executor, take)
    raise AssertionError("draws come without end")


def _state(
    executor: Executor,
    optimum: State,
    draw: Draw,
    kept: Mapping[str, np.ndarray],
    noise: Mapping[str, list[float]],
    inverse: Mapping[str, np.ndarray],
) -> State:
    factors, codes, weights = executor.gather([draw.point.factors, draw.codes, draw.weights])
    return dataclasses.replace(
        optimum,
        draw=draw.report.sweep,
        drawn=factors,
        drawn_codes=codes,
        kept=kept,
        noise={name: np.array(variances) for name, variances in noise.items()},
        weights=_flat(weights),
        inverse=dict(inverse),
        done=False,
    )


def _flat(weights: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """By relation and modality in one key."""
    return {f"{name}.{m}": w for name, of_one in weights.items() for m, w in of_one.items()}
