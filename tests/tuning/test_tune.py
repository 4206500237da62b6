"""Choosing settings: the right ones win, nothing is done twice, and no test tuple plays a part."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperlearn_dask.config import Range, load_dataset
from hyperlearn_dask.hypergraph.store import open_hypergraph
from hyperlearn_dask.tuning.ledger import Trial
from hyperlearn_dask.tuning.propose import SPREAD, propose
from hyperlearn_dask.tuning.search import TRIALS, Search, search
from hyperlearn_dask.tuning.space import search_space, settings_of, with_settings
from hyperlearn_dask.tuning.writing import written_into
from tests.conftest import Ended, write_csv

Run = Callable[..., Ended]
Edit = Callable[[Path, str, str], None]

PLANTED = """
[modalities.user.graph]
edges = "friends.csv"
source = "user"
target = "friend"
weight = 1e-4  # much too little

[modalities.item]

[relations.rated]
table = "rated.csv"
columns = { user = "user", item = "item" }
value = "stars"
absent = "unknown"

[training]
rank = 12      # much too many
ridge = 0.05
sweeps = 40
held_out = 0.2

[tune]
training.rank = [1, 3, 12]
modalities.user.graph.weight = [1e-4, 1e3, 1e8]
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Ratings of rank 3, few for each user; friends, on a ring, are much alike."""
    folder = tmp_path / "planted"
    folder.mkdir()
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(80) / 80
    users = np.stack([np.ones(80), np.cos(angle), np.sin(angle)], axis=1)
    items = rng.normal(size=(30, 3))
    stars = users @ items.T + 0.3 * rng.normal(size=(80, 30))
    rows = [(f"u{u}", f"i{i}", f"{stars[u, i]:.3f}") for u, i in np.argwhere(rng.random((80, 30)) < 0.15)]
    write_csv(folder / "rated.csv", ["user", "item", "stars"], rows)
    write_csv(folder / "friends.csv", ["user", "friend"], [(f"u{u}", f"u{(u + 1) % 80}") for u in range(80)])
    (folder / "dataset.toml").write_text(PLANTED, encoding="utf-8")
    return folder


def test_the_right_rank_and_graph_weight_win_and_are_written(
    hyperlearn: Run, planted: Path, tmp_path: Path
) -> None:
    out, tuned = tmp_path / "out", planted / "tuned.toml"
    ended = hyperlearn("tune", planted, "--out", out, "--trials", 7, "--write", tuned, "--json")
    assert ended.code == 0, ended.err
    first, *_ = ended.document["trials"]
    assert ended.document["metric"] == "rmse"
    assert first["settings"] == {"training.rank": 3, "modalities.user.graph.weight": 1e3}
    usual = next(trial for trial in ended.document["trials"] if trial["number"] == 0)
    assert usual["settings"] == {"training.rank": 12, "modalities.user.graph.weight": 1e-4}
    assert first["outcome"]["figure"] < 0.6 * usual["outcome"]["figure"]
    tried = [tuple(trial["settings"].values()) for trial in ended.document["trials"]]
    assert len(set(tried)) == len(tried) == 7
    # As a snippet, and in a copy of the settings that keeps its comments.
    best, sweep = tomllib.loads((out / "best.toml").read_text()), first["outcome"]["sweep"]
    assert best["training"] == {"rank": 3, "sweeps": sweep}
    assert best["modalities"] == {"user": {"graph": {"weight": 1e3}}}
    assert "# much too many" in tuned.read_text()
    dataset = load_dataset(tuned)
    assert (dataset.training.groups, dataset.training.sweeps) == ({"all": 3}, sweep)
    assert dataset.modalities["user"].graph.weight == 1e3
    assert "is there already" in hyperlearn("tune", planted, "--out", out, "--write", tuned).err


class Killed(Exception):
    pass


def trials_of(found: Search) -> list[dict[str, Any]]:
    return [{**t.settings, "number": t.number, "figure": t.outcome.figure} for t in found.trials]


def test_an_interrupted_search_does_only_what_is_left_and_finds_the_same(
    film_club: Path, tmp_path: Path
) -> None:
    dataset, wanted = load_dataset(film_club), SPREAD + 3
    undisturbed = search(dataset, tmp_path / "one", trials=wanted)
    done: list[Trial] = []

    def until(last: int) -> Callable[[Trial], None]:
        def on_trial(trial: Trial) -> None:
            done.append(trial)
            if trial.number == last:
                raise Killed

        return on_trial

    for last in (3, SPREAD):
        with pytest.raises(Killed):
            search(dataset, tmp_path / "two", trials=wanted, on_trial=until(last))
        with (tmp_path / "two" / TRIALS).open("a") as file:
            file.write('{"number": 4, "settings": {"tr')  # killed while it wrote a line
    found = search(dataset, tmp_path / "two", trials=wanted, on_trial=done.append)
    assert found.before == SPREAD + 1
    assert [trial.number for trial in done] == list(range(wanted))
    assert trials_of(found) == trials_of(undisturbed)
    assert found.ranked[0].number == undisturbed.ranked[0].number
    # Once more: nothing is left to do, in no time at all.
    assert trials_of(search(dataset, tmp_path / "two", trials=wanted, seconds=0)) == trials_of(found)


def test_test_tuples_play_no_part_and_other_data_is_refused(
    hyperlearn: Run, film_club: Path, tmp_path: Path, edit: Edit
) -> None:
    out = tmp_path / "out"
    first = hyperlearn("tune", film_club, "--out", out, "--trials", 2, "--json")
    assert first.code == 0, first.err
    held_out = open_hypergraph(out / "without-held-out.zarr").relations
    whole = open_hypergraph(out / "hypergraph.zarr").relations
    assert held_out["tagged"].test is None
    together = held_out["rated"].tensor.nnz + held_out["rated"].test.nnz
    assert together == whole["rated"].tensor.nnz

    rows = [line.split(",") for line in (film_club / "ratings_test.csv").read_text().splitlines()[1:]]
    write_csv(film_club / "ratings_test.csv", ["user", "movie", "stars"], [(u, m, 99) for u, m, _ in rows])
    again = hyperlearn("tune", film_club, "--out", out, "--trials", 2, "--json")
    assert (again.code, again.document) == (0, first.document)
    shutil.rmtree(out)
    fresh = hyperlearn("tune", film_club, "--out", out, "--trials", 2, "--json")
    figures = [[t["outcome"]["figure"] for t in e.document["trials"]] for e in (first, fresh)]
    assert figures[0] == figures[1]

    edit(film_club / "ratings.csv", "u0,m1,2", "u0,m1,4")
    ended = hyperlearn("tune", film_club, "--out", out, "--trials", 2)
    assert ended.code == 2
    assert "trials.jsonl" in ended.err and "other data, settings or metric" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_settings_that_cannot_be_trained_with_are_an_outcome(film_club: Path, tmp_path: Path) -> None:
    with (film_club / "dataset.toml").open("a") as file:
        file.write("[tune]\nmodalities.movie.graph.k = [2, 3, 40]\n")
    dataset = load_dataset(film_club)
    found = search(dataset, tmp_path / "out", trials=8, relation="tagged", metric="hits@10")
    problems = {t.settings["modalities.movie.graph.k"]: t.outcome.problem for t in found.trials}
    assert problems.pop(40).endswith("expected fewer neighbours than entities (15), got 40")
    assert problems == {2: None, 3: None}
    # The movies' graph has tags among its features: each is built without those put aside.
    names = sorted(path.name for path in (tmp_path / "out" / "graphs").iterdir())
    assert names == ["movie-2.zarr", "movie-40.zarr"]
    stored = open_hypergraph(tmp_path / "out" / "graphs" / "movie-2.zarr").relations["tagged"]
    assert stored.nnz == open_hypergraph(tmp_path / "out" / "without-held-out.zarr").relations["tagged"].nnz


def test_workers_share_the_trials(hyperlearn: Run, film_club: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", ("--relation", "tagged", "--trials", 4, "--json")
    there = hyperlearn("tune", film_club, "--out", out, *options, "--scheduler", "local", "--workers", 2)
    assert there.code == 0, there.err
    here = hyperlearn("tune", film_club, "--out", tmp_path / "here", *options)
    assert here.document["metric"] == "mrr"

    def figures(ended: Ended) -> dict[int, Any]:
        return {t["number"]: (t["settings"], t["outcome"]["figure"]) for t in ended.document["trials"]}

    assert figures(there).keys() == figures(here).keys() == {0, 1, 2, 3}
    for number, (settings, figure) in figures(here).items():
        assert figures(there)[number][0] == settings
        assert figures(there)[number][1] == pytest.approx(figure, rel=1e-6)


def test_what_cannot_be_asked_is_said_in_one_line(
    hyperlearn: Run, film_club: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, says in [
        (("--relation", "bought"), "no relation 'bought' (expected one of rated, tagged)"),
        (("--metric", "mrr"), "no metric 'mrr' of 'rated' (it has rmse, mae)"),
        (("--write", tmp_path / "x.toml"), "belongs in"),
        (("--trials", "0"), "0"),
    ]:
        ended = hyperlearn("tune", film_club, "--out", tmp_path / "out", *options)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1), ended.err
        assert says in ended.err
    monkeypatch.setitem(sys.modules, "optuna", None)
    ended = hyperlearn("tune", film_club, "--out", tmp_path / "out")
    assert ended.code == 2
    assert ended.err.strip().endswith("pip install 'hyperlearn-dask[tune]'")
    assert not (tmp_path / "out").exists()


def test_the_usual_space_lies_around_the_settings(film_club: Path) -> None:
    dataset = load_dataset(film_club)
    space = search_space(dataset, "rated")
    assert space["training.rank"] == Range(1, 6, whole=True)
    assert space["modalities.movie.graph.k"] == Range(1, 6, whole=True, choices=(1, 3, 6))
    assert space["modalities.user.graph.weight"] == Range(0.1, 10.0)
    assert "relations.rated.weight" not in space, "F times a number has the same minimum"
    assert "relations.rated.absent_weight" not in space, "its absent entries are unknown"
    assert {"relations.tagged.weight", "relations.tagged.absent_weight"} < space.keys()
    settings = settings_of(dataset, space)
    assert with_settings(dataset, settings) == dataset
    other = with_settings(dataset, {**settings, "training.rank": 5, "modalities.movie.graph.k": 6})
    assert (other.training.groups, other.modalities["movie"].graph.k) == ({"all": 5}, 6)


def test_proposals_fill_the_space_and_then_go_where_it_was_good() -> None:
    space = {"a": Range(0.01, 100.0), "b": Range(1, 4, whole=True), "c": Range(2, 8, True, (2, 4, 8))}
    told: list[tuple[dict[str, float], float]] = []
    for number in range(60):
        settings = propose(space, told, 3, number, lower=False)
        assert settings == propose(space, list(told), 3, number, lower=False)
        assert 0.01 <= settings["a"] <= 100
        assert settings["b"] in range(1, 5)
        assert settings["c"] in (2, 4, 8)
        told.append((dict(settings), -((np.log10(settings["a"]) - 1) ** 2) - abs(settings["b"] - 3)))
    early, late = told[:SPREAD], told[-20:]
    assert {s["b"] for s, _ in early} == {1, 2, 3, 4}
    assert {s["c"] for s, _ in early} == {2, 4, 8}
    thirds = {int((np.log10(s["a"]) + 2) // (4 / 3)) for s, _ in early}
    assert thirds == {0, 1, 2}
    assert np.mean([figure for _, figure in late]) > np.mean([figure for _, figure in early]) + 1


TEXT = """
training = { rank = 3 }  # inline
[modalities."a"]
table = "x.csv" # a table
[modalities.b]
graph = { edges = "e.csv" }
[relations.r]
weight = 1.5 # lambda
columns = { a = "a", b = [1, # one
  2] }
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("training", "rank"), "training = { rank = 7 }  # inline"),
        (("training", "ridge"), "training = { rank = 3, ridge = 7 }  # inline"),
        (("modalities", "b", "graph", "weight"), 'graph = { edges = "e.csv", weight = 7 }'),
        (("relations", "r", "weight"), "weight = 7 # lambda"),
        (("relations", "r", "absent_weight"), "absent_weight = 7"),
        (("modalities", "c", "graph", "weight"), "[modalities.c.graph]\nweight = 7"),
        (("a b", "x"), '["a b"]\nx = 7'),
    ],
)
def test_a_value_is_written_where_it_belongs_and_nothing_else_changes(
    path: tuple[str, ...], line: str
) -> None:
    text = written_into(TEXT, {path: 7})
    assert line in text
    assert [old for old in TEXT.splitlines() if old not in text.splitlines()] == (
        [] if path[-1] in ("absent_weight", "x") or "c" in path else [_line_of(TEXT, line)]
    )


def _line_of(text: str, line: str) -> str:
    return next(old for old in text.splitlines() if old[:6] == line[:6])


def test_the_ledger_is_lines_of_json(film_club: Path, tmp_path: Path) -> None:
    found = search(load_dataset(film_club), tmp_path / "out", trials=1)
    header, row = map(json.loads, (tmp_path / "out" / TRIALS).read_text().splitlines())
    assert (header["format"], header["relation"], header["metric"]) == ("hyperlearn-trials", "rated", "rmse")
    assert row["outcome"]["figure"] == found.trials[0].outcome.figure
