"""Which settings to try next: some that fill the space evenly, then by a tree-structured Parzen estimator.

The former are a Halton sequence's, the latter Optuna's, given what the settings before have come to.
A proposal follows from the settings tried before, their figures, the seed and its number, and from
nothing else. So a search that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats.qmc import Halton

from hyperlearn_dask.config import Range
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.tuning.space import Settings, Space

if TYPE_CHECKING:
    from types import ModuleType


SPREAD = 10  # trials that fill the space evenly, before others are looked at
ATTEMPTS = 10  # at settings that were not tried yet


def propose(
    space: Space, told: Sequence[tuple[Settings, float]], seed: int, number: int, *, lower: bool
) -> Settings:
    """Settings for a trial, floats to three digits; if possible not those of an earlier one.

    Parameters
    ----------
    told
        Settings and the figure they have come to, in the order of the trials.
    number
        Of the trial.
    lower
        Whether lower figures are better.
    """
    rng = np.random.default_rng([seed, number])
    if number < SPREAD:
        found = _settings(space, Halton(len(space), seed=seed).random(SPREAD)[number])
    else:
        found = _by_parzen(space, told, int(rng.integers(1 << 32)), lower)
    tried = [dict(settings) for settings, _ in told]
    for _ in range(ATTEMPTS):
        if found not in tried:
            break
        found = _settings(space, rng.random(len(space)))
    return found


def _settings(space: Space, point: np.ndarray) -> dict[str, float]:
    """What is at a point of the unit cube."""
    return {name: _rounded(_at(range_, u), range_) for (name, range_), u in zip(space.items(), point)}


def _by_parzen(
    space: Space, told: Sequence[tuple[Settings, float]], seed: int, lower: bool
) -> dict[str, float]:
    optuna = load_optuna()
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=1)
    study = optuna.create_study(sampler=sampler, direction="minimize" if lower else "maximize")
    where = {name: _distribution(optuna, range_) for name, range_ in space.items()}
    for settings, figure in told:
        study.add_trial(optuna.trial.create_trial(params=dict(settings), distributions=where, value=figure))
    found = study.ask(where).params
    return {name: _rounded(found[name], range_) for name, range_ in space.items()}


def _at(range_: Range, u: float) -> float:
    """The value at a share 0 <= u < 1 of the way through a range."""
    if range_.choices:
        return range_.choices[int(u * len(range_.choices))]
    # Whole numbers have each a stretch of one around them.
    low, high = (range_.low - 0.5, range_.high + 0.5) if range_.whole else (range_.low, range_.high)
    value = low * (high / low) ** u if range_.low > 0 else low + (high - low) * u
    return min(max(round(value), range_.low), range_.high) if range_.whole else value


def load_optuna() -> ModuleType:
    """The package, which is an extra of ours."""
    try:
        import optuna
    except ModuleNotFoundError as missing:
        if missing.name != "optuna":
            raise
        raise InputError(
            "choosing settings needs the package optuna: pip install 'hyperlearn-dask[tune]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: ModuleType = optuna
    return module


def _distribution(optuna: Any, range_: Range) -> Any:
    if range_.choices:
        return optuna.distributions.CategoricalDistribution(range_.choices)
    log = range_.low > 0
    if range_.whole:
        return optuna.distributions.IntDistribution(int(range_.low), int(range_.high), log=log)
    return optuna.distributions.FloatDistribution(range_.low, range_.high, log=log)


def _rounded(value: float, range_: Range) -> float:
    if range_.whole or range_.choices:
        return value
    return min(max(float(f"{value:.3g}"), range_.low), range_.high)
