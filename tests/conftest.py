"""A small data set with a part of everything: shared modalities, both readings of absence, both graphs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pipeline.cli import main
from tests.cuda import fake_cupy

SETTINGS = """
title = "A film club"

[modalities.user]
table = "users.csv"
id = "user"
label = "name"
graph = { edges = "friends.csv", source = "user", target = "friend", edge_weight = "weight" }

[modalities.movie]
table = "movies.csv"
id = "movie"
label = "title"

[modalities.movie.graph]
k = 3
features = [
  { kind = "category", column = "genre" },
  { kind = "number", column = "year" },
  { kind = "relation", relation = "tagged" },
]

[modalities.tag]

[relations.rated]
table = "ratings.csv"
columns = { user = "user", movie = "movie" }
value = "stars"
duplicates = "last"
test = "ratings_test.csv"
absent = "unknown"
offset = "mean"

[relations.tagged]
table = "tags.csv"
columns = { movie = "movie", tag = "tag" }
test = "tags_test.csv"
target = "tag"

[training]
rank = 3
sweeps = 12
seed = 1
"""

GENRES = {
    "comedy": ["funny", "light", "love"],
    "horror": ["dark", "blood", "night"],
    "space": ["star", "ship"],
}
USERS, MOVIES = 12, 15


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_film_club(folder: Path) -> Path:
    """Write the data set; users like one genre each, tags go with genres."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    genres = list(GENRES)
    movies = [(f"m{i}", f"Movie {i}", genres[i % 3], 1970 + i) for i in range(MOVIES)]
    ratings = [
        (f"u{u}", f"m{i}", 5 - 2 * (u % 3 != i % 3) + int(generator.integers(-1, 1)))
        for u in range(USERS)
        for i in range(MOVIES)
        if generator.random() < 0.6
    ]
    tags = [(movie, tag) for movie, _, genre, _ in movies for tag in GENRES[genre]]
    write_csv(folder / "users.csv", ["user", "name"], [(f"u{u}", f"User {u}") for u in range(USERS)])
    write_csv(folder / "movies.csv", ["movie", "title", "genre", "year"], movies)
    # The last user has no friends.
    friends = [(f"u{u}", f"u{(u + 3) % (USERS - 1)}", 1 + u / 10) for u in range(USERS - 1)]
    write_csv(folder / "friends.csv", ["user", "friend", "weight"], friends)
    write_csv(folder / "ratings.csv", ["user", "movie", "stars"], ratings[::2] + ratings[1::4])
    write_csv(folder / "ratings_test.csv", ["user", "movie", "stars"], ratings[3::4])
    write_csv(folder / "tags.csv", ["movie", "tag"], tags[3:])
    write_csv(folder / "tags_test.csv", ["movie", "tag"], tags[:3])
    (folder / "dataset.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


@pytest.fixture
def film_club(tmp_path: Path) -> Path:
    """The folder of the data set, each time a new one."""
    return write_film_club(tmp_path / "club")


@pytest.fixture
def edit() -> Callable[[Path, str, str], None]:
    """Replace a piece of a text file that must be there."""

    def replace(path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return replace


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """CuPy: an emulation that runs the kernels on the host (where there is g++), or a GPU's."""
    return _cupy(request.param, monkeypatch)


@pytest.fixture(params=["numpy", "emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The array module a numeric test runs on: NumPy always, CuPy emulated, CuPy where there is a GPU."""
    return np if request.param == "numpy" else _cupy(request.param, monkeypatch)


def _cupy(kind: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if kind == "emulated":
        if shutil.which("g++") is None:
            pytest.skip("there is no g++ to run CUDA kernels on the host")
        return fake_cupy.install(monkeypatch)
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    if not cupy.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return cupy


@pytest.fixture
def hyperlearn(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        written = capsys.readouterr()
        return Ended(int(ended.value.code or 0), written.out, written.err)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set in ``club`` and all its results in ``out``; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_film_club(folder / "club")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "club"), "--out", str(folder / "out")])
    assert ended.value.code == 0
    return folder


@pytest.fixture
def finished_copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of ``finished`` to do with what one likes."""
    return shutil.copytree(finished, tmp_path / "copy")


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content; no folder at all is an empty listing."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
