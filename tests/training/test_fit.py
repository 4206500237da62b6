import dataclasses
import itertools

import numpy as np
import pytest
import scipy.sparse

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.holdout import relation_of
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.executor import LocalExecutor, Setting, ShardPlace
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.schedule import sweeps
from tests.factorization.made_up import loop_objective, random_laplacian, random_tensor

from .made_up import hypergraph_of, two_relations, two_relations_problem


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
@pytest.mark.parametrize("start", ["auto", "random"])
def test_F_never_rises_and_is_what_its_definition_says(schedule, start):
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, schedule=schedule, start=start)
    reports = []
    model = fit(hypergraph, problem, training, on_sweep=reports.append)
    objective = [r.objective for r in reports]
    assert len(objective) == 25
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(objective))
    assert objective[-1] < 0.9 * objective[0]
    tensors = {
        name: SparseTensor(r.tensor.coords, r.tensor.values - problem.terms[name].offset, r.tensor.shape)
        for name, r in hypergraph.relations.items()
    }
    laplacians = {m: g.laplacian for m, g in hypergraph.graphs.items()}
    assert loop_objective(problem, tensors, laplacians, model.factors) == pytest.approx(objective[-1])
    assert sum(reports[-1].parts.values()) == pytest.approx(objective[-1])


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_a_sweep_leaves_the_points_before_it_as_they_were(schedule):
    hypergraph = two_relations()
    problem, _ = two_relations_problem(hypergraph)
    offsets = {name: term.offset for name, term in problem.terms.items()}
    executor = LocalExecutor(hypergraph, Setting("float64", offsets, {}))
    rng = np.random.default_rng(0)
    start = {m: rng.normal(size=(n, problem.rank)) for m, n in problem.sizes.items()}
    points, copies = [start], [{m: a.copy() for m, a in start.items()}]
    for _, point, course in itertools.islice(sweeps(problem, executor, start, schedule), 4):
        assert bool(course.directions) == (schedule == "parallel" and len(points) > 1)
        points.append(point.factors)
        copies.append({m: a.copy() for m, a in point.factors.items()})
    for factors, as_it_was in zip(points, copies, strict=True):
        for m, factor in factors.items():
            np.testing.assert_array_equal(factor, as_it_was[m])


def test_both_schedules_end_where_no_block_can_be_improved():
    hypergraph = two_relations()
    final = {}
    for schedule in ("parallel", "sequential"):
        problem, training = two_relations_problem(hypergraph, schedule=schedule, sweeps=400, tolerance=1e-9)
        model = fit(hypergraph, problem, training)
        assert len(model.history) < 400, "it did not stop by itself"
        final[schedule] = model.history[-1]["objective"]
    assert final["parallel"] == pytest.approx(final["sequential"], rel=0.03)


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_a_planted_model_is_recovered_from_observed_entries(schedule):
    rng = np.random.default_rng(0)
    sizes = {"user": 60, "item": 50, "time": 15}
    planted = {m: rng.normal(size=(n, 3)) for m, n in sizes.items()}
    cells = rng.choice(60 * 50 * 15, 8000, replace=False)
    coords = tuple(c.astype(np.int32) for c in np.unravel_index(np.sort(cells), (60, 50, 15)))
    values = np.prod([planted[m][c] for m, c in zip(sizes, coords)], axis=0).sum(axis=1)
    hypergraph = hypergraph_of({"r": (tuple(sizes), SparseTensor(coords, values, (60, 50, 15)))}, sizes)
    training = TrainingSpec(groups={"all": 3}, ridge=1e-6, sweeps=300, tolerance=1e-8, schedule=schedule)
    problem = problem_of(hypergraph, {"r": TermSettings("unknown")}, training, {})
    model = fit(hypergraph, problem, training)
    unseen = rng.choice(60 * 50 * 15, 2000, replace=False)
    at = np.unravel_index(unseen, (60, 50, 15))
    truth = np.prod([planted[m][c] for m, c in zip(sizes, at)], axis=0).sum(axis=1)
    assert np.sqrt(np.mean((model.predict("r", at) - truth) ** 2)) < 0.01 * truth.std()


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_planted_blocks_of_a_zero_tensor_are_recovered(schedule):
    """Four blocks of hyperedges and nothing between them: rank 4 leaves no residual."""
    sizes = {"a": 20, "b": 16, "c": 8}
    cells = [
        (i, j, k)
        for i in range(20)
        for j in range(16)
        for k in range(8)
        if i * 4 // 20 == j * 4 // 16 == k * 4 // 8
    ]
    coords = tuple(np.array(c, dtype=np.int32) for c in zip(*cells))
    tensor = SparseTensor(coords, np.ones(len(cells)), (20, 16, 8))
    hypergraph = hypergraph_of({"r": (("a", "b", "c"), tensor)}, sizes)
    training = TrainingSpec(groups={"all": 4}, ridge=1e-6, sweeps=200, tolerance=1e-10, schedule=schedule)
    model = fit(hypergraph, problem_of(hypergraph, {}, training, {}), training)
    np.testing.assert_allclose(model.predict("r", coords), 1, atol=1e-3)
    assert model.history[-1]["objective"] < 1e-3 * tensor.nnz


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=5, seed=1)
    first, again = (fit(hypergraph, problem, training) for _ in range(2))
    other = fit(hypergraph, *two_relations_problem(hypergraph, sweeps=5, seed=2))
    for m in first.factors:
        np.testing.assert_array_equal(first.factors[m], again.factors[m])
        assert not np.allclose(first.factors[m], other.factors[m])


