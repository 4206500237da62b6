"""Training with learned convolutions: the guarantees of plain training, in both schedules and on workers."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.config import EncoderSpec, TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.checkpoint import Checkpoints
from hyperlearn_dask.training.fit import fit, problem_of
from tests.factorization.made_up import loop_objective, random_laplacian, random_tensor

from .made_up import SETTINGS, SIZES, hypergraph_of, two_relations

ENCODERS = {
    "features": {"a": EncoderSpec("features", 2, 0.1)},
    "own rows": {"b": EncoderSpec("features", 1, 0.1, own=True)},
    "free": {"b": EncoderSpec("free", 1, 0.1)},
    "several": {"a": EncoderSpec("free", 2, 0.2), "c": EncoderSpec("features", 0, 0.1, own=True)},
}


def with_features(seed=0):
    """The hypergraph of two relations, every modality with features; the first entity has none."""
    rng = np.random.default_rng(seed)
    hypergraph = two_relations()
    features = {}
    for m, n in SIZES.items():
        matrix = rng.normal(size=(n, 4)) * (rng.random((n, 4)) < 0.7)
        matrix[0] = 0
        features[m] = sp.csr_array(matrix)
    return hypergraph.__class__(
        hypergraph.modalities, hypergraph.relations, hypergraph.graphs, features=features
    )


def problem_with(hypergraph, encoders, **changes):
    training = TrainingSpec(
        **{
            "groups": {"shared": 4, "pair": 2, "bias": 1},
            "ridge": 0.05,
            "sweeps": 25,
            "tolerance": 0.0,
            **changes,
        }
    )
    return problem_of(hypergraph, SETTINGS, training, {"a": 0.3, "b": 2.0}, encoders), training


def convolved(model, hypergraph, modality):
    """The rows that a model's weights make, from the definition; only of encoders on features alone."""
    encoding, total = model.encoders[modality], 0.0
    x = hypergraph.features[modality].toarray()
    shifted = hypergraph.graphs[modality].laplacian.toarray() - np.eye(len(x))
    polynomials = [np.eye(len(x)), shifted]
    while len(polynomials) < len(encoding.thetas):
        polynomials.append(2 * shifted @ polynomials[-1] - polynomials[-2])
    for polynomial, theta in zip(polynomials, encoding.thetas):
        total = total + polynomial @ x @ theta
    return total


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
@pytest.mark.parametrize("case", ENCODERS)
def test_F_never_rises_and_is_what_its_definition_says(schedule, case):
    hypergraph, encoders = with_features(), ENCODERS[case]
    problem, training = problem_with(hypergraph, encoders, schedule=schedule)
    reports = []
    model = fit(hypergraph, problem, training, on_sweep=reports.append)
    objective = [r.objective for r in reports]
    assert len(objective) == 25
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(objective))
    assert objective[-1] < 0.95 * objective[0]
    tensors = {
        name: SparseTensor(r.tensor.coords, r.tensor.values - problem.terms[name].offset, r.tensor.shape)
        for name, r in hypergraph.relations.items()
    }
    laplacians = {m: g.laplacian for m, g in hypergraph.graphs.items()}
    expected = loop_objective(problem, tensors, laplacians, model.factors)
    # The definition there has a ridge on every modality's rows.
    for m in encoders:
        expected -= problem.ridge / 2 * (model.factors[m][:, problem.free_columns(m)] ** 2).sum()
        expected += reports[-1].parts[f"encoder {m}"]
    assert expected == pytest.approx(objective[-1])
    if case == "features":
        thetas = model.encoders["a"].thetas
        assert reports[-1].parts["encoder a"] == pytest.approx(0.1 / 2 * (thetas**2).sum())
        free = problem.free_columns("a")
        np.testing.assert_allclose(model.factors["a"][:, free], convolved(model, hypergraph, "a"), atol=1e-9)


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_planted_weights_are_found_and_rows_never_observed_with_them(schedule):
    """Rows are a convolution of features; a third of them are in no hyperedge at all."""
    rng = np.random.default_rng(0)
    laplacian = random_laplacian(rng, 60, density=0.1, isolated=0)
    x = rng.normal(size=(60, 4))
    thetas = rng.normal(size=(2, 4, 2))
    rows = x @ thetas[0] + (laplacian.toarray() - np.eye(60)) @ x @ thetas[1]
    others = rng.normal(size=(30, 2))
    cells = rng.choice(40 * 30, 700, replace=False)
    i, j = (c.astype(np.int32) for c in np.unravel_index(np.sort(cells), (40, 30)))
    tensor = SparseTensor((i, j), (rows[i] * others[j]).sum(axis=1), (60, 30))
    plain = hypergraph_of({"r": (("a", "b"), tensor)}, {"a": 60, "b": 30}, {"a": laplacian})
    hypergraph = plain.__class__(
        plain.modalities, plain.relations, plain.graphs, features={"a": sp.csr_array(x)}
    )
    training = TrainingSpec(groups={"all": 2}, ridge=1e-6, sweeps=300, tolerance=1e-9, schedule=schedule)
    encoders = {"a": EncoderSpec("features", 1, 1e-6)}
    problem = problem_of(hypergraph, {"r": TermSettings("unknown")}, training, {"a": 0.0}, encoders)
    model = fit(hypergraph, problem, training)
    assert model.informed["a"].all()
    at = np.repeat(np.arange(40, 60), 30), np.tile(np.arange(30), 20)
    truth = (rows[at[0]] * others[at[1]]).sum(axis=1)
    assert np.sqrt(np.mean((model.predict("r", at) - truth) ** 2)) < 0.02 * truth.std()


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_identity_features_without_a_graph_train_as_plain_factors_do(schedule):
    plain = two_relations()
    hypergraph = plain.__class__(
        plain.modalities, plain.relations, plain.graphs, features={"c": sp.csr_array(np.eye(SIZES["c"]))}
    )
    encoders = {"c": EncoderSpec("features", 0, 0.05)}
    expected = fit(hypergraph, *problem_with(hypergraph, {}, schedule=schedule, sweeps=300, tolerance=1e-10))
    got = fit(hypergraph, *problem_with(hypergraph, encoders, schedule=schedule, sweeps=300, tolerance=1e-10))
    assert got.history[-1]["objective"] == pytest.approx(expected.history[-1]["objective"], rel=0.02)


