"""Posterior draws with encoders and with hyperparameters: calibrated, the same wherever they are made."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.config import EncoderSpec, TrainingSpec
from hyperlearn_dask.factorization.kernels.rows import RowGrams
from hyperlearn_dask.factorization.model_store import open_model, save_model
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.checkpoint import Checkpoints
from hyperlearn_dask.training.fit import fit, problem_of

from .made_up import hypergraph_of, two_relations
from .test_encoder import SIZES, problem_with, with_features

# On a modality with a graph, which bends its weights; on features alone; on features and own rows.
ENCODERS = {
    "a": EncoderSpec("features", 1, 0.1),
    "b": EncoderSpec("features", 0, 0.1, own=True),
    "c": EncoderSpec("features", 0, 0.1, own=True),
}
SAMPLED = {"draws": 6, "burn_in": 2, "hyperparameters": "sampled", "sweeps": 2}


def with_noise_of_entities(hypergraph):
    """A problem with encoders everywhere and a relation whose entities differ in their noise."""
    problem, training = problem_with(hypergraph, ENCODERS, **SAMPLED)
    rated = replace(problem.terms["rated"], noise=("b", "c"))
    return replace(problem, terms={**problem.terms, "rated": rated}), training


def planted(noise=0.5):
    """Ratings of 80 users and 60 items by a model with features of users; the last 10 users rate nothing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 4))
    user = x @ rng.normal(scale=0.8, size=(4, 3)) + rng.normal(scale=0.4, size=(80, 3))
    item = rng.normal(size=(60, 3))
    cells = rng.permutation(80 * 60)
    cells = np.concatenate([cells[cells < 70 * 60], cells[cells >= 70 * 60]])
    users, items = np.unravel_index(cells, (80, 60))
    values = (user[users] * item[items]).sum(axis=1) + rng.normal(scale=noise, size=len(cells))
    order = np.argsort(cells[:1500])
    train = (users[:1500][order].astype(np.int32), items[:1500][order].astype(np.int32))
    tensor = SparseTensor(train, values[:1500][order], (80, 60))
    plain = hypergraph_of({"r": (("user", "item"), tensor)}, {"user": 80, "item": 60})
    hypergraph = replace(plain, features={"user": sp.csr_array(x)}, feature_blocks={"user": (3, 1)})
    return hypergraph, (users[1500:], items[1500:]), values[1500:]


def test_sampled_hyperparameters_are_found_and_intervals_hold_what_they_promise():
    """Begun with noise and ridges that are far off."""
    hypergraph, coords, values = planted()
    training = TrainingSpec(
        groups={"all": 3}, ridge=20.0, sweeps=5, draws=200, burn_in=100, hyperparameters="sampled"
    )
    encoders = {"user": EncoderSpec("features", 0, 5.0, own=True)}
    problem = problem_of(hypergraph, {"r": TermSettings("unknown", 0.1)}, training, {}, encoders)
    model = fit(hypergraph, problem, training)
    # lambda = 1 / (2 variance)
    assert 1 / (2 * model.problem.terms["r"].weight) == pytest.approx(0.25, rel=0.15)
    inside = np.abs(values - model.predict("r", coords)) < 1.645 * model.deviation("r", coords)
    new = coords[0] >= 70
    assert 0.87 < inside[~new].mean() < 0.93
    assert 0.85 < inside[new].mean() < 0.96  # the features say something about them, and how little
    error = np.sqrt(np.mean((values - model.predict("r", coords))[new] ** 2))
    assert error < 0.7 * values[new].std()
    fixed = replace(training, hyperparameters="fixed")
    off = fit(hypergraph, problem, fixed)
    far = np.abs(values - off.predict("r", coords)) < 1.645 * off.deviation("r", coords)
    assert far.mean() > 0.97


def test_draws_do_not_depend_on_where_they_are_made(tmp_path):
    save_hypergraph(with_features(), tmp_path / "h.zarr")
    stored = open_hypergraph(tmp_path / "h.zarr")
    problem, training = with_noise_of_entities(stored)
    here = fit(with_features(), problem, training)
    with open_scheduler("local", list(SIZES), workers=2) as client:
        there = fit(stored, problem, training, client=client)
    for m, drawn in here.draws.items():
        np.testing.assert_allclose(there.draws[m], drawn, rtol=0, atol=1e-5 * np.abs(drawn).max())
    for m, variances in here.noise["rated"].items():
        np.testing.assert_allclose(there.noise["rated"][m], variances, rtol=1e-5)
    weights = [model.problem.terms["rated"].weight for model in (here, there)]
    assert weights[1] == pytest.approx(weights[0], rel=1e-6)
    assert weights[0] != 0.5
    assert here.problem.terms["made"].weight == 1.0  # zeros are no observations: what they weigh is a setting


