"""Starts on a small tensor with power-law degrees: none collapses to 0, and all end about as low."""

from __future__ import annotations

import numpy as np
import pytest

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization import starts
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.factorization.starts import start_factors
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.fit import fit, problem_of
from tests.training.made_up import hypergraph_of

SHAPE = (120, 40, 30, 60)
NAMES = ("a", "b", "c", "d")


def power_law() -> SparseTensor:
    """Hyperedges of six planted groups, each mode's entities drawn with power-law degrees."""
    rng = np.random.default_rng(0)
    return drawn_by_power_law(rng, rng.integers(0, 6, size=3000), SHAPE)


def many_groups() -> SparseTensor:
    """Many more planted groups than columns, few of them large, with power-law degrees."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, 61)
    group = rng.choice(60, size=6000, p=frequency / frequency.sum())
    return drawn_by_power_law(rng, group, (600, 200, 150, 300))


def clear_groups() -> SparseTensor:
    """Hyperedges within four planted groups of entities, all of them alike."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 4, size=3000)
    return joined([rng.integers(0, size // 4, 3000) + group * (size // 4) for size in SHAPE], SHAPE)


def drawn_by_power_law(rng: np.random.Generator, group: np.ndarray, shape: tuple[int, ...]) -> SparseTensor:
    """A hyperedge for each entry of ``group``: every group has its own order of the entities."""
    columns = []
    for size in shape:
        order = np.array([rng.permutation(size) for _ in range(group.max() + 1)])
        weight = 1 / np.arange(1, size + 1) ** 1.2
        columns.append(order[group, rng.choice(size, len(group), p=weight / weight.sum())])
    return joined(columns, shape)


def joined(columns: list[np.ndarray], shape: tuple[int, ...]) -> SparseTensor:
    """The hyperedges, each once."""
    rows = np.unique(np.column_stack(columns), axis=0)
    return SparseTensor(tuple(np.ascontiguousarray(c) for c in rows.T), np.ones(len(rows)), shape)


@pytest.mark.parametrize("kind", ["degree", "clustered", "random"])
def test_rows_that_are_drawn_at_once_change_no_number(kind, monkeypatch) -> None:
    problem = build_problem(dict(zip(NAMES, SHAPE)), {"joined": NAMES}, {}, {"all": 5}, {}, 1.0)
    samples = {"joined": power_law()}
    whole = start_factors(problem, samples, kind, 3, "float64")
    monkeypatch.setattr(starts, "ROWS_AT_ONCE", 7)
    in_runs = start_factors(problem, samples, kind, 3, "float64")
    assert all(np.array_equal(in_runs[m], factor) and factor.any() for m, factor in whole.items())


def test_entities_of_no_cluster_start_close_to_0_and_not_there() -> None:
    tensor = clear_groups()
    shape = tuple(n + 10 for n in tensor.shape)
    problem = build_problem(dict(zip(NAMES, shape)), {"joined": NAMES}, {}, {"all": 4}, {}, 1.0)
    samples = {"joined": SparseTensor(tensor.coords, tensor.values, shape)}
    for factor in start_factors(problem, samples, "clustered", 0, "float64").values():
        assert (factor > 0).all()
        assert factor[-10:].max() < 0.01 * factor[:-10].max()


@pytest.mark.parametrize(
    ("make", "width", "better"), [(many_groups, 7, "degree"), (clear_groups, 4, "clustered")]
)
def test_auto_takes_the_start_that_ends_lower(make, width, better) -> None:
    tensor = make()
    hypergraph = hypergraph_of({"joins": (NAMES, tensor)}, dict(zip(NAMES, tensor.shape)))
    problem = problem_of(hypergraph, {"joins": TermSettings()}, TrainingSpec(groups={"all": width}), {})
    for seed in range(2):
        ends = {}
        for start in ("auto", "clustered", "degree"):
            training = TrainingSpec(groups={"all": width}, start=start, sweeps=40, seed=seed)
            ends[start] = fit(hypergraph, problem, training).history[-1]["objective"]
        other = ({"clustered", "degree"} - {better}).pop()
        assert ends["auto"] == ends[better] < 0.997 * ends[other]


def test_no_seed_collapses_and_all_end_about_as_low() -> None:
    tensor = power_law()
    hypergraph = hypergraph_of({"joins": (NAMES, tensor)}, dict(zip(NAMES, SHAPE)))
    final = []
    for seed in range(20):
        training = TrainingSpec(groups={"all": 6}, seed=seed, sweeps=60, tolerance=1e-5)
        problem = problem_of(hypergraph, {"joins": TermSettings()}, training, {})
        final.append(fit(hypergraph, problem, training).history[-1]["objective"])
    assert max(final) < 0.97 * np.square(tensor.values).sum()  # A = 0 leaves all of it
    assert max(final) < 1.01 * min(final)


def test_a_degree_start_is_the_degrees_at_the_size_of_the_tensor() -> None:
    tensor = power_law()
    hypergraph = hypergraph_of({"joins": (NAMES, tensor)}, dict(zip(NAMES, SHAPE)))
    problem = problem_of(hypergraph, {"joins": TermSettings()}, TrainingSpec(groups={"all": 6}), {})
    factors = start_factors(problem, {"joins": tensor}, "degree", 0, "float64")
    for mode, m in enumerate(NAMES):
        degree = np.bincount(tensor.coords[mode], minlength=SHAPE[mode])
        assert np.array_equal(factors[m].max(axis=1) > 0, degree > 0)
        most = factors[m].max(axis=1) / np.maximum(degree, 1)
        assert most.max() == pytest.approx(
            (np.sqrt(tensor.nnz) / 6) ** 0.25 / np.linalg.norm(degree), rel=0.05
        )
