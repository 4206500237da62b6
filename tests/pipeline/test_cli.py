"""The command line itself: questions answered, words for what goes wrong, quiet ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import asking, choosing, making, planning, serving
from pipeline.cli import cli
from tests.conftest import Ended

Run = Callable[..., Ended]
ROOMS = (making, choosing, asking, serving, planning)
COMMANDS = [command.name for room in ROOMS for command in room.COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(hyperlearn: Run, command: str) -> None:
    ended = hyperlearn(command, "--help")
    assert ended.code == 0
    assert f"  hyperlearn {command} " in ended.out.split("Example")[1]


def test_the_commands_are_those_of_the_contract() -> None:
    assert set(cli.commands) == set(COMMANDS)
    making_commands = {"ingest", "graph", "train", "evaluate", "run", "synth"}
    asking_commands = {"query", "similar", "report", "export", "info"}
    assert set(COMMANDS) == making_commands | asking_commands | {"tune", "plan", "cluster"}


def test_a_question_is_answered_by_name(hyperlearn: Run, finished: Path) -> None:
    ended = hyperlearn("query", finished / "out", "tag", "--given", "movie=Movie 4", "--top", "3", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["given"] == {"movie": "Movie 4"}
    assert {row["id"] for row in ended.document["rows"]} == {"dark", "blood", "night"}
    table = hyperlearn("query", finished / "out" / "model.zarr", "tag", "--given", "movie=m4")
    assert "tag for movie Movie 4 (by tagged)" in table.out
    assert "tag, nothing given (by " in hyperlearn("query", finished / "out", "tag").out


def test_similar_entities_are_of_a_kind(hyperlearn: Run, finished: Path) -> None:
    ended = hyperlearn("similar", finished / "out", "movie", "Movie 4", "--top", "4", "--json")
    assert [int(row["id"][1:]) % 3 for row in ended.document["rows"]] == [1] * 4


def test_an_export_can_be_read_without_us(hyperlearn: Run, finished: Path, tmp_path: Path) -> None:
    ended = hyperlearn("export", finished / "out", "--format", "npz", "--out", tmp_path / "m.npz")
    assert (ended.code, ended.out) == (0, "")
    with np.load(tmp_path / "m.npz") as archive:
        assert len(archive["movie/matrix"]) == 15


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (
            "club",
            ["A film club", "edges of friends.csv", "3 nearest by category, number, relation", "unknown"],
        ),
        ("club/dataset.toml", ["A film club"]),
        ("out", ["12 × 15", "graph edges", "columns", "sweeps in", "rmse"]),
        ("out/hypergraph.zarr", ["12 × 15", "isolated"]),
        ("out/model.zarr", ["all 3", "rated (absent = unknown)"]),
    ],
)
def test_info_tells_about_whatever_there_is(
    hyperlearn: Run, finished: Path, path: str, shown: list[str]
) -> None:
    ended = hyperlearn("info", finished / path)
    assert ended.code == 0, ended.err
    for text in shown:
        assert text in ended.out
    assert hyperlearn("info", finished / path, "--json").document


def test_a_planted_model_is_made_and_found(hyperlearn: Run, tmp_path: Path) -> None:
    sizes = "user=60,movie=40,tag=30"
    options = ("--sizes", sizes, "--rank", "3", "--hyperedges", "2000")
    assert hyperlearn("synth", tmp_path / "planted", *options).code == 0
    ended = hyperlearn("run", tmp_path / "planted", "--out", tmp_path / "out", "--json")
    assert ended.code == 0, ended.err
    values = {m["metric"]: m["value"] for m in ended.document["metrics"]}
    assert values["hits@10"] > 0.8  # of 30 tags; at random 0.33
    ended = hyperlearn("similar", tmp_path / "out", "tag", "tag-0", "--top", "5", "--json")
    own = ended.document["given"]["tag"].split()[-1]
    assert [row["label"].split()[-1] for row in ended.document["rows"]] == [own] * 5


def test_the_same_seed_gives_the_same_files(hyperlearn: Run, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        hyperlearn(
            "synth",
            tmp_path / name,
            "--sizes",
            "x=30,y=30",
            "--rank",
            "2",
            "--hyperedges",
            "99",
            "--seed",
            seed,
        )
    a, b, c = ((tmp_path / name / "joined_train.csv").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rum"], "No such command 'rum'"),
        (["run", "d"], "Missing option '--out'"),
        (["run"], "Missing argument 'DATASET'"),
        (["run", "d", "--out", "o", "--rank", "many"], "'many' is not a valid integer"),
        (["run", "d", "--out", "o", "--rang", "2"], "No such option '--rang'"),
        (["query", "m", "artist", "--given", "Monet"], "'Monet' is not of the form NAME=VALUE"),
        (["query", "m", "artist", "--given", "a=b", "--given", "a=c"], "'a' is given twice"),
        (["export", "m", "--format", "xml", "--out", "f"], "'xml' is not one of 'npz', 'parquet', 'tsv'"),
        (["synth", "f", "--sizes", "user=few"], "'few' is no number of entities"),
    ],
)
def test_a_wrong_call_is_one_line_that_names_the_help(
    hyperlearn: Run, arguments: list[str], says: str
) -> None:
    ended = hyperlearn(*arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert says in ended.err
    assert "--help)" in ended.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "Interrupted\n"),
        (OSError(28, "No space left on device", "x.bin"), 2, "Error: x.bin: No space left on device"),
        (MemoryError(), 2, "Error: not enough memory"),
        (ValueError("oops\nsecond line"), 1, "Error: this is a bug: ValueError: oops second line (HYPER"),
    ],
    ids=["interrupted", "disk", "memory", "bug"],
)
def test_whatever_goes_wrong_is_one_line(
    hyperlearn: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fails(path: Path) -> None:
        raise error

    monkeypatch.setattr("pipeline.summary.summary", fails)
    ended = hyperlearn("info", "anything")
    assert ended.code == code
    assert ended.err.lstrip().startswith(line)
    assert len(ended.err.strip().splitlines()) == 1


@pytest.mark.parametrize("options", [["--json"], []], ids=["json", "table"])
def test_a_reader_that_has_enough_is_no_error(finished: Path, options: list[str]) -> None:
    script = "from pipeline.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", script, "info", finished / "out", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait() == 0
    assert errors == b""


def test_no_command_shows_the_help(hyperlearn: Run) -> None:
    ended = hyperlearn()
    assert ended.code == 0
    assert "Commands:" in ended.out and ended.out.count("\n") > 20
