"""The Python interface: parameters, questions, and what it refuses."""

import numpy as np
import pytest
from sklearn.base import clone

from hyperlearn_dask import Hypergraph, HyperLearn
from hyperlearn_dask.errors import InputError

PAINTINGS = {
    "artist": ["Monet", "Monet", "Sisley", "Degas", "Degas"],
    "subject": ["water", "garden", "water", "dancer", "stage"],
}


@pytest.fixture
def hypergraph():
    return Hypergraph.from_frames({"shows": (PAINTINGS, ["artist", "subject"])})


def test_fit_rank_and_similar(hypergraph):
    model = HyperLearn(rank=2, ridge=1e-3).fit(hypergraph)
    assert model.factors_["artist"].shape == (3, 2)
    assert model.ids_["artist"].tolist() == ["Degas", "Monet", "Sisley"]
    assert model.objective_ == model.history_[-1]["objective"]
    best = model.rank("subject", {"artist": "Degas"}, top=2)
    assert {row.id for row in best.rows} == {"dancer", "stage"}
    assert model.similar("artist", "Sisley").rows[0].id == "Monet"


def test_parameters_are_those_of_scikit_learn(hypergraph):
    model = HyperLearn(rank=3, seed=5)
    assert model.get_params()["rank"] == 3
    assert clone(model).get_params() == model.get_params()
    assert repr(model) == "HyperLearn(rank=3, seed=5)"
    assert model.set_params(sweeps=2).fit(hypergraph).history_[-1]["sweep"] == 2


def test_numbers_of_numpy_are_parameters_and_questions():
    tables = {"user": [17, 17, 5], "item": ["a", "b", "a"]}
    rated = Hypergraph.from_frames({"rated": (tables, ["user", "item"])})
    model = HyperLearn(rank=np.int64(2), ridge=np.float32(0.5), sweeps=np.int32(3), seed=np.int64(1)).fit(
        rated
    )
    assert model.factors_["user"].shape == (2, 2)
    assert model.rank("item", {"user": 17}).rows == model.rank("item", {"user": "17"}).rows
    assert model.fold_in("user", np.int64(6), hyperedges={"rated": [{"item": "a"}]}).ids_["user"][-1] == "6"
    with pytest.raises(InputError, match="has an entity '17' already"):
        model.fold_in("user", 17)


def test_mistakes_of_evidence_and_targets_are_found_before_training(hypergraph):
    def on_sweep(report):
        raise AssertionError("it trains")

    for settings, says in [
        ({"evidence": True}, "relations.shows.evidence: needs a target"),
        ({"evidence": True, "target": "subject"}, "relations.shows.evidence: needs at least 10 hyperedges"),
        ({"evidence": True, "target": "subject", "absent": "unknown"}, "has no meaning"),
        ({"target": "subjct"}, "relations.shows.target: no modality 'subjct' in this relation, did you mean"),
    ]:
        with pytest.raises(InputError) as refused:
            HyperLearn(relations={"shows": settings}).fit(hypergraph, on_sweep=on_sweep)
        assert says in str(refused.value)


def test_a_model_is_there_if_evidence_cannot_be_learned(hypergraph, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperlearn_dask.estimator.add_evidence", interrupted)
    model = HyperLearn(rank=2)
    with pytest.raises(KeyboardInterrupt):
        model.fit(hypergraph)
    assert model.history_


def test_posterior_draws(hypergraph):
    model = HyperLearn(rank=1, draws=10, relations={"shows": {"absent": "unknown"}}).fit(hypergraph)
    assert np.isfinite(model.model_.deviation("shows", (np.array([0]), np.array([1])))).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"rank": 0}, "training.rank: expected a whole number of at least 1, got 0"),
        ({"schedule": "paralel"}, "training.schedule: 'paralel' is not a choice, did you mean 'parallel'"),
        ({"start": "foo"}, "training.start: 'foo' is not a choice"),
        ({"sweeps": 0}, "training.sweeps: expected a whole number of at least 1"),
        ({"dtype": "float16"}, "training.dtype: 'float16' is not a choice"),
        ({"ridge": -1.0}, "training.ridge: expected a number of at least 0"),
        ({"draws": 5, "ridge": 0.0}, "training.draws: posterior draws need a ridge"),
        ({"relations": {"show": {}}}, "relations: no relation 'show' (the hypergraph has shows)"),
        ({"relations": {"shows": {"absnt": "zero"}}}, "relations.shows: unknown setting 'absnt'"),
        ({"relations": {"shows": {"absent": "unkown"}}}, "relations.shows.absent: 'unkown' is not a choice"),
        ({"relations": {"shows": {"weight": -1}}}, "relations.shows.weight: expected a number of at least 0"),
        ({"relations": {"shows": {"absent_weight": -2}}}, "relations.shows.absent_weight: expected a number"),
        ({"relations": {"shows": {"offset": "mean"}}}, "relations.shows.offset: has a meaning with"),
        ({"relations": {"shows": {"absent": "context"}}}, "relations.shows.target: absent = 'context' needs"),
        ({"graph_weight": {"artist": 1.0}}, "graph_weight: no graph of modality 'artist'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(hypergraph, params, message):
    with pytest.raises(InputError) as refused:
        HyperLearn(**params).fit(hypergraph)
    assert str(refused.value).startswith(message)


def test_questions_before_training_are_refused():
    with pytest.raises(InputError, match="call fit first"):
        HyperLearn().similar("artist", "Monet")
