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
from hyperlearn_dask.training import memory
from hyperlearn_dask.training.executor import Setting
from hyperlearn_dask.training.fit import fit, problem_of
from tests.cuda import fake_cupy
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


@pytest.mark.parametrize(
    ("lacks", "says"),
    [
        ({"driver": 0}, "no NVIDIA driver was found"),
        ({"driver": 12040}, r"is for CUDA 12.4, CuPy for 13.2; .* pip install 'hyperlearn-dask\[gpu-cu12\]'"),
        ({"driver": 11080, "built": 12090}, "is for CUDA 11.8, CuPy for 12.9; a newer driver is needed$"),
        ({"gpus": 0}, "the NVIDIA driver shows no GPU .CUDA_VISIBLE_DEVICES is '7'.$"),
        ({"nvrtc": False}, "NVRTC is missing"),
    ],
)
def test_what_a_gpu_lacks_is_said_in_one_line(monkeypatch, lacks, says):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=fake_cupy.cuda(**lacks)))
    with pytest.raises(InputError, match=f"device: .*{says}") as refused:
        check_device("cuda")
    assert "\n" not in str(refused.value)


def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match="device: CuPy is not installed"):
        check_device("cuda")
    with pytest.raises(InputError, match="expected cpu or cuda"):
        check_device("gpu")
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=fake_cupy.cuda()))
    check_device("cuda")


def test_draws_are_those_of_the_cpu(cupy):
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=2)
    training = dataclasses.replace(training, draws=2, burn_in=0)
    expected = fit(hypergraph, problem, training)
    model = fit(hypergraph, problem, training, device="cuda")
    for modality, draws in expected.draws.items():
        np.testing.assert_allclose(model.draws[modality], draws, rtol=1e-3, atol=1e-4)


def test_what_does_not_fit_is_refused_before_anything_is_loaded(cupy, monkeypatch):
    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=2)
    setting = Setting("float64", {}, {})
    monkeypatch.setattr(memory, "free_memory", lambda: 10_000)
    site = memory.here(hypergraph, setting)
    # Entries of 3 and 2 coordinates, those of the unknown relation grouped by row; factors; the H_i
    entries = 300 * (3 * 4 + 8) + 120 * (2 * 4 + 8 + 2 * 8)
    needed = memory.bytes_at(problem, site, 8)
    factors = (6 * 77 + 2 * 77 + 2 * 37) * 7 * 8
    blocks = 25 * 7**2 * 8 + 12 * 4**2 * 8
    assert needed == entries + factors + blocks + site.edges * 12
    with pytest.raises(InputError, match=r"the GPU: does not fit: .* at least 0.0 GiB"):
        fit(hypergraph, problem, training, device="cuda")
    monkeypatch.setattr(memory, "free_memory", lambda: needed)
    assert len(fit(hypergraph, problem, training, device="cuda").history) == 2
