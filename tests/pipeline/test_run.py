"""All stages in a row: what they leave, and that nothing is done twice or too little."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlearn_dask.factorization.local.likeness import REGRESSION, VOTES
from hyperlearn_dask.factorization.model_store import open_model
from tests.conftest import Ended, listing, write_film_club

Run = Callable[..., Ended]
Edit = Callable[[Path, str, str], None]


def made(ended: Ended) -> dict[str, list[str]]:
    """What a run with --json made: units per stage, the stage itself where it has no units."""
    assert ended.code == 0, ended.err
    return {
        stage["stage"]: [u["unit"] for u in stage["units"] if u["action"] == "made"] or [stage["why"]]
        for stage in ended.document["stages"]
        if stage["done"]
    }


@pytest.fixture
def again(hyperlearn: Run, finished_copy: Path) -> Callable[..., Ended]:
    """Run the finished data set once more."""

    def run(*options: str) -> Ended:
        return hyperlearn("run", finished_copy / "club", "--out", finished_copy / "out", "--json", *options)

    return run


def test_a_run_leaves_three_artefacts_and_shows_them(
    hyperlearn: Run, film_club: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = hyperlearn("run", film_club, "--out", out)
    assert ended.code == 0, ended.err
    assert sorted(path.name for path in out.iterdir()) == ["hypergraph.zarr", "metrics.json", "model.zarr"]
    for shown in ("entities", "hyperedges", "12 × 15", "rmse", "mrr", "where the time went"):
        assert shown in ended.out
    for stage in ("ingest", "graph", "train", "evaluate"):
        assert re.search(rf"^{stage} ", ended.err, re.MULTILINE)
    assert "sweep 1/12" in ended.err
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["training"]["sweeps"] == len(open_model(out / "model.zarr").history)
    assert {m["relation"] for m in metrics["metrics"]} == {"rated", "tagged"}


@pytest.mark.parametrize("scheduler", ["none", "local"])
def test_a_second_run_does_nothing_and_says_so(again: Run, finished_copy: Path, scheduler: str) -> None:
    before = listing(finished_copy / "out")
    ended = again("--scheduler", scheduler)
    assert made(ended) == {}
    assert ended.err.count("up to date") == 4
    assert len(ended.err.splitlines()) == 4
    assert listing(finished_copy / "out") == before


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        # A rating: its relation, what is trained on it, and the judgement.
        (
            "ratings.csv",
            "u0,m1,2",
            "u0,m1,4",
            {"ingest": ["relations/rated"], "train": ["relations/rated changed"], "evaluate": None},
        ),
        # A tag: the movies' graph has it among its features.
        (
            "tags.csv",
            "m2,star",
            "m2,dark",
            {
                "ingest": ["modalities/tag", "relations/tagged"],
                "graph": ["graphs/movie"],
                "train": ["relations/tagged changed; graphs/movie changed"],
                "evaluate": None,
            },
        ),
        (
            "movies.csv",
            ",1975",
            ",2020",
            {"ingest": ["modalities/movie"], "graph": ["graphs/movie"], "train": None, "evaluate": None},
        ),
        ("friends.csv", "u0,u3,", "u0,u4,", {"graph": ["graphs/user"], "train": None, "evaluate": None}),
        (
            "tags_test.csv",
            "m0,light",
            "m0,dark",
            {"ingest": ["tests/tagged"], "evaluate": ["tests/tagged changed"]},
        ),
        ("dataset.toml", "k = 3", "k = 4", {"graph": ["graphs/movie"], "train": None, "evaluate": None}),
        (
            "dataset.toml",
            "k = 3",
            "k = 3\nweight = 2.5",
            {"train": ["modalities.movie.graph.weight changed from 1.0 to 2.5"], "evaluate": None},
        ),
        (
            "dataset.toml",
            "rank = 3",
            "rank = 4",
            {"train": ['training.groups changed from {"all": 3} to {"all": 4}'], "evaluate": None},
        ),
        ("dataset.toml", "A film club", "Another title", {}),
        ("dataset.toml", "[training]", '[placement]\nscheme = "owner"\n\n[training]', {}),
    ],
    ids=["rating", "tag", "feature", "edge", "test", "k", "graph weight", "rank", "title", "placement"],
)
def test_a_change_redoes_exactly_what_depends_on_it(
    again: Run, edit: Edit, finished_copy: Path, file: str, old: str, new: str, expected: dict[str, Any]
) -> None:
    edit(finished_copy / "club" / file, old, new)
    done = made(again())
    assert {stage: done[stage] if wanted else None for stage, wanted in expected.items()} == expected
    assert set(done) == set(expected)
    assert made(again()) == {}


def test_another_target_of_what_validation_is_on_is_trained_again(
    again: Run, edit: Edit, finished_copy: Path
) -> None:
    settings = finished_copy / "club" / "dataset.toml"
    edit(settings, "[training]", '[training]\nvalidation = "tagged"')
    edit(settings, '  { kind = "relation", relation = "tagged" },\n', "")
    made(again())
    edit(settings, 'target = "tag"', 'target = "movie"')
    assert made(again())["train"] == ['relations.tagged.target changed from "tag" to "movie"']


def test_a_hypergraph_of_other_relations_is_taken_in_first(hyperlearn: Run, finished_copy: Path) -> None:
    club, out = finished_copy / "club", finished_copy / "out"
    settings = club / "dataset.toml"
    whole = settings.read_text()
    # Ratings are no longer known, and neither are users; tags have no test tuples.
    start, stop = whole.index("[relations.rated]"), whole.index("[relations.tagged]")
    settings.write_text(whole[:start] + whole[stop:].replace('test = "tags_test.csv"\n', ""))
    gone = "'relations/rated' is no longer in the data set; have it taken out first: hyperlearn ingest"
    missing = "'relations/rated' is not in hypergraph.zarr yet; make it first: hyperlearn ingest"
    for says in (gone, missing):
        for stage in ("graph", "train", "evaluate"):
            ended = hyperlearn(stage, club, "--out", out)
            assert ended.code == 2 and says in ended.err
        assert hyperlearn("ingest", club, "--out", out).code == 0
        settings.write_text(whole)


def test_figures_of_an_earlier_model_are_not_shown(hyperlearn: Run, finished_copy: Path) -> None:
    club, out = finished_copy / "club", finished_copy / "out"
    assert hyperlearn("info", out, "--json").document["metrics"]
    assert hyperlearn("train", club, "--out", out, "--rank", "2").code == 0
    assert "metrics" not in hyperlearn("info", out, "--json").document
    assert hyperlearn("evaluate", club, "--out", out).code == 0
    assert hyperlearn("info", out, "--json").document["metrics"]


def test_a_new_label_is_put_right_without_training(again: Run, edit: Edit, finished_copy: Path) -> None:
    before = open_model(finished_copy / "out" / "model.zarr")
    edit(finished_copy / "club" / "users.csv", "User 7", "Grace")
    done = made(again())
    after = open_model(finished_copy / "out" / "model.zarr")
    assert done["train"] == ["only labels or targets have changed; they were put right without training"]
    assert "evaluate" not in done
    assert "Grace" in after.modalities["user"].labels
    np.testing.assert_array_equal(after.factors["user"], before.factors["user"])


def test_test_tuples_that_are_trained_on_are_told(again: Run, edit: Edit, finished_copy: Path) -> None:
    edit(finished_copy / "club" / "tags_test.csv", "m0,light", "m1,dark")
    assert "1 of 3 test tuples of 'tagged' are training hyperedges as well" in again().err


def test_a_broken_model_can_be_made_again(again: Run, finished_copy: Path) -> None:
    model = finished_copy / "out" / "model.zarr"
    (model / "zarr.json").write_text("")
    ended = again()
    assert (ended.code, ended.err.splitlines()[-1].count("delete it to have it made again")) == (2, 1)
    shutil.rmtree(model)
    assert again().code == 0


def test_what_is_deleted_is_made_again(again: Run, finished_copy: Path) -> None:
    (finished_copy / "out" / "metrics.json").unlink()
    assert set(made(again())) == {"evaluate"}


def test_options_override_settings(again: Run) -> None:
    ended = again("--rank", "2", "--sweeps", "3", "--schedule", "sequential")
    assert set(made(ended)) == {"train", "evaluate"}
    assert ended.document["training"]["rank"] == 2
    assert ended.document["training"]["sweeps"] <= 3


def test_stages_one_by_one_are_a_run(hyperlearn: Run, film_club: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for stage in ("ingest", "graph", "train", "evaluate"):
        ended = hyperlearn(stage, film_club, "--out", out, "--json")
        assert list(made(ended)) == [stage]
    assert made(hyperlearn("run", film_club, "--out", out, "--json")) == {}


def test_workers_give_what_one_process_gives(hyperlearn: Run, finished: Path, tmp_path: Path) -> None:
    ended = hyperlearn(
        "run", finished / "club", "--out", tmp_path / "out", "--scheduler", "local", "--workers", "2"
    )
    assert ended.code == 0, ended.err
    assert "2 Dask workers, dashboard at http://127.0.0.1:" in ended.err
    one, many = (open_model(folder / "out" / "model.zarr") for folder in (finished, tmp_path))
    for modality, factor in one.factors.items():
        np.testing.assert_allclose(many.factors[modality], factor, rtol=1e-6, atol=1e-9)


def test_two_commands_do_not_share_a_folder(hyperlearn: Run, film_club: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    handle = os.open(out, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        ended = hyperlearn("run", film_club, "--out", out)
    finally:
        os.close(handle)
    assert ended.code == 2
    assert "another hyperlearn command is working in this folder" in ended.err
    assert listing(out) == {}


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_whole_artefacts_and_a_run_goes_on(
    hyperlearn: Run, film_club: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run", film_club, "--out", out]
    endless = [*command, "--sweeps", "1000000", "--tolerance", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell's background jobs, and so tests run as one, ignore SIGINT unless it is set back.
    with subprocess.Popen(endless, **pipes, preexec_fn=_heed_interrupts) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "sweep" in line:
                break
        time.sleep(0.1)
        process.send_signal(number)
        rest, _ = process.stderr.read(), process.wait(timeout=60)
    assert process.returncode == 130
    assert rest.splitlines()[-1].startswith("Interrupted; finished stages are kept")
    assert "Traceback" not in rest
    assert [path.name for path in out.iterdir()] == ["hypergraph.zarr"]
    assert set(made(hyperlearn("run", film_club, "--out", out, "--json"))) == {"train", "evaluate"}


# The command line, with a checkpoint after every sweep, that kills itself in the eighth.
KILLED = """
import os, sys
from hyperlearn_dask.training.checkpoint import Checkpoints
from pipeline import display, stages
from pipeline.cli import main