def test_float32_follows_float64():
    hypergraph = two_relations()
    single = fit(hypergraph, *two_relations_problem(hypergraph, dtype="float32", sweeps=10))
    double = fit(hypergraph, *two_relations_problem(hypergraph, sweeps=10))
    assert all(a.dtype == np.float32 for a in single.factors.values())
    assert single.history[-1]["objective"] == pytest.approx(double.history[-1]["objective"], rel=1e-3)


@pytest.mark.parametrize(("factor", "dtype"), [(1e20, "float32"), (1e60, "float32"), (1e200, "float64")])
def test_values_that_a_precision_cannot_square_are_refused(factor, dtype):
    """Without a warning before: here those are errors."""
    hypergraph = two_relations()
    rated = hypergraph.relations["rated"].tensor
    large = dataclasses.replace(rated, values=factor * rated.values)
    other = {**hypergraph.relations, "rated": relation_of(hypergraph.relations["rated"], large)}
    hypergraph = dataclasses.replace(hypergraph, relations=other)
    with pytest.raises(InputError, match=rf"^relations.rated: .*too large for {dtype}"):
        fit(hypergraph, *two_relations_problem(hypergraph, dtype=dtype, sweeps=2))
    if dtype == "float32":
        trained = fit(hypergraph, *two_relations_problem(hypergraph, sweeps=2))
        assert np.isfinite(trained.history[-1]["objective"])


def test_more_columns_than_memory_holds_are_refused_at_once():
    hypergraph = two_relations()
    columns = {"shared": 100_000_000, "pair": 2, "bias": 1}
    with pytest.raises(InputError, match=r"^training: 100,000,003 columns take at least .* GiB of"):
        fit(hypergraph, *two_relations_problem(hypergraph, groups=columns))


def test_fixed_columns_are_ones_and_unused_ones_zero():
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=3)
    model = fit(hypergraph, problem, training)
    shared, pair, bias = (problem.columns_of(g) for g in ("shared", "pair", "bias"))
    assert (model.factors["c"][:, pair] == 1).all()  # used by "made", coupled to a and b only
    assert (model.factors["c"][:, bias] == 1).all()
    assert (model.factors["a"][:, bias] == 0).all()  # "made" does not use it
    assert np.ptp(model.factors["b"][:, shared]) > 0


