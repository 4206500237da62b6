import numpy as np
import pytest

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization import objective

from .made_up import INTERACTIONS, LOSSES, loop_objective, three_mode, whole


def line(problem, tensor, laplacians, factors, directions):
    along = [shard.line(problem, factors, directions) for shard in whole(problem, tensor)]
    return objective.objective_line(
        problem,
        {"r": along[:1]},
        {"r": along[1:]},
        {"r": float((tensor.values**2).sum())},
        {m: objective.moments(problem, m, a, directions[m], laplacians.get(m)) for m, a in factors.items()},
    )


def random_directions(problem, factors, rng):
    directions = {}
    for m, factor in factors.items():
        directions[m] = np.zeros_like(factor)
        free = problem.free_columns(m)
        directions[m][:, free] = rng.normal(size=(len(factor), len(free)))
    return directions


@pytest.mark.parametrize("interactions", INTERACTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_polynomial_is_the_loop_objective_everywhere_on_the_line(loss, interactions):
    rng = np.random.default_rng(0)
    problem, tensor, laplacians, factors = three_mode(rng, loss, interactions)
    directions = random_directions(problem, factors, rng)
    parts = line(problem, tensor, laplacians, factors, directions)
    for alpha in (-1.3, 0.0, 0.4, 1.0, 2.0):
        moved = {m: a + alpha * directions[m] for m, a in factors.items()}
        expected = loop_objective(problem, {"r": tensor}, laplacians, moved)
        assert sum(objective.at_step(parts, alpha).values()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_other_step_is_better(loss):
    rng = np.random.default_rng(1)
    for _ in range(5):
        problem, tensor, laplacians, factors = three_mode(rng, loss, "cp")
        parts = line(problem, tensor, laplacians, factors, random_directions(problem, factors, rng))
        best = sum(objective.at_step(parts, objective.best_step(parts)).values())
        for alpha in np.linspace(-3, 3, 601):
            assert best <= sum(objective.at_step(parts, alpha).values()) * (1 + 1e-12)


def test_where_no_step_helps_the_step_is_nothing():
    assert objective.best_step({"fit": np.array([1.0, 0.0, 2.0])}) == 0.0
    assert objective.best_step({"fit": np.array([1.0])}) == 0.0


def test_an_objective_that_is_not_finite_is_told():
    with pytest.raises(InputError, match=r"no longer finite.*float64"):
        objective.best_step({"fit": np.array([1.0, np.nan, np.inf])})
