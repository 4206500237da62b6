"""Workers with devices: data and factors stay there, and steps run there; emulated in this process.

The workers are threads that talk over TCP, and the emulated arrays refuse to be pickled or mixed with
NumPy's: whatever travels has been handed out on purpose.
"""

import contextlib

import numpy as np
import pytest
from distributed import Client, LocalCluster

from hyperlearn_dask.backend import array_module
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.grams import moved
from hyperlearn_dask.factorization.kernels import cpu
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.training import executor
from hyperlearn_dask.training.fit import fit
from hyperlearn_dask.training.workers import on_worker
from tests.cuda import fake_cupy

from .made_up import two_relations, two_relations_problem


@contextlib.contextmanager
def workers_here(count):
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def stored(tmp_path):
    save_hypergraph(two_relations(), tmp_path / "hypergraph.zarr")
    return open_hypergraph(tmp_path / "hypergraph.zarr")


@pytest.fixture
def emulated(cupy):
    if hasattr(cupy, "__version__"):
        pytest.skip("workers that are threads of one process, each with a device: emulated only")
    return cupy


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
def test_factors_are_those_of_the_cpu_and_no_step_computes_there(emulated, stored, monkeypatch, schedule):
    problem, training = two_relations_problem(stored, schedule=schedule, sweeps=3)
    expected = fit(two_relations(), problem, training)
    modules = set()
    monkeypatch.setattr(
        executor, "moved", lambda *args, **spent: modules.add(array_module(*args)) or moved(*args, **spent)
    )
    for kernel in ("mttkrp", "normal_equations", "line"):
        monkeypatch.setattr(cpu, kernel, _refused)
    with workers_here(2) as client:
        model = fit(stored, problem, training, client=client, device="cuda")
    assert modules == {emulated}
    for modality, factor in expected.factors.items():
        assert isinstance(model.factors[modality], np.ndarray)
        np.testing.assert_allclose(model.factors[modality], factor, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(model.informed[modality], expected.informed[modality])


def _refused(*_):
    raise AssertionError("computed on the CPU")


def test_a_worker_without_a_device_is_named(emulated, stored, monkeypatch):
    monkeypatch.setattr(emulated, "cuda", fake_cupy.cuda(gpus=0))
    problem, training = two_relations_problem(stored, sweeps=2)
    with (
        workers_here(1) as client,
        pytest.raises(InputError, match=r"worker tcp://\S+: the NVIDIA driver shows no GPU"),
    ):
        fit(stored, problem, training, client=client, device="cuda")


def test_too_little_memory_in_a_step_is_one_line(emulated, stored, monkeypatch):
    def full(*_):
        raise MemoryError("Out of memory allocating 7 bytes")

    monkeypatch.setattr(on_worker, "to_device", full)
    problem, training = two_relations_problem(stored, sweeps=2)
    with (
        workers_here(1) as client,
        pytest.raises(InputError, match=r"too little memory .*allocating 7 bytes"),
    ):
        fit(stored, problem, training, client=client, device="cuda")


def test_what_does_not_fit_on_a_worker_is_refused_by_its_name(emulated, stored, monkeypatch):
    problem, training = two_relations_problem(stored, sweeps=2)
    monkeypatch.setattr(emulated, "cuda", fake_cupy.cuda(free=20_000))
    with (
        workers_here(2) as client,
        pytest.raises(InputError, match=r"worker tcp://\S+: does not fit"),
    ):
        fit(stored, problem, training, client=client, device="cuda")
