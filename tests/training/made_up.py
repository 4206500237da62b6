"""Small hypergraphs for the tests of training."""

import numpy as np

from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization.problem import TermSettings
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation, SparseTensor
from hyperlearn_dask.training.fit import problem_of
from tests.factorization.made_up import random_laplacian, random_tensor

SIZES = {"a": 40, "b": 25, "c": 12}


def hypergraph_of(tensors, sizes, laplacians=None):
    """A hypergraph in memory; ``tensors``: name -> (modalities, tensor)."""
    return Hypergraph(
        {m: Modality(m, np.array([f"{m}{i}" for i in range(n)])) for m, n in sizes.items()},
        {
            name: Relation(name, modalities, tensor.shape, tensor.nnz, lambda tensor=tensor: tensor)
            for name, (modalities, tensor) in tensors.items()
        },
        {m: Graph(m, laplacian, 0, 1, 0) for m, laplacian in (laplacians or {}).items()},
    )


def two_relations(seed=0):
    """Three modalities, a zero relation of order 3, an unknown one of order 2, graphs on a and b."""
    rng = np.random.default_rng(seed)
    zero = random_tensor(rng, tuple(SIZES.values()), 300)
    zero = SparseTensor(zero.coords, np.abs(zero.values), zero.shape)
    unknown = random_tensor(rng, (SIZES["b"], SIZES["c"]), 120)
    laplacians = {m: random_laplacian(rng, SIZES[m]) for m in "ab"}
    return hypergraph_of({"made": (("a", "b", "c"), zero), "rated": (("b", "c"), unknown)}, SIZES, laplacians)


SETTINGS = {
    "made": TermSettings("zero", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b")}),
    "rated": TermSettings("unknown", 0.5, {"shared": ("b", "c"), "bias": ("b",)}, "mean"),
}


def two_relations_problem(hypergraph, **changes):
    training = TrainingSpec(
        **{
            "groups": {"shared": 4, "pair": 2, "bias": 1},
            "ridge": 0.05,
            "sweeps": 25,
            "tolerance": 0.0,
            **changes,
        }
    )
    return problem_of(hypergraph, SETTINGS, training, {"a": 0.3, "b": 2.0}), training