def test_who_is_known_is_who_has_features_or_neighbours():
    rng = np.random.default_rng(0)
    tensor = random_tensor(rng, (6, 5), 12)
    tensor = tensor[tensor.coords[0] < 3]
    plain = hypergraph_of({"r": (("a", "b"), tensor)}, {"a": 6, "b": 5})
    x = sp.csr_array(np.array([[0], [1], [1], [1], [0], [0]], dtype=float))
    hypergraph = plain.__class__(plain.modalities, plain.relations, plain.graphs, features={"a": x})
    training = TrainingSpec(groups={"all": 1}, sweeps=1)
    seen = np.isin(np.arange(6), tensor.coords[0])
    for own in (False, True):
        problem = problem_of(hypergraph, {}, training, {}, {"a": EncoderSpec("features", 0, 1.0, own)})
        described = np.array([False, True, True, True, False, False])
        expected = described | seen if own else described
        np.testing.assert_array_equal(fit(hypergraph, problem, training).informed["a"], expected)


@pytest.mark.parametrize("case", ["own rows", "several"])
def test_an_interrupted_training_comes_to_the_same(case, tmp_path):
    hypergraph = with_features()
    problem, training = problem_with(hypergraph, ENCODERS[case], sweeps=6)
    expected = fit(hypergraph, problem, training)

    def interrupt(report):
        if report.sweep == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            hypergraph,
            problem,
            training,
            on_sweep=interrupt,
            checkpoints=Checkpoints(tmp_path / "c", "f" * 12, every=0.0, share=1.0),
        )
    said = []
    checkpoints = Checkpoints(tmp_path / "c", "f" * 12, tell=said.append)
    got = fit(hypergraph, problem, training, checkpoints=checkpoints)
    assert said == ["going on from sweep 3"]
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(got.factors[m], factor, rtol=0, atol=1e-6 * np.abs(factor).max())


def test_validation_returns_the_best_rows_with_the_code_that_makes_them(tmp_path):
    hypergraph = with_features()
    problem, training = problem_with(
        hypergraph, ENCODERS["features"], sweeps=12, validation="rated", held_out=0.2, seed=1
    )
    checkpoints = Checkpoints(tmp_path / "c", "f" * 12, every=0.0, share=1.0)
    model = fit(hypergraph, problem, training, checkpoints=checkpoints)
    assert 1 < model.kept["sweep"] < len(model.history)
    free = problem.free_columns("a")
    np.testing.assert_allclose(model.factors["a"][:, free], convolved(model, hypergraph, "a"), atol=1e-9)
    # The last checkpoint is of a sweep after the best one, and knows it.
    again = fit(hypergraph, problem, training, checkpoints=Checkpoints(tmp_path / "c", "f" * 12))
    assert again.kept["sweep"] == model.kept["sweep"]
    np.testing.assert_array_equal(again.factors["a"], model.factors["a"])
    np.testing.assert_array_equal(again.encoders["a"].thetas, model.encoders["a"].thetas)


def test_a_gpu_is_refused_in_words():
    hypergraph = with_features()
    problem, training = problem_with(hypergraph, ENCODERS["free"])
    with pytest.raises(InputError, match="encoders train on the CPU"):
        fit(hypergraph, problem, training, device="cuda")


def test_workers_give_what_one_process_does(tmp_path):
    save_hypergraph(with_features(), tmp_path / "h.zarr")
    stored = open_hypergraph(tmp_path / "h.zarr")
    with open_scheduler("local", list(SIZES), workers=2) as client:
        for case, schedule in (("own rows", "parallel"), ("several", "sequential")):
            problem, training = problem_with(stored, ENCODERS[case], schedule=schedule, sweeps=3)
            here = fit(with_features(), problem, training)
            there = fit(stored, problem, training, client=client)
            for m, factor in here.factors.items():
                limit = 1e-6 * np.abs(factor).max()
                np.testing.assert_allclose(there.factors[m], factor, rtol=0, atol=limit)
            objectives = [[row["objective"] for row in model.history] for model in (here, there)]
            assert objectives[1] == pytest.approx(objectives[0], rel=1e-9)
            for m, encoding in here.encoders.items():
                limit = 1e-6 * np.abs(encoding.messages).max()
                np.testing.assert_allclose(there.encoders[m].messages, encoding.messages, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("encoder", "changes", "message"),
    [
        ({"x": EncoderSpec()}, {}, "no modality 'x'"),
        ({"a": EncoderSpec()}, {}, "is on features, and the modality has none"),
        ({"c": EncoderSpec("free", 1)}, {}, "degree 1 and the modality no graph"),
        ({"a": EncoderSpec("free", 1)}, {"draws": 5}, "on free rows and has no posterior draws"),
    ],
)
def test_an_encoder_that_lacks_something_is_refused(encoder, changes, message):
    with pytest.raises(InputError, match=message):
        problem_with(two_relations(), encoder, **changes)
