"""An encoder of a data set, from its settings to a model, and what a change of them redoes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from hyperlearn_dask.config import load_dataset
from hyperlearn_dask.factorization.model_store import open_model
from hyperlearn_dask.hypergraph.ingest import ingest_up_to_date
from hyperlearn_dask.hypergraph.store import open_hypergraph

ENCODER = """
[modalities.movie.encoder]
degree = 1
own = true

[modalities.user.encoder]
degree = 0
decay = 2
features = [{ kind = "text", column = "name" }]
"""


@pytest.fixture
def encoded(film_club: Path) -> Path:
    """The film club with encoders, and a comedy that nobody has rated or tagged."""
    settings = film_club / "dataset.toml"
    settings.write_text(settings.read_text().replace("[modalities.tag]", ENCODER + "\n[modalities.tag]"))
    with (film_club / "movies.csv").open("a") as file:
        file.write("m99,New,comedy,1990\r\n")
    return film_club


def test_an_encoder_from_settings_to_model(
    encoded: Path,
    tmp_path: Path,
    hyperlearn: Callable[..., Any],
    edit: Callable[[Path, str, str], None],
) -> None:
    out = tmp_path / "out"

    def made(*options: str) -> dict[str, list[str]]:
        ended = hyperlearn("run", encoded, "--out", out, "--json", *options)
        assert ended.code == 0, ended.err
        stages = json.loads(ended.out)["stages"]
        return {
            s["stage"]: [u["unit"] for u in s["units"] if u["action"] == "made"] for s in stages if s["done"]
        }

    assert made()["graph"] == ["graphs/user", "graphs/movie", "features/user", "features/movie"]
    features = open_hypergraph(out / "hypergraph.zarr").features["movie"]
    assert features.shape == (16, 3 + 1 + 8 + 1)  # genres, the year, tags, the constant
    np.testing.assert_array_equal(features.toarray()[:, -1], 1)
    model = open_model(out / "model.zarr")
    assert model.informed["movie"].all()
    assert model.problem.encoders["user"].decay == 2
    assert ingest_up_to_date(load_dataset(encoded), out / "hypergraph.zarr"), "a cluster need not start"
    parts = set(model.history[-1])
    assert {"encoder user", "encoder movie"} <= parts
    assert made() == {}
    edit(encoded / "dataset.toml", "decay = 2", "decay = 3")
    assert set(made()) == {"train", "evaluate"}
    edit(encoded / "dataset.toml", 'kind = "text", column = "name"', 'kind = "category", column = "name"')
    assert made() == {"graph": ["features/user"], "train": [], "evaluate": []}
    similar = hyperlearn("similar", out, "movie", "New", "--json", "--top", "1")
    assert similar.code == 0, similar.err

    zarr.open_group(store=str(out / "model.zarr"))["encoders/user"].attrs.clear()
    del zarr.open_group(store=str(out / "model.zarr"))["encoders/user"]
    ended = hyperlearn("similar", out, "movie", "New")
    assert ended.code == 2
    assert "encoders/user" in ended.err
