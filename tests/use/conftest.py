"""A small model made by hand: three modalities, two relations, shared and fixed columns, an offset."""

from __future__ import annotations

import numpy as np
import pytest

from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.hypergraph.tensor import Modality


@pytest.fixture
def model() -> Model:
    """Users rate and tag movies; a user's and a movie's bias columns count only in ``rates``."""
    generator = np.random.default_rng(0)
    sizes = {"user": 6, "movie": 5, "tag": 4}
    problem = build_problem(
        sizes,
        {"rates": ("user", "movie"), "tagged": ("user", "movie", "tag")},
        {
            "rates": TermSettings(
                absent="unknown",
                offset=3.5,
                interactions={"taste": ("user", "movie"), "user_bias": ("user",), "movie_bias": ("movie",)},
            ),
            "tagged": TermSettings(interactions={"taste": ("user", "movie"), "words": ("movie", "tag")}),
        },
        {"taste": 3, "user_bias": 1, "movie_bias": 1, "words": 2},
        {},
        0.01,
    )
    modalities = {
        "user": Modality("user", np.array(["u1", "u2", "u3", "u4", "u5", "u6"])),
        "movie": Modality(
            "movie",
            np.array(["1", "2", "3", "4", "5"]),
            np.array(["Alien", "Amélie", "Psycho", "Psycho", ""]),
        ),
        "tag": Modality(
            "tag", np.array(["1", "2", "3", "4"]), np.array(["horror", "French", "Horror", "space"])
        ),
    }
    factors, informed = {}, {}
    for name, size in sizes.items():
        factors[name] = np.tile(problem.resting_value(name), (size, 1))
        free = problem.free_columns(name)
        factors[name][:, free] = generator.normal(size=(size, len(free)))
        informed[name] = np.ones(size, dtype=bool)
    informed["movie"][4] = False
    factors["movie"][4] = 0.0
    history = ({"sweep": 1, "objective": 2.5, "step": None, "parts": {"fit rates": 2.0}},)
    return Model(problem, modalities, factors, informed, {"tagged": "tag"}, history)