def test_indices_are_as_narrow_as_modes_allow():
    coords = (np.array([2**40, 2**40 + 1, 2**40 + 2]), np.array([0, 3, 1]))
    tensor = SparseTensor(coords, np.ones(3), (2**40 + 3, 4))
    place = ShardPlace("r", 0, 0, 3, first_row=2**40, rows=3)
    own = place.cut(tensor, 0.0, "float32").tensor
    assert [c.dtype for c in own.coords] == [np.int32, np.int32]
    assert [c.tolist() for c in own.coords] == [[0, 1, 2], [0, 3, 1]]


def test_inputs_are_not_changed():
    hypergraph = two_relations()
    before = hypergraph.relations["rated"].tensor.values.copy()
    fit(hypergraph, *two_relations_problem(hypergraph, sweeps=2))
    np.testing.assert_array_equal(hypergraph.relations["rated"].tensor.values, before)


def test_posterior_draws_start_at_the_optimum_and_predict_by_their_mean():
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, draws=40, burn_in=5)
    reports = []
    model = fit(hypergraph, problem, training, on_sweep=reports.append)
    optimum = fit(hypergraph, *two_relations_problem(hypergraph))
    assert len(reports) == 25 + 45
    assert len(model.history) == 25
    for m, factor in optimum.factors.items():
        np.testing.assert_array_equal(model.factors[m], factor)
        assert model.draws[m].shape == (40, *factor.shape)
    # Draws are no better than the optimum, and none is the same as another.
    assert min(r.objective for r in reports[25:]) > reports[24].objective
    assert np.abs(np.diff(model.draws["b"], axis=0)).max(axis=(1, 2)).min() > 0
    coords = hypergraph.relations["rated"].tensor.coords
    each = np.array([one.predict("rated", coords) for one in model.each_draw()])
    np.testing.assert_allclose(model.predict("rated", coords), each.mean(axis=0))
    noise = 1 / (2 * problem.terms["rated"].weight)
    np.testing.assert_allclose(model.deviation("rated", coords) ** 2, each.var(axis=0) + noise)


def test_intervals_of_the_posterior_hold_what_they_promise():
    """Data drawn from the model itself: 90 % intervals of unseen values hold 90 % of them."""
    rng = np.random.default_rng(0)
    sizes, noise = {"user": 80, "item": 60}, 0.5
    planted = {m: rng.normal(size=(n, 3)) for m, n in sizes.items()}
    cells = rng.permutation(80 * 60)
    users, items = np.unravel_index(cells, (80, 60))
    values = (planted["user"][users] * planted["item"][items]).sum(axis=1) + rng.normal(
        scale=noise, size=len(cells)
    )
    train = np.sort(cells[:2000])
    order = np.argsort(cells[:2000])
    tensor = SparseTensor(
        tuple(c.astype(np.int32) for c in np.unravel_index(train, (80, 60))), values[:2000][order], (80, 60)
    )
    hypergraph = hypergraph_of({"r": (("user", "item"), tensor)}, sizes)
    # exp(-F): noise precision 2 lambda, prior precision eps
    training = TrainingSpec(groups={"all": 3}, ridge=1.0, draws=300, burn_in=30)
    settings = {"r": TermSettings("unknown", 1 / (2 * noise**2))}
    model = fit(hypergraph, problem_of(hypergraph, settings, training, {}), training)
    coords = users[2000:], items[2000:]
    mean, deviation = model.predict("r", coords), model.deviation("r", coords)
    inside = np.abs(values[2000:] - mean) < 1.645 * deviation
    assert 0.87 < inside.mean() < 0.93


def test_draws_without_any_were_not_made():
    hypergraph = two_relations()
    model = fit(hypergraph, *two_relations_problem(hypergraph, sweeps=2))
    with pytest.raises(InputError, match="no posterior draws"):
        model.deviation("rated", hypergraph.relations["rated"].tensor.coords)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["zero", "unknown", "context"])
