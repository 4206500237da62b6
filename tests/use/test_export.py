"""Exports: whoever reads the files and multiplies gets the model's own scores."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.model_store import open_model, save_model
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.use.export import Format, export

Reader = Callable[[str], np.ndarray]


def read(path: Path, format: Format) -> tuple[dict[str, Any], Reader]:
    """The description of an export, and a function from a matrix's name to the matrix."""
    if format == "npz":
        archive = dict(np.load(path, allow_pickle=False))
        return json.loads(str(archive["about"])), lambda name: archive[f"{name}/matrix"]

    def matrix(name: str) -> np.ndarray:
        if format == "parquet":
            table = pyarrow.parquet.read_table(path / f"{name}.parquet")
        else:
            options = pyarrow.csv.ParseOptions(delimiter="\t")
            table = pyarrow.csv.read_csv(path / f"{name}.tsv", parse_options=options)
        numbers = [c for c in table.column_names if c not in ("id", "label", "informed")]
        return np.column_stack([table[c].to_numpy() for c in numbers])

    return json.loads((path / "export.json").read_text(encoding="utf-8")), matrix


def check_scores(model: Model, about: dict[str, Any], matrix: Reader, rtol: float = 1e-12) -> None:
    """Every value of every relation, from the exported files alone."""
    for name, term in model.problem.terms.items():
        parts = [matrix(part) for part in about["relations"][name]["matrices"]]
        every = np.array(list(itertools.product(*(range(len(part)) for part in parts)))).T
        product = np.prod([part[index] for part, index in zip(parts, every)], axis=0).sum(axis=1)
        np.testing.assert_allclose(product, model.predict(name, tuple(every)), rtol=rtol, atol=rtol)
        assert about["relations"][name]["modalities"] == list(term.modalities)


def conflicting(model: Model) -> Model:
    """The model with a third relation that cannot share columns with the first."""
    problem = build_problem(
        model.problem.sizes,
        {"rates": ("user", "movie"), "likes": ("user", "movie"), "tagged": ("user", "movie", "tag")},
        {
            "rates": TermSettings(
                absent="unknown",
                offset=3.5,
                interactions={"taste": ("user", "movie"), "user_bias": ("user",), "movie_bias": ("movie",)},
            ),
            # Uses the bias column of users as a product, and not that of movies.
            "likes": TermSettings(interactions={"taste": ("user", "movie"), "user_bias": ("user", "movie")}),
            "tagged": TermSettings(interactions={"taste": ("user", "movie"), "words": ("movie", "tag")}),
        },
        model.problem.groups,
        {},
        0.01,
    )
    factors = {name: factor.copy() for name, factor in model.factors.items()}
    factors["movie"][:4, 3] = [0.5, 2.0, -1.0, 0.25]
    return dataclasses.replace(model, problem=problem, factors=factors)


@pytest.mark.parametrize("format", ["npz", "parquet", "tsv"])
def test_scores_follow_from_the_files_alone(model: Model, tmp_path: Path, format: Format) -> None:
    path = tmp_path / "out"
    export(model, path, format)
    about, matrix = read(path, format)
    check_scores(model, about, matrix)
    # Tag words are nothing of a rating, and cannot vanish from it: ratings have matrices of their own.
    assert about["relations"]["rates"]["matrices"] == ["rates/user", "rates/movie"]
    assert about["relations"]["tagged"]["matrices"] == ["user", "movie", "tag"]
    assert len(about["columns"]) == matrix("movie").shape[1]


@pytest.mark.parametrize("format", ["npz", "parquet", "tsv"])
def test_one_matrix_per_modality_where_that_is_enough(model: Model, tmp_path: Path, format: Format) -> None:
    """Biases and an offset need no matrices of their own, nor do relations over other modalities."""
    groups = {"taste": 3, "user_bias": 1, "movie_bias": 1, "words": 2}
    interactions = {"taste": ("user", "movie"), "user_bias": ("user",), "movie_bias": ("movie",)}
    problem = build_problem(
        model.problem.sizes,
        {"rates": ("user", "movie"), "tagged": ("movie", "tag")},
        {
            "rates": TermSettings(absent="unknown", offset=3.5, interactions=interactions),
            "tagged": TermSettings(interactions={"words": ("movie", "tag")}),
        },
        groups,
        {},
        0.01,
    )
    factors = {name: factor.copy() for name, factor in model.factors.items()}
    factors["user"][:, 5:] = 0  # words are no columns of users any more
    factors["tag"][:, :5] = 0
    shared = dataclasses.replace(model, problem=problem, factors=factors)
    export(shared, tmp_path / "out", format)
    about, matrix = read(tmp_path / "out", format)
    check_scores(shared, about, matrix)
    assert all("/" not in part for r in about["relations"].values() for part in r["matrices"])
    assert about["columns"][-1] == "offset.rates"


