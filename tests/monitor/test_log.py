"""``--log FILE``: one JSON object for every event."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.monitor.log import JsonLines


def read(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_training_is_in_the_log_from_its_start_to_its_end(hyperlearn, finished_copy):
    club, out, log = finished_copy / "club", finished_copy / "out", finished_copy / "out" / "log.jsonl"
    ended = hyperlearn("train", club, "--out", out, "--seed", 3, "--sweeps", 4, "--log", log)
    assert ended.code == 0, ended.err
    records = read(log)
    assert [r["event"] for r in records] == ["started", *["sweep"] * 4, "finished"]
    start, *_, end = records
    assert start["settings"]["sweeps"] == 4
    assert start["entities"].keys() == {"user", "movie", "tag"}
    assert start["hyperedges"].keys() == {"rated", "tagged"}
    assert start["where"]["owners"]["movie"] == "this process"
    assert start["going_on_from"] is None
    sweeps = [r for r in records if r["event"] == "sweep"]
    for r in sweeps:
        assert r["objective"] == pytest.approx(sum(r["parts"].values()))
        assert 0 < sum(r["seconds_by"].values()) <= r["seconds"]
    assert (end["sweeps"], end["objective"]) == (4, sweeps[-1]["objective"])
    assert [r["time"] for r in records] == sorted(r["time"] for r in records)

    again = hyperlearn("run", club, "--out", out, "--seed", 4, "--sweeps", 2, "--log", log)
    assert again.code == 0, again.err
    assert [r["event"] for r in read(log)[len(records) :]].count("sweep") == 2  # appended


def test_checkpoints_are_in_the_log(tmp_path):
    from hyperlearn_dask.training.checkpoint import Checkpoints
    from hyperlearn_dask.training.fit import fit
    from tests.training.made_up import two_relations, two_relations_problem

    hypergraph = two_relations()
    problem, training = two_relations_problem(hypergraph, sweeps=3)
    heard = []
    checkpoints = Checkpoints(tmp_path / "checkpoints", "this one", every=0.0, share=1.0)
    fit(hypergraph, problem, training, checkpoints=checkpoints, on_event=heard.append)
    assert [e.place for e in heard if e.kind == "checkpoint"] == ["sweep 1", "sweep 2"]
    assert all(Path(e.path).is_dir() for e in heard if e.kind == "checkpoint")

    def stop(report):
        raise KeyboardInterrupt

    heard.clear()
    with pytest.raises(KeyboardInterrupt):
        fit(hypergraph, problem, training, checkpoints=checkpoints, on_event=heard.append, on_sweep=stop)
    assert heard[0].going_on_from == "sweep 2"
    assert (heard[-1].kind, heard[-1].why) == ("stopped", "KeyboardInterrupt")


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_log_that_cannot_be_is_one_line(hyperlearn, film_club, tmp_path, command):
    for bad, says in ((tmp_path, "Is a directory"), (tmp_path / "no" / "log", "No such file or directory")):
        ended = hyperlearn(command, film_club, "--out", tmp_path / "out", "--log", bad)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert f"{bad}, --log: cannot be written ({says})" in ended.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["user,movie,stars\n", '{"user": "u1", "stars": 4}\n', "{\n", "[1]\n"])
def test_a_log_is_not_appended_to_something_else(hyperlearn, film_club, tmp_path, text):
    table = film_club / "other"
    table.write_text(text)
    ended = hyperlearn("train", film_club, "--out", tmp_path / "out", "--log", table)
    assert (ended.code, ended.err.count("\n"), table.read_text()) == (2, 1, text)
    assert f"{table}, --log: exists and is no log of ours to append to" in ended.err


def test_a_full_disk_ends_the_log_and_nothing_else():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    told = []
    with JsonLines(full, told.append) as log:
        log({"event": "one"})
        log({"event": "two"})
    assert told == ["/dev/full: the log ends here (No space left on device)"]


def test_what_json_does_not_have_is_null(tmp_path):
    from hyperlearn_dask.training.events import record
    from hyperlearn_dask.training.report import SweepReport

    with JsonLines(tmp_path / "log", print) as log:
        log(record(SweepReport(1, float("inf"), {"fit": float("nan")}, 1.0)))
    [line] = read(tmp_path / "log")
    assert (line["objective"], line["parts"]["fit"], line["step"]) == (None, None, 1.0)
    with pytest.raises(InputError):
        JsonLines(tmp_path, print)
