"""Newcomers: a row by the encoder is the convolution's, a row by fold-in the one training would end at."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from hyperlearn_dask import Hypergraph, HyperLearn
from hyperlearn_dask.config import EncoderSpec, TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model_store import open_model, save_model
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.use.foldin import encode, fold_in
from hyperlearn_dask.use.rank import rank, similar
from tests.factorization.made_up import random_laplacian, random_tensor
from tests.training.made_up import hypergraph_of

N, P = 12, 3
SIZES = {"a": N, "b": 9, "c": 5}


def trained(spec, settings=None, laplacian=None, mu=0.0, **changes):
    rng = np.random.default_rng(0)
    laplacian = random_laplacian(rng, N) if laplacian is None else laplacian
    tensor = random_tensor(rng, tuple(SIZES.values()), 150)
    plain = hypergraph_of({"r": (tuple(SIZES), tensor)}, SIZES, {"a": laplacian})
    features = {"a": sp.csr_array(rng.normal(size=(N, P)))}
    hypergraph = Hypergraph(plain.modalities, plain.relations, plain.graphs, features=features)
    groups = {"all": 2, "pair": 1}
    interactions = {"all": ("a", "b", "c"), "pair": ("a", "c")}
    settings = settings or TermSettings("unknown")
    training = TrainingSpec(**{"groups": groups, "ridge": 0.3, "sweeps": 3, "tolerance": 0.0, **changes})
    relations = {"r": dataclasses.replace(settings, interactions=interactions)}
    encoders = {} if spec is None else {"a": spec}
    problem = problem_of(hypergraph, relations, training, {"a": mu}, encoders)
    return fit(hypergraph, problem, training), hypergraph


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("on", ["features", "free"])
def test_an_encoded_newcomer_hears_its_neighbours_and_is_not_heard(on, degree):
    model, hypergraph = trained(EncoderSpec(on, degree, 0.1))
    rng = np.random.default_rng(1)
    x = rng.normal(size=P)
    encoding = model.encoders["a"]
    # The graph with one row more, by the recurrence; only the newcomer's row names it.
    shifted = np.zeros((N + 1, N + 1))
    shifted[:N, :N] = hypergraph.graphs["a"].laplacian.toarray() - np.eye(N)
    shifted[N, [2, 5]] = -np.array([1.0, 3.0]) / 4
    if on == "features":
        base = np.vstack([hypergraph.features["a"].toarray(), x])
    else:  # its free row is not known; that of the others follows from their rows
        operator = sum_of(shifted[:N, :N], np.eye(N), encoding.thetas)
        free = model.problem.free_columns("a")
        rows = np.linalg.solve(operator, model.factors["a"][:, free].ravel())
        base = np.vstack([rows.reshape(N, -1), np.zeros(len(free))])
    now, before, expected = base, None, 0.0
    for theta in encoding.thetas:
        expected = expected + now[N] @ theta
        now, before = (shifted @ now if before is None else 2 * shifted @ now - before), now
    features = x[None] if on == "features" else None
    got = encode(model, "a", features, [{"a2": 1.0, "a5": 3.0}])
    np.testing.assert_allclose(got[0, model.problem.free_columns("a")], expected, atol=1e-8)


def sum_of(shifted, identity, thetas):
    """The matrix of B -> sum_j T_j B Theta_j on rows one after the other."""
    now, before, total = identity, None, 0.0
    for theta in thetas:
        total = total + np.kron(now, theta.T)
        now, before = (shifted @ now if before is None else 2 * shifted @ now - before), now
    return total


def test_a_newcomer_like_an_isolated_entity_gets_its_row_and_answers_questions(tmp_path):
    model, hypergraph = trained(EncoderSpec("features", 3, 0.1))  # entity 0 is isolated
    save_model(model, tmp_path / "m.zarr", fingerprint="", settings={})
    model = open_model(tmp_path / "m.zarr")
    x = hypergraph.features["a"].toarray()[0]
    larger = fold_in(model, "a", "twin", features=x, label="Twin")
    np.testing.assert_allclose(larger.factors["a"][N], model.factors["a"][0], atol=1e-9)
    assert similar(larger, "a", "Twin", top=1).rows[0].id == "a0"
    got, known = (rank(larger, "c", {"a": name}, top=5).rows for name in ("twin", "a0"))
    assert [r.score for r in got] == pytest.approx([r.score for r in known])
    again = fold_in(larger, "a", "third", features=x, neighbours={"a3": 1.0})
    with pytest.raises(InputError, match="'Twin' came after training"):
        fold_in(again, "a", "fourth", features=x, neighbours={"Twin": 1.0})


@pytest.mark.parametrize("absent", ["unknown", "zero", "context"])
@pytest.mark.parametrize("spec", [None, EncoderSpec("features", 0, 0.1, own=True)])
def test_an_entity_folded_in_gets_the_row_that_training_gave_it(absent, spec):
    """At the optimum every row solves its own system; on a ring all entities have the same degree."""
    ring = sp.diags_array([np.ones(N - 1), [1.0]], offsets=[1, 1 - N], shape=(N, N))
    laplacian = laplacian_graph("a", sp.csr_array(ring)).laplacian
    settings = TermSettings(absent, 0.8, target="c" if absent == "context" else None)
    model, hypergraph = trained(spec, settings, laplacian, 0.5, sweeps=300, tolerance=1e-13)
    tensor = hypergraph.relations["r"].tensor
    one = int(np.bincount(tensor.coords[0]).argmax())
    edges = [
        ({"b": f"b{j}", "c": f"c{k}"}, float(v))
        for i, j, k, v in zip(*tensor.coords, tensor.values)
        if i == one
    ]
    larger = fold_in(
        model,
        "a",
        "again",
        hyperedges={"r": edges},
        neighbours={f"a{(one + 1) % N}": 1.0, f"a{(one - 1) % N}": 1.0},
        features=None if spec is None else hypergraph.features["a"].toarray()[one],
    )
    np.testing.assert_allclose(larger.factors["a"][N], model.factors["a"][one], atol=2e-3)


def test_the_python_interface_from_frames_to_newcomers():
    rng = np.random.default_rng(0)
    plays = {"user": ["u", "u", "v", "w", "w"], "song": ["1", "2", "2", "3", "1"]}
    x = rng.normal(size=(4, 2))
    hypergraph = Hypergraph.from_frames(
        {"plays": (plays, ["user", "song"])},
        modalities={"song": ["3", "1", "2", "4"]},
        features={"song": x},
    )
    np.testing.assert_array_equal(hypergraph.features["song"].toarray()[0], x[1])  # "1" comes first
    model = HyperLearn(rank=1, sweeps=5, encoders={"song": {"degree": 0, "decay": 0.1}}).fit(hypergraph)
    rows = model.encode("song", x[:1])
    np.testing.assert_allclose(rows[0], model.factors_["song"][2], atol=1e-9)
    larger = model.fold_in("song", "5", features=x[1])
    assert larger.similar("song", "5", top=1).rows[0].score == pytest.approx(1.0)
    assert "5" not in model.model_.modalities["song"].ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entity": "a1"}, "has an entity 'a1' already"),
        ({"hyperedges": {"x": []}}, "no relation 'x' of modality 'a'"),
        ({"hyperedges": {"r": [{"b": "b1"}]}}, "expected b, c of every hyperedge, got b"),
        ({"hyperedges": {"r": [{"b": "b1", "c": "c1"}] * 2}}, "same hyperedge twice, number 2"),
        ({"features": [1.0, 2.0]}, "expected 3 features, got 2"),
        ({"neighbours": {"a2": -1.0}, "features": [0.0] * P}, "expected a weight above 0"),
    ],
)
def test_what_cannot_be_folded_in_is_refused(arguments, message):
    model, _ = trained(EncoderSpec("features", 1, 0.1), sweeps=1)
    with pytest.raises(InputError, match=message):
        fold_in(model, "a", **{"entity": "new", **arguments})


def test_a_new_target_of_a_context_relation_is_refused_in_words():
    model, _ = trained(None, TermSettings("context", target="a"), sweeps=1)
    with pytest.raises(InputError, match="whose target it is"):
        fold_in(model, "a", "new", hyperedges={"r": [{"b": "b1", "c": "c1"}]})
    with pytest.raises(InputError, match="modality 'a' has no encoder"):
        encode(model, "a", np.zeros((1, P)))