@pytest.mark.parametrize("graph", [True, False])
def test_more_columns_than_data_and_no_ridge_still_go_downhill(dtype, loss, graph):
    """Every block is singular here; F must fall to next to nothing all the same."""
    rng = np.random.default_rng(1)
    sizes = {"a": 40, "b": 3}
    tensor = random_tensor(rng, (40, 3), 60)
    laplacians = {"a": random_laplacian(rng, 40)} if graph else {}
    hypergraph = hypergraph_of({"r": (("a", "b"), tensor)}, sizes, laplacians)
    training = TrainingSpec(groups={"all": 7}, ridge=0.0, sweeps=60, tolerance=0.0, dtype=dtype)
    settings = {"r": TermSettings(loss, target="b")}
    model = fit(hypergraph, problem_of(hypergraph, settings, training, {"a": 1e-3}), training)
    objective = [row["objective"] for row in model.history]
    total = float((tensor.values**2).sum())
    rise = 1e-12 if dtype == "float64" else 1e-6
    assert all(after <= before + rise * total for before, after in itertools.pairwise(objective))
    assert objective[-1] < 0.02 * total


def test_draws_see_the_blocks_drawn_before_them():
    """x = a + b for one a and one b: the two are as correlated as their posterior says."""
    tensor = SparseTensor((np.array([0]), np.array([0])), np.array([1.0]), (1, 1))
    hypergraph = hypergraph_of({"r": (("a", "b"), tensor)}, {"a": 1, "b": 1})
    training = TrainingSpec(groups={"a": 1, "b": 1}, ridge=1.0, draws=100 * 10, burn_in=10)
    settings = {"r": TermSettings("unknown", 1.0, {"a": ("a",), "b": ("b",)})}
    problem = problem_of(hypergraph, settings, training, {})
    model = fit(hypergraph, problem, training)
    a, b = model.draws["a"][:, 0, 0], model.draws["b"][:, 0, 1]
    assert len(a) == 100  # the most that are kept, evenly spaced
    # Precision [[1 + 2, 2], [2, 1 + 2]]: covariance [[.6, -.4], [-.4, .6]]
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(-2 / 3, abs=0.2)
    assert a.std() == pytest.approx(np.sqrt(0.6), rel=0.25)


def test_an_entity_is_informed_by_a_hyperedge_or_a_neighbour():
    tensor = SparseTensor((np.array([0, 2]), np.array([1, 1])), np.ones(2), (5, 3))
    weights = np.zeros((5, 5))
    weights[2, 3] = weights[3, 2] = 1
    laplacian = laplacian_graph("a", scipy.sparse.csr_array(weights)).laplacian
    hypergraph = hypergraph_of({"r": (("a", "b"), tensor)}, {"a": 5, "b": 3}, {"a": laplacian})
    training = TrainingSpec(groups={"all": 1}, sweeps=2)
    for mu, expected in ((1.0, [1, 0, 1, 1, 0]), (0.0, [1, 0, 1, 0, 0])):
        model = fit(hypergraph, problem_of(hypergraph, {}, training, {"a": mu}), training)
        assert model.informed["a"].tolist() == [bool(e) for e in expected]
        assert model.informed["b"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    "rated",
    [
        TermSettings("context", 1.0, {"shared": ("b", "c")}, target="c", absent_weight=0.3),
        TermSettings("context", 1.0, {"shared": ("b", "c"), "bias": ("b",)}, target="b"),
        TermSettings("unknown", 1.0, {"bias": ("b",)}),  # c has no column of its own there
        TermSettings("zero", 1.0, {"bias": ("b",)}, absent_weight=0.5),
    ],
    ids=["contexts of one entity", "fixed columns", "an uncoupled modality", "and with zeros"],
)
def test_relations_of_two_modalities_have_the_objective_of_their_loops(rated):
    hypergraph = hypergraph_of(
        {"rated": (("b", "c"), two_relations().relations["rated"].tensor)}, {"b": 25, "c": 12}
    )
    training = TrainingSpec(groups={"shared": 4, "bias": 1}, ridge=0.05, sweeps=8, tolerance=0.0)
    problem = problem_of(hypergraph, {"rated": rated}, training, {})
    model = fit(hypergraph, problem, training)
    objective = [row["objective"] for row in model.history]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(objective))
    tensors = {"rated": hypergraph.relations["rated"].tensor}
    assert loop_objective(problem, tensors, {}, model.factors) == pytest.approx(objective[-1])
