"""A stored model comes back as it was, or as one line of what is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import zarr

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.model_store import model_attrs, open_model, save_model
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.hypergraph.tensor import Modality


def small_model(dtype: str) -> Model:
    problem = build_problem(
        {"user": 3, "movie": 2},
        {"rates": ("user", "movie"), "likes": ("movie", "user")},
        {"rates": TermSettings("unknown", 2.0, {"z": ("user", "movie"), "a": ("movie",)}, 3.25)},
        {"z": 2, "a": 1},  # an order that sorting would change
        {"movie": 0.5},
        0.01,
    )
    generator = np.random.default_rng(0)
    return Model(
        problem,
        {
            "user": Modality("user", np.array(["1", "2", "zoë"])),
            "movie": Modality("movie", np.array(["a", "b"]), np.array(["Ä film", ""])),
        },
        {m: generator.normal(size=(n, 3)).astype(dtype) for m, n in problem.sizes.items()},
        {"user": np.array([True, False, True]), "movie": np.array([True, True])},
        {"rates": "movie"},
        ({"sweep": 1, "objective": np.float64(2.5), "step": None}, {"sweep": np.int64(2), "objective": 1.0}),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    model = small_model(dtype)
    save_model(model, tmp_path / "model.zarr", fingerprint="abc", settings={"sweeps": 7, "dtype": dtype})
    again = open_model(tmp_path / "model.zarr")
    assert list(again.problem.groups.items()) == [("z", 2), ("a", 1)]
    for field in ("sizes", "graph_weights", "ridge"):
        assert getattr(again.problem, field) == getattr(model.problem, field)
    for name, term in model.problem.terms.items():
        stored = again.problem.terms[name]
        for field in dataclasses.fields(term):
            np.testing.assert_array_equal(getattr(stored, field.name), getattr(term, field.name))
        assert stored.used.dtype == stored.coupled.dtype == bool
    for name in model.modalities:
        assert again.factors[name].dtype == dtype
        np.testing.assert_array_equal(again.factors[name], model.factors[name])
        np.testing.assert_array_equal(again.informed[name], model.informed[name])
        assert again.informed[name].dtype == bool
        assert again.modalities[name].ids.tolist() == model.modalities[name].ids.tolist()
    assert again.modalities["user"].labels is None
    assert again.modalities["movie"].label(0) == "Ä film"
    assert again.targets == model.targets
    assert again.history == model.history
    coords = (np.array([0, 1, -1]), np.array([1, 0, 1]))
    np.testing.assert_array_equal(again.predict("rates", coords), model.predict("rates", coords))


def test_attributes_without_the_arrays(tmp_path: Path) -> None:
    save_model(small_model("float32"), tmp_path / "m", fingerprint="abc", settings={"sweeps": 7})
    attrs = model_attrs(tmp_path / "m")
    assert (attrs["fingerprint"], attrs["settings"]) == ("abc", {"sweeps": 7})
    assert len(attrs["history"]) == 2


def test_a_failed_save_leaves_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "model.zarr"
    save_model(small_model("float32"), path, fingerprint="old", settings={})
    broken = dataclasses.replace(small_model("float32"), informed={})
    with pytest.raises(KeyError):
        save_model(broken, path, fingerprint="new", settings={})
    assert model_attrs(path)["fingerprint"] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.zarr"]


def test_not_a_model(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr")
    for path in (tmp_path / "nothing.zarr", tmp_path / "other.zarr"):
        with pytest.raises(InputError, match=path.name):
            open_model(path)


def test_a_model_with_a_missing_part(tmp_path: Path) -> None:
    path = tmp_path / "model.zarr"
    save_model(small_model("float32"), path, fingerprint="", settings={})
    group = zarr.open_group(path, mode="a")
    del group["modalities/movie/factor"]
    with pytest.raises(InputError, match=r"model\.zarr"):
        open_model(path)
    del group["modalities/movie"]
    with pytest.raises(InputError, match="'modalities/movie' is missing"):
        open_model(path)


def test_a_model_whose_arrays_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.zarr"
    save_model(small_model("float32"), path, fingerprint="", settings={})
    attrs = zarr.open_group(path, mode="a").attrs
    attrs["problem"] = {**attrs["problem"], "sizes": {"user": 4, "movie": 2}}
    with pytest.raises(InputError, match="modality 'user' do not fit its 4 entities"):
        open_model(path)
    attrs["problem"] = {"sizes": {}}
    with pytest.raises(InputError, match="do not describe a factorisation problem"):
        open_model(path)