@pytest.mark.parametrize("format", ["npz", "parquet", "tsv"])
def test_relations_that_cannot_share_have_their_own(model: Model, tmp_path: Path, format: Format) -> None:
    special = conflicting(model)
    export(special, tmp_path / "out", format)
    about, matrix = read(tmp_path / "out", format)
    check_scores(special, about, matrix)
    assert about["relations"]["rates"]["matrices"] == ["rates/user", "rates/movie"]
    assert about["relations"]["tagged"]["matrices"] == ["user", "movie", "tag"]


def test_float32_stays_exact_enough(model: Model, tmp_path: Path) -> None:
    single = dataclasses.replace(model, factors={m: a.astype(np.float32) for m, a in model.factors.items()})
    export(single, tmp_path / "out", "tsv")
    check_scores(single, *read(tmp_path / "out", "tsv"), rtol=1e-6)


def test_ids_labels_and_what_is_informed(model: Model, tmp_path: Path) -> None:
    export(model, tmp_path / "out.npz", "npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        assert archive["movie/ids"].tolist() == model.modalities["movie"].ids.tolist()
        assert archive["movie/labels"].tolist() == ["Alien", "Amélie", "Psycho", "Psycho", ""]
        assert archive["movie/informed"].tolist() == [True] * 4 + [False]
        assert "user/labels" not in archive
    export(model, tmp_path / "out", "parquet")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "movie.parquet")
    assert table["label"].to_pylist() == ["Alien", "Amélie", "Psycho", "Psycho", ""]


def test_a_model_from_disk_is_exported_as_it_was(model: Model, tmp_path: Path) -> None:
    save_model(model, tmp_path / "model.zarr", fingerprint="", settings={})
    export(open_model(tmp_path / "model.zarr"), tmp_path / "out.npz", "npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as archive:
        for name, modality in model.modalities.items():
            assert archive[f"{name}/ids"].tolist() == modality.ids.tolist()
        assert archive["movie/labels"].tolist() == ["Alien", "Amélie", "Psycho", "Psycho", ""]


def test_awkward_labels_survive_tsv(model: Model, tmp_path: Path) -> None:
    awkward = np.array(["a\tb", 'say "x"', "two\nlines", "plain", ""])
    movie = dataclasses.replace(model.modalities["movie"], labels=awkward)
    export(
        dataclasses.replace(model, modalities={**model.modalities, "movie": movie}), tmp_path / "out", "tsv"
    )
    table = pyarrow.csv.read_csv(
        tmp_path / "out" / "movie.tsv",
        parse_options=pyarrow.csv.ParseOptions(delimiter="\t", newlines_in_values=True),
    )
    assert table["label"].to_pylist() == awkward.tolist()


@pytest.mark.parametrize(("first", "second"), [("npz", "npz"), ("tsv", "parquet"), ("parquet", "npz")])
def test_an_earlier_export_is_replaced(model: Model, tmp_path: Path, first: Format, second: Format) -> None:
    path = tmp_path / "out"
    export(model, path, first)
    export(conflicting(model), path, second)
    about, matrix = read(path, second)
    check_scores(conflicting(model), about, matrix)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    if path.is_dir():
        assert not list(path.rglob("*.tsv"))


@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_anything_else_is_left_alone(model: Model, tmp_path: Path, format: Format) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "export.json").write_text('["mine"]')
    for path in (file, folder):
        with pytest.raises(InputError, match="exists and is no earlier export"):
            export(model, path, format)
    assert file.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "notes.txt"]


def test_unknown_format(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown format 'csv' \(expected one of npz, parquet, tsv\)"):
        export(model, tmp_path / "out", "csv")  # type: ignore[arg-type]
