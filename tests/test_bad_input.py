"""Whatever is wrong with the input: one line that says what and where, exit code 2, nothing half written."""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr

from tests.conftest import Ended, listing, write_csv

Change = Callable[[Path], None]


def replace(file: str, old: str, new: str) -> Change:
    """Another text in a file of the data set."""

    def change(club: Path) -> None:
        path = club / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8", newline="")

    return change


def setting(old: str, new: str) -> Change:
    return replace("dataset.toml", old, new)


def table(file: str, header: str, *rows: str) -> Change:
    """Another table."""
    return lambda club: write_csv(club / file, header.split(","), [row.split(",") for row in rows])


def delete(file: str) -> Change:
    return lambda club: (club / file).unlink()


def both(*changes: Change) -> Change:
    def change(club: Path) -> None:
        for each in changes:
            each(club)

    return change


def truncated_gzip(club: Path) -> None:
    content = gzip.compress((club / "ratings.csv").read_bytes())
    (club / "ratings.csv.gz").write_bytes(content[: len(content) // 2])
    setting('"ratings.csv"', '"ratings.csv.gz"')(club)


def plain_text_called_gzip(club: Path) -> None:
    shutil.copy(club / "ratings.csv", club / "ratings.csv.gz")
    setting('"ratings.csv"', '"ratings.csv.gz"')(club)


def latin_1(club: Path) -> None:
    text = (club / "users.csv").read_text().replace("User 3", "Zoë")
    (club / "users.csv").write_bytes(text.encode("latin-1"))


def not_parquet(club: Path) -> None:
    shutil.copy(club / "ratings.csv", club / "ratings.parquet")
    setting('"ratings.csv"', '"ratings.parquet"')(club)


def broken_json_line(club: Path) -> None:
    (club / "tags.jsonl").write_text('{"movie": "m1", "tag": "dark"}\n{"movie": "m2", "tag": \n')
    setting('table = "tags.csv"', 'table = "tags.jsonl"')(club)


def vectors_of_another_length(club: Path) -> None:
    np.save(club / "vectors.npy", np.ones((4, 3)))
    setting('{ kind = "number", column = "year" }', '{ kind = "vector", file = "vectors.npy" }')(club)


@dataclass(frozen=True)
class Case:
    """A change to the data set, and what the one line must contain."""

    name: str
    change: Change
    says: tuple[str, ...]


DATASETS = [
    Case("no dataset.toml", delete("dataset.toml"), ("club", "dataset.toml")),
    Case("no TOML", setting("[training]", "[training"), ("dataset.toml", "line")),
    Case("unknown key", setting("sweeps = 12", "sweps = 12"), ("dataset.toml", "sweps", "sweeps")),
    Case("rank 0", setting("rank = 3", "rank = 0"), ("dataset.toml", "rank", "0")),
    Case("negative weight", setting('target = "tag"', 'target = "tag"\nweight = -1'), ("weight", "-1")),
    Case("wrong type in settings", setting("sweeps = 12", 'sweeps = "many"'), ("sweeps", "many")),
    Case("unknown choice", setting('"unknown"', '"perhaps"'), ("absent", "perhaps", "zero")),
    Case("unknown modality", setting("{ movie =", "{ film ="), ("relations.tagged", "film", "movie")),
    Case(
        "owner of no modality",
        setting("[training]", "[placement]\nowners = { film = 0 }\n\n[training]"),
        ("placement.owners.film", "no such modality", "movie"),
    ),
    Case(
        "owner without a name",
        setting("[training]", "[placement]\nowners = { movie = -1 }\n\n[training]"),
        ("placement.owners.movie", "name or number of a worker", "-1"),
    ),
    Case(
        "unknown scheme",
        setting("[training]", '[placement]\nscheme = "owners"\n\n[training]'),
        ("placement.scheme", "did you mean 'owner'"),
    ),
    Case("missing file", delete("ratings.csv"), ("ratings.csv",)),
    Case("missing test file", delete("tags_test.csv"), ("tags_test.csv",)),
    Case("missing column", setting('"stars"', '"points"'), ("ratings.csv", "points", "stars")),
    Case(
        "flags without columns",
        setting('{ kind = "number", column = "year" }', '{ kind = "flags", column = "year" }'),
        ("columns", "expected a list of texts"),
    ),
    Case(
        "hyperparameters without draws",
        setting("sweeps = 12", 'sweeps = 12\nhyperparameters = "sampled"'),
        ("training.hyperparameters", "draws = 0"),
    ),
    Case(
        "noise of entities that is not drawn",
        setting('value = "stars"', 'value = "stars"\nnoise = ["user"]'),
        ("relations.rated.noise", "hyperparameters"),
    ),
    Case(
        "noise of no modality of the relation",
        setting('value = "stars"', 'value = "stars"\nnoise = ["tag"]'),
        ("noise", "has no 'tag'"),
    ),
    Case("missing feature column", setting('"genre"', '"style"'), ("movies.csv", "style", "genre")),
    Case(
        "text for a value",
        replace("ratings.csv", "u0,m1,2", "u0,m1,good"),
        ("ratings.csv", "row 2", "stars", "good"),
    ),
    Case(
        "NaN value",
        table("ratings.csv", "user,movie,stars", "u1,m1,3", "u2,m2,nan"),
        ("ratings.csv", "row 3", "stars", "nan"),
    ),
    Case(
        "infinite value",
        table("ratings.csv", "user,movie,stars", "u1,m1,inf"),
        ("ratings.csv", "row 2", "stars", "inf"),
    ),
    Case(
        "empty value",
        table("ratings.csv", "user,movie,stars", "u1,m1,3", "u2,m2,"),
        ("ratings.csv", "row 3", "stars"),
    ),
    Case("empty id", table("tags.csv", "movie,tag", "m1,dark", ",star"), ("tags.csv", "row 3", "movie")),
    Case("table without rows", table("ratings.csv", "user,movie,stars"), ("ratings.csv",)),
    Case(
        "file without bytes", lambda club: (club / "ratings.csv").write_bytes(b"") and None, ("ratings.csv",)
    ),
    Case("modality without entities", table("users.csv", "user,name"), ("users.csv",)),
    Case("same id twice", replace("users.csv", "u4,", "u3,"), ("users.csv", "row 6", "user", "u3")),
    Case("row too short", replace("tags.csv", "m1,night", "m1"), ("tags.csv", "row 4")),
    Case(
        "duplicate refused",
        both(
            setting('"last"', '"error"'),
            table("ratings.csv", "user,movie,stars", "u1,m1,3", "u2,m1,3", "u1,m1,4"),
        ),
        ("ratings.csv", "row 4"),
    ),
    Case(
        "unknown id in a relation",
        table("tags.csv", "movie,tag", "m1,dark", "m99,dark"),
        ("tags.csv", "row 3", "movie", "m99"),
    ),
    Case(
        "test tuple with an unseen id",
        table("tags_test.csv", "movie,tag", "m1,dark", "m2,nowhere"),
        ("tags_test.csv", "row 3", "tag", "nowhere"),
    ),
    Case(
        "unknown id in an edge list",
        table("friends.csv", "user,friend,weight", "u0,u1,1", "u0,u77,1"),
        ("friends.csv", "row 3", "friend", "u77"),
    ),
    Case(
        "negative edge weight",
        table("friends.csv", "user,friend,weight", "u0,u1,1", "u0,u2,-2"),
        ("friends.csv", "row 3", "weight", "-2"),
    ),
    Case("as many neighbours as entities", setting("k = 3", "k = 15"), ("movie", "15")),
    Case(
        "text for a number feature",
        replace("movies.csv", ",1975", ",old"),
        ("movies.csv", "row 7", "year", "old"),
    ),
    Case("vectors of another length", vectors_of_another_length, ("vectors.npy", "4", "15")),
    Case("truncated gzip", truncated_gzip, ("ratings.csv.gz",)),
    Case("no gzip", plain_text_called_gzip, ("ratings.csv.gz",)),
    Case("wrong encoding", latin_1, ("users.csv", "UTF-8")),
    Case("no Parquet", not_parquet, ("ratings.parquet",)),
    Case("broken JSON line", broken_json_line, ("tags.jsonl", "row 2")),
]


def check(ended: Ended, says: tuple[str, ...], out: Path, before: dict[str, bytes] | None) -> None:
    """One line with all that it must say, exit code 2, and no file changed."""
    assert ended.code == 2, ended.err
    assert ended.out == ""
    errors = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert ended.err.splitlines()[-1:] == errors, ended.err
    for text in says:
        assert text in errors[0]
    assert "Traceback" not in ended.err
    assert (listing(out) if out.exists() else None) == before


@pytest.mark.parametrize("case", DATASETS, ids=lambda case: case.name)
def test_a_bad_data_set(
    hyperlearn: Callable[..., Ended], film_club: Path, tmp_path: Path, case: Case
) -> None:
    case.change(film_club)
    out = tmp_path / "results" / "out"
    ended = hyperlearn("ingest", film_club, "--out", out)
    if ended.code == 0:  # what is wrong is the graph's affair
        before = listing(out)
        ended = hyperlearn("graph", film_club, "--out", out)
        check(ended, case.says, out, before)
    else:
        check(ended, case.says, out, None)
        assert not out.parent.exists()
    assert len(ended.err.splitlines()) == 1


LATE = {"NaN value", "unknown id in a relation", "truncated gzip", "as many neighbours as entities"}


@pytest.mark.parametrize("case", [c for c in DATASETS if c.name in LATE], ids=lambda case: case.name)
def test_a_bad_change_leaves_earlier_results_alone(
    hyperlearn: Callable[..., Ended], finished_copy: Path, case: Case
) -> None:
    case.change(finished_copy / "club")
    before = listing(finished_copy / "out")
    ended = hyperlearn("run", finished_copy / "club", "--out", finished_copy / "out")
    check(ended, case.says, finished_copy / "out", before)
    assert hyperlearn("query", finished_copy / "out", "tag", "--given", "movie=m1").code == 0


# What can be wrong with a call or a store, on a copy of finished results: how it is broken, the call,
# and what the line says. CLUB, OUT and TMP stand for folders.


def nothing(folder: Path) -> None:
    pass


def flip_a_byte(folder: Path) -> None:
    chunk = max(
        (folder / "out/model.zarr/modalities/tag/factor").rglob("c/*/*"), key=lambda f: f.stat().st_size
    )
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def lose_a_chunk(folder: Path) -> None:
    chunk = next((folder / "out/hypergraph.zarr/relations/rated/values").rglob("c/*"))
    chunk.unlink()
    shutil.rmtree(folder / "out/model.zarr")


def store_from_elsewhere(folder: Path) -> None:
    shutil.rmtree(folder / "out/hypergraph.zarr")
    zarr.create_group(store=str(folder / "out/hypergraph.zarr"))


def newer_version(folder: Path) -> None:
    zarr.open_group(store=str(folder / "out/model.zarr")).attrs["version"] = 99


def broken_metadata(folder: Path) -> None:
    (folder / "out/model.zarr/zarr.json").write_text("{")


def file_in_the_way(folder: Path) -> None:
    shutil.rmtree(folder / "out")
    (folder / "out").write_text("not a folder")


def stale_model(folder: Path) -> None:
    """The hypergraph has changed since the model was trained."""
    zarr.open_group(store=str(folder / "out/hypergraph.zarr/relations/rated")).attrs["digest"] = "another"


RUN = ("run", "CLUB", "--out", "OUT")
CALLS: list[tuple[str, Change, tuple[str, ...], tuple[str, ...]]] = [
    ("rank 0 as an option", nothing, (*RUN, "--rank", "0"), ("rank", "0")),
    (
        "unknown schedule",
        nothing,
        (*RUN, "--schedule", "random"),
        ("schedule", "random", "parallel", "sequential"),
    ),
    ("unknown scheduler", nothing, (*RUN, "--scheduler", "slurm"), ("slurm", "none, local, cuda")),
    ("unknown device", nothing, (*RUN, "--device", "tpu"), ("--device", "tpu", "cpu or cuda")),
    ("no workers", nothing, (*RUN, "--scheduler", "local", "--workers", "0"), ("--workers", "0")),
    (
        "unreachable scheduler",
        nothing,
        (*RUN, "--rank", "2", "--scheduler", "tcp://127.0.0.1:9"),
        ("tcp://127.0.0.1:9", "no Dask scheduler"),
    ),
    ("no such data set", nothing, ("run", "TMP/nowhere", "--out", "OUT"), ("nowhere",)),
    (
        "no hypergraph",
        nothing,
        ("train", "CLUB", "--out", "TMP/new"),
        ("hypergraph.zarr", "hyperlearn ingest"),
    ),
    (
        "no model",
        lambda folder: shutil.rmtree(folder / "out/model.zarr"),
        ("query", "OUT", "tag"),
        ("out", "model.zarr", "hyperlearn run"),
    ),
    (
        "stale model",
        stale_model,
        ("evaluate", "CLUB", "--out", "OUT"),
        ("model.zarr", "relations/rated", "train again"),
    ),
    (
        "unknown entity",
        nothing,
        ("query", "OUT", "tag", "--given", "movie=Movie 99"),
        ("movie", "Movie 99", "Movie 9"),
    ),
    ("unknown modality", nothing, ("query", "OUT", "director"), ("director", "user, movie, tag")),
    ("unknown relation", nothing, ("query", "OUT", "tag", "--relation", "likes"), ("likes", "rated, tagged")),
    ("unknown entity to compare", nothing, ("similar", "OUT", "tag", "drak"), ("tag", "drak", "dark")),
    ("no answers wanted", nothing, ("similar", "OUT", "tag", "dark", "--top", "0"), ("0",)),
    (
        "export to an unwritable place",
        nothing,
        ("export", "OUT", "--format", "npz", "--out", "CLUB/users.csv/m.npz"),
        ("users.csv/m.npz", "in the way"),
    ),
    ("export over something else", nothing, ("export", "OUT", "--format", "tsv", "--out", "CLUB"), ("club",)),
    ("info on nothing", nothing, ("info", "TMP/nowhere"), ("nowhere",)),
    (
        "flipped byte",
        flip_a_byte,
        ("query", "OUT", "tag", "--given", "movie=m1"),
        ("model.zarr", "tag/factor", "checksum"),
    ),
    (
        "missing chunk",
        lose_a_chunk,
        ("train", "CLUB", "--out", "OUT"),
        ("hypergraph.zarr", "relations/rated/values", "chunk"),
    ),
    ("store from elsewhere", store_from_elsewhere, RUN, ("hypergraph.zarr", "elsewhere")),
    (
        "store of another kind",
        nothing,
        ("query", "OUT/hypergraph.zarr", "tag"),
        ("hypergraph.zarr", "hyperlearn-model"),
    ),
    ("newer version", newer_version, ("info", "OUT"), ("model.zarr", "99")),
    ("broken metadata", broken_metadata, ("similar", "OUT", "tag", "dark"), ("model.zarr",)),
    (
        "results inside a store",
        nothing,
        ("run", "CLUB", "--out", "OUT/model.zarr/more"),
        ("model.zarr", "is a Zarr store"),
    ),
    ("file in the way", file_in_the_way, RUN, ("out", "in the way")),
    ("synth over something", nothing, ("synth", "CLUB", "--sizes", "a=20,b=20"), ("club",)),
    ("no size of memory", nothing, ("train", "CLUB", "--out", "OUT", "--memory-limit", "much"), ("2GiB",)),
    ("synth of one modality", nothing, ("synth", "TMP/new", "--sizes", "a=20"), ("2 or more",)),
]


@pytest.mark.parametrize(("name", "spoil", "call", "says"), CALLS, ids=[call[0] for call in CALLS])
def test_a_bad_call_or_store(
    hyperlearn: Callable[..., Ended],
    finished_copy: Path,
    name: str,
    spoil: Change,
    call: tuple[str, ...],
    says: tuple[str, ...],
) -> None:
    spoil(finished_copy)
    places = {"CLUB": "club", "OUT": "out", "TMP": "."}
    words = [
        str(finished_copy / places[w.split("/")[0]] / "/".join(w.split("/")[1:]))
        if w.split("/")[0] in places
        else w
        for w in call
    ]
    before = listing(finished_copy)
    ended = hyperlearn(*words)
    check(ended, says, finished_copy, before)


# A disk that is full: really, where a small file system can be mounted, and by the system's limit on
# the size of files anywhere.


def in_a_process(*arguments: object, limit: int | None = None) -> Ended:
    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=restrict, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A data set whose hypergraph is larger than the disks of these tests."""
    folder = tmp_path / "large"
    done = in_a_process("synth", folder, "--sizes", "a=3000,b=3000", "--hyperedges", "30000", "--no-graphs")
    assert done.code == 0, done.err
    return folder


def test_a_file_that_may_not_grow(large: Path, tmp_path: Path) -> None:
    ended = in_a_process("ingest", large, "--out", tmp_path / "out", limit=16_000)
    check(ended, ("hypergraph.zarr",), tmp_path / "out", None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    options = [mount, "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    if subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(large: Path, small_disk: Path) -> None:
    out = small_disk / "out"
    check(in_a_process("ingest", large, "--out", out), ("no space left", "hypergraph.zarr"), out, None)
