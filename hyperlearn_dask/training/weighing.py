"""Steps over entries that weigh differently: an executor that hands out weighed shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from hyperlearn_dask.backend import Array, array_module, to_host
from hyperlearn_dask.factorization.draws.noise import WeighedShard, draw_weights
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.training.executor import Executor, Handle, ShardPlace, entry_places
from hyperlearn_dask.training.schedule import Point

# Of relations with noise of their entities: handles of w_m by relation and modality.
Weights = Mapping[str, Mapping[str, Handle]]


class Weighing:
    """An executor whose shards' entries weigh prod_m w_m; all else is the executor's own."""

    def __init__(self, executor: Executor, problem: Problem, weights: Weights) -> None:
        self._executor, self._problem, self._weights = executor, problem, weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def at_shard(self, name: str, place: ShardPlace, step: Callable[..., Any], *args: Any) -> Handle:
        """``step(weighed shard, *args)``, where the shard is."""
        weights = self._weights.get(place.relation)
        if not weights:
            return self._executor.at_shard(name, place, step, *args)
        modalities = self._problem.terms[place.relation].modalities
        rows = {
            mode: self._executor.rows(weights[m], place, mode)
            for mode, m in enumerate(modalities)
            if m in weights
        }
        return self._executor.at_shard(name, place, _weighed, step, rows, *args)


def weighing(executor: Executor, problem: Problem, weights: Weights) -> Executor:
    """The executor for entries that weigh so."""
    return cast(Executor, Weighing(executor, problem, weights)) if weights else executor


def even_weights(problem: Problem, executor: Executor) -> dict[str, dict[str, Handle]]:
    """Weights of 1, where a chain begins."""
    return {
        name: {
            m: executor.hold(f"weights-{name}-{m}", m, np.ones(problem.sizes[m])) for m in sorted(term.noise)
        }
        for name, term in problem.terms.items()
        if term.noise
    }


def drawn_weights(
    problem: Problem, executor: Executor, point: Point, weights: Weights, seed: tuple[int, ...]
) -> dict[str, dict[str, Handle]]:
    """New weights given the factors, one modality after the other."""
    found = {name: dict(of_one) for name, of_one in weights.items()}
    for at, name in enumerate(found):
        term = problem.terms[name]
        for index, m in enumerate(found[name]):
            squares = [
                weighing(executor, problem, found).at_shard(
                    f"noise-{place.name}",
                    place,
                    _squares,
                    problem,
                    {o: executor.rows(point.factors[o], place, k) for k, o in enumerate(term.modalities)},
                    term.mode(m),
                )
                for place in entry_places(executor)
                if place.relation == name
            ]
            found[name][m] = executor.at_modality(
                f"weights-{name}-{m}", m, _draw, found[name][m], 2 * term.weight, squares, (*seed, at, index)
            )
    return found


def _weighed(shard: Any, step: Callable[..., Any], weights: Mapping[int, Array], *args: Any) -> Any:
    return step(WeighedShard(shard, weights), *args)


def _squares(shard: Any, problem: Problem, factors: Mapping[str, Array], mode: int) -> Any:
    first, sums, counts = shard.squares(problem, factors, mode)
    return first, to_host(sums), to_host(counts)


def _draw(
    _: Array | None,
    weights: Array,
    precision: float,
    squares: list[tuple[int, np.ndarray, np.ndarray]],
    seed: tuple[int, ...],
) -> Array:
    drawn = draw_weights(to_host(weights), precision, squares, np.random.default_rng(seed))
    return array_module(weights).asarray(drawn)