class Killing(display.TrainingProgress):
    def __call__(self, report):
        super().__call__(report)
        if report.sweep == 8:
            os.kill(os.getpid(), int(sys.argv[1]))

stages.Checkpoints = lambda *given, **named: Checkpoints(*given, **{**named, "every": 0.0, "share": 1.0})
display.TrainingProgress = Killing
main(sys.argv[2:])
"""


def run_and_kill(folder: Path, number: signal.Signals) -> Path:
    """Run the data set in a folder and kill the process while it trains; gives the folder of its results."""
    club, out = write_film_club(folder / "club"), folder / "out"
    command = [sys.executable, "-c", KILLED, str(int(number)), "run", club, "--out", out]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == (-number if number == signal.SIGKILL else 130), ended.stderr
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "hypergraph.zarr"]
    return out


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_and_kill(tmp_path_factory.mktemp("killed"), signal.SIGKILL).parent


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """The results of a run that was killed while training, to go on with."""
    return shutil.copytree(killed_once, tmp_path / "killed") / "out"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_training_goes_on_to_the_same_model(
    hyperlearn: Run, killed: Path, finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = killed if number == signal.SIGKILL else run_and_kill(tmp_path, number)
    ended = hyperlearn("run", out.parent / "club", "--out", out)
    assert ended.code == 0, ended.err
    assert "going on from sweep 7" in ended.err.splitlines()
    assert sorted(path.name for path in out.iterdir()) == ["hypergraph.zarr", "metrics.json", "model.zarr"]
    got, expected = (open_model(folder / "model.zarr") for folder in (out, finished / "out"))
    assert [row["sweep"] for row in got.history] == [row["sweep"] for row in expected.history]
    for modality, factor in expected.factors.items():
        np.testing.assert_allclose(got.factors[modality], factor, rtol=0, atol=1e-10 * np.abs(factor).max())


def test_a_killed_training_goes_on_to_fewer_sweeps(hyperlearn: Run, killed: Path) -> None:
    out = killed
    ended = hyperlearn("train", out.parent / "club", "--out", out, "--sweeps", "9")
    assert ended.code == 0, ended.err
    assert "going on from sweep 7" in ended.err.splitlines()
    assert len(open_model(out / "model.zarr").history) == 9


def test_a_killed_training_goes_on_to_another_tolerance(hyperlearn: Run, edit: Edit, killed: Path) -> None:
    club = killed.parent / "club"
    edit(club / "dataset.toml", "sweeps = 12", "sweeps = 12\ntolerance = 1e-9")
    ended = hyperlearn("train", club, "--out", killed)
    assert ended.code == 0, ended.err
    assert "going on from sweep 7" in ended.err.splitlines()


@pytest.mark.parametrize("options", [["--restart"], ["--seed", "2"]], ids=["restart", "other settings"])
def test_a_training_begins_anew_if_told_or_of_something_else(
    hyperlearn: Run, killed: Path, options: list[str]
) -> None:
    out = killed
    ended = hyperlearn("train", out.parent / "club", "--out", out, *options)
    assert ended.code == 0, ended.err
    assert "going on" not in ended.err
    assert ("of other data or settings" in ended.err) == (options != ["--restart"])
    assert "sweep 1/12" in ended.err
    assert sorted(path.name for path in out.iterdir()) == ["hypergraph.zarr", "model.zarr"]


def test_evidence_switched_on_is_learned_and_explains_answers(
    hyperlearn: Run, again: Callable[..., Ended], finished_copy: Path, edit: Edit
) -> None:
    file, out = finished_copy / "club" / "dataset.toml", finished_copy / "out"
    asked = ("query", out, "tag", "--given", "movie=Movie 4", "--json")
    assert all("why" not in row for row in hyperlearn(*asked).document["rows"])
    edit(file, 'target = "tag"', 'target = "tag"\nevidence = true')
    assert made(again()) == {
        "train": ["relations.tagged.target is new; relations.tagged.evidence is new"],
        "evaluate": ["the model changed"],
    }
    assert made(again()) == {}
    rows = hyperlearn(*asked, "--explain").document["rows"]
    # The graph of movies was built from the tags, so its neighbours have no say about them.
    for row in rows:
        assert list(row["why"]) == ["factors", "popularity", REGRESSION, *VOTES.values()]
        assert sum(row["why"].values()) == pytest.approx(row["score"])
    table = hyperlearn(*asked[:-1], "--explain")
    assert "regression" in table.out and "cosine^8" in table.out
