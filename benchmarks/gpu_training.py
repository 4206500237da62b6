"""Sweeps, whole trainings and neighbours on a GPU beside the CPU's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.gpu_kernels import row
from benchmarks.output import Row
from benchmarks.raw import neighbours, read_raw
from hyperlearn_dask.backend import Device
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.nearest import Cloud, nearest
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.training.fit import fit, problem_of

SWEEPS = 4
FEW = 5  # sweeps in float64
DEVICES: tuple[Device, ...] = ("cuda", "cpu")


def sweep_rows(tensor: SparseTensor, rank: int) -> Iterator[Row]:
    """A sweep of the parallel schedule, absent entries being zeros, on both devices."""
    data, task = f"{tensor.nnz} nonzeros, rank {rank}", "sweep"
    models = {device: _few_sweeps(tensor, rank, device) for device in DEVICES}
    seconds = {
        device: float(np.median([swept["seconds"] for swept in model.history[1:]]))
        for device, model in models.items()
    }
    for device in DEVICES:
        yield row(data, task, f"hyperlearn {device}", "seconds", seconds[device])
    yield row(data, task, "hyperlearn cuda", "ratio_to_cpu", seconds["cpu"] / seconds["cuda"])
    yield row(data, f"{SWEEPS} sweeps, float32", "hyperlearn cuda", "factor_difference", difference(models))


def training_rows(name: str, data: Path, sweeps: int | None = None) -> Iterator[Row]:
    """A data set of ours from start values to its last sweep; as many sweeps on either device.

    ``sweeps``: by default as many as its settings allow in float32, and a few in float64.
    """
    dataset, hypergraph = read_raw(name, data, "cuda")
    weights = {m: spec.graph.weight for m, spec in dataset.modalities.items() if spec.graph is not None}
    for dtype in ("float32", "float64"):
        # Rounding grows with the sweeps; a few show that it is nothing else.
        most = sweeps or (dataset.training.sweeps if dtype == "float32" else FEW)
        training = replace(dataset.training, dtype=dtype, sweeps=most, tolerance=0.0, draws=0)
        problem = problem_of(hypergraph, dataset.relations, training, weights)
        models, seconds = {}, {}
        for device in DEVICES:
            # The first compiles
            fit(hypergraph, problem, replace(training, sweeps=1), device=device)
            began = time.perf_counter()
            models[device] = fit(hypergraph, problem, training, device=device)
            seconds[device] = time.perf_counter() - began
        task = f"training in {dtype}, {most} sweeps"
        for device in DEVICES:
            yield row(name, task, f"hyperlearn {device}", "seconds", seconds[device])
        yield row(name, task, "hyperlearn cuda", "ratio_to_cpu", seconds["cpu"] / seconds["cuda"])
        yield row(name, task, "hyperlearn cuda", "factor_difference", difference(models))
        ends = {device: model.history[-1]["objective"] for device, model in models.items()}
        yield row(name, task, "hyperlearn cuda", "objective_difference", abs(ends["cuda"] / ends["cpu"] - 1))


def neighbour_rows(n: int = 50_000, features: int = 128, k: int = 10, sample: int = 1000) -> Iterator[Row]:
    """The nearest neighbours among all points, and how many a sample of the CPU's has otherwise."""
    points = np.random.default_rng(0).normal(size=(n, features))
    cloud = Cloud.of(points, k, "cosine")
    data, task = f"{n} points, {features} features", f"{k} nearest neighbours, float64"
    neighbours(cloud, "cuda")
    began = time.perf_counter()
    _, columns, _ = neighbours(cloud, "cuda")
    yield row(data, task, "hyperlearn cuda", "seconds", time.perf_counter() - began)
    _, expected, _ = nearest(cloud, np.arange(min(sample, n)))
    yield row(
        data,
        task,
        "hyperlearn cuda",
        "share_unlike_cpu",
        float((columns[: len(expected)] != expected).mean()),
    )


def difference(models: dict[Device, Model]) -> float:
    """The largest difference of two models' factors, in units of the largest of each matrix."""
    cuda, cpu = models["cuda"].factors, models["cpu"].factors
    return max(float(np.abs(cuda[m] - cpu[m]).max() / np.abs(cpu[m]).max()) for m in cpu)


def _few_sweeps(tensor: SparseTensor, rank: int, device: Device) -> Model:
    sizes = {f"mode{m}": n for m, n in enumerate(tensor.shape)}
    hypergraph = Hypergraph(
        {m: Modality(m, np.arange(n).astype(str)) for m, n in sizes.items()},
        {"r": Relation("r", tuple(sizes), tensor.shape, tensor.nnz, lambda: tensor)},
        {},
    )
    training = TrainingSpec(
        groups={"all": rank}, sweeps=SWEEPS, tolerance=0.0, start="random", dtype="float32"
    )
    problem = problem_of(hypergraph, {"r": TermSettings("zero")}, training, {})
    return fit(hypergraph, problem, training, device=device)
