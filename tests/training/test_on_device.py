"""Training with its arrays on a device, emulated or a GPU, is training with NumPy's."""

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hyperlearn_dask.backend import check_device
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.training.fit import fit, problem_of
from tests.factorization.made_up import random_laplacian, random_tensor

from .made_up import hypergraph_of, two_relations, two_relations_problem


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_factors_are_those_of_the_cpu(cupy, schedule):
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, schedule=schedule, sweeps=3)
    expected = fit(hypergraph, problem, training)
    model = fit(hypergraph, problem, training, device="cuda")
    for modality, factor in expected.factors.items():
        assert isinstance(model.factors[modality], np.ndarray)
        np.testing.assert_allclose(model.factors[modality], factor, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(model.informed[modality], expected.informed[modality])
    assert model.history[-1]["objective"] == pytest.approx(expected.history[-1]["objective"], rel=1e-9)


@pytest.mark.parametrize("target", ["a", "c"])
def test_contexts_are_those_of_the_cpu(cupy, target):
    rng = np.random.default_rng(0)
    sizes = {"a": 9, "b": 7, "c": 5}
    tensor = random_tensor(rng, (9, 7, 5), 60)
    hypergraph = hypergraph_of({"r": (tuple(sizes), tensor)}, sizes, {"b": random_laplacian(rng, 7)})
    training = TrainingSpec(groups={"pair": 3, "bias": 1}, sweeps=2, start="random")
    interactions = {"pair": ("a", "b", "c"), "bias": ("c",)}
    settings = {"r": TermSettings("context", 0.7, interactions, target=target)}
    problem = problem_of(hypergraph, settings, training, {"b": 0.5})
    expected = fit(hypergraph, problem, training)
    model = fit(hypergraph, problem, training, device="cuda")
    for modality, factor in expected.factors.items():
        np.testing.assert_allclose(model.factors[modality], factor, rtol=1e-6, atol=1e-8)


def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match="device: CuPy is not installed"):
        check_device("cuda")
    fake = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    with pytest.raises(InputError, match="device: CuPy finds no CUDA device"):
        check_device("cuda")
    with pytest.raises(InputError, match="expected cpu or cuda"):
        check_device("gpu")


def test_draws_are_those_of_the_cpu(cupy):
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=2)
    training = dataclasses.replace(training, draws=2, burn_in=0)
    expected = fit(hypergraph, problem, training)
    model = fit(hypergraph, problem, training, device="cuda")
    for modality, draws in expected.draws.items():
        np.testing.assert_allclose(model.draws[modality], draws, rtol=1e-3, atol=1e-4)