def test_interrupted_draws_come_to_the_same(tmp_path):
    hypergraph = with_features()
    problem, training = with_noise_of_entities(hypergraph)
    expected = fit(hypergraph, problem, training)

    def interrupt(report):
        if report.kind == "draw" and report.sweep == 5:
            raise KeyboardInterrupt

    often = {"every": 0.0, "share": 1.0}
    with pytest.raises(KeyboardInterrupt):
        checkpoints = Checkpoints(tmp_path / "c", "f" * 12, **often)
        fit(hypergraph, problem, training, on_sweep=interrupt, checkpoints=checkpoints)
    said = []
    got = fit(
        hypergraph, problem, training, checkpoints=Checkpoints(tmp_path / "c", "f" * 12, tell=said.append)
    )
    assert said == ["going on from posterior draw 4"]
    for m, drawn in expected.draws.items():
        np.testing.assert_allclose(got.draws[m], drawn, rtol=0, atol=1e-6 * np.abs(drawn).max())
    for m, variances in expected.noise["rated"].items():
        np.testing.assert_allclose(got.noise["rated"][m], variances, rtol=1e-5)
    assert got.problem.terms["rated"].weight == pytest.approx(expected.problem.terms["rated"].weight)


def test_blocks_of_features_are_stored(tmp_path):
    hypergraph, _, _ = planted()
    save_hypergraph(hypergraph, tmp_path / "h.zarr")
    assert open_hypergraph(tmp_path / "h.zarr").feature_blocks == {"user": (3, 1)}


def test_noise_of_entities_may_have_systems_that_are_made_late(monkeypatch):
    hypergraph = two_relations()
    training = TrainingSpec(groups={"all": 3}, sweeps=2, draws=3, burn_in=1, hyperparameters="sampled")
    drawn = []
    for at_once in (1 << 24, 0):
        monkeypatch.setattr("hyperlearn_dask.factorization.kernels.cpu.FORMED_AT_ONCE", at_once)
        monkeypatch.setattr(RowGrams, "nbytes", 0)
        settings = {"made": TermSettings("zero"), "rated": TermSettings("unknown", noise=("b", "c"))}
        drawn.append(fit(hypergraph, problem_of(hypergraph, settings, training, {}), training).draws)
    for modality, factors in drawn[0].items():
        np.testing.assert_allclose(drawn[1][modality], factors, rtol=1e-4, atol=1e-5)


def test_noise_of_entities_is_found(tmp_path):
    """Half of the users are four times as hard to tell as the others."""
    rng = np.random.default_rng(1)
    items, users = (c.ravel() for c in np.indices((150, 60)))  # sorted by the longer mode
    scale = np.where(np.arange(60) < 30, 0.5, 2.0)
    a, b = rng.normal(size=(60, 2)), rng.normal(size=(150, 2))
    values = (a[users] * b[items]).sum(axis=1) + scale[users] * rng.normal(size=9000)
    train = rng.random(9000) < 0.6
    tensor = SparseTensor(
        (users[train].astype(np.int32), items[train].astype(np.int32)), values[train], (60, 150)
    )
    hypergraph = hypergraph_of({"r": (("user", "item"), tensor)}, {"user": 60, "item": 150})
    training = TrainingSpec(
        groups={"all": 2}, sweeps=3, ridge=1.0, draws=100, burn_in=50, hyperparameters="sampled"
    )
    coords = users[~train], items[~train]
    truth = (a[coords[0]] * b[coords[1]]).sum(axis=1)
    errors, models = [], []
    for noise in ((), ("user",)):
        problem = problem_of(hypergraph, {"r": TermSettings("unknown", noise=noise)}, training, {})
        models.append(fit(hypergraph, problem, training))
        errors.append(np.sqrt(np.mean((models[-1].predict("r", coords) - truth) ** 2)))
    assert errors[1] < 0.8 * errors[0]
    model = models[1]
    variance = model.noise["r"]["user"] / (2 * model.problem.terms["r"].weight)
    assert np.median(variance[:30]) == pytest.approx(0.25, rel=0.25)
    assert np.median(variance[30:]) == pytest.approx(4.0, rel=0.25)
    inside = np.abs(values[~train] - model.predict("r", coords)) < 1.645 * model.deviation("r", coords)
    for half in (coords[0] < 30, coords[0] >= 30):
        assert 0.86 < inside[half].mean() < 0.94
    known = model.deviation("r", (np.array([0, 59]), np.array([3, 3])))
    among = model.target_deviations("r", "item", {"user": np.array([0, 59])})
    np.testing.assert_allclose(among[:, 3], known)
    save_model(model, tmp_path / "m.zarr", fingerprint="f", settings={})
    stored = open_model(tmp_path / "m.zarr")
    np.testing.assert_array_equal(stored.deviation("r", coords), model.deviation("r", coords))
