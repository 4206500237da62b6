"""Each variant of an ablation lacks one part, and can be trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import ablation
from benchmarks.ablation import variants
from benchmarks.accuracy import prepare
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.training.fit import problem_of


def test_each_variant_lacks_its_part(
    film_club: Path, tmp_path: Path, edit: Callable[[Path, str, str], None]
) -> None:
    settings = film_club / "dataset.toml"
    edit(settings, 'target = "tag"', 'target = "tag"\nabsent = "context"\nevidence = true')
    dataset, hypergraph = prepare(settings, film_club, tmp_path)
    problems: dict[str, Problem] = {}
    for title, changed, without in variants(dataset, hypergraph):
        weights = {m: s.graph.weight for m, s in changed.modalities.items() if s.graph is not None}
        problems[title] = problem_of(without, changed.relations, changed.training, weights, changed.encoders)
    whole = problems.pop("whole")
    assert whole.graph_weights and not problems["without graphs"].graph_weights
    learned = problems["learned convolution for graphs"]
    assert learned.encoders.keys() == whole.graph_weights.keys()
    assert not any(learned.graph_weights.values())
    assert {t.absent for t in whole.terms.values()} == {"unknown", "context"}
    assert {t.absent for t in problems["without context"].terms.values()} == {"unknown", "zero"}
    alone = [p.terms.keys() for title, p in problems.items() if "coupling" in title]
    assert alone == [{name} for name in whole.terms]
    assert problems["local evidence alone"].ridge > 1e6 * whole.ridge
    assert list(problems)[-2:] == ["without local evidence", "local evidence alone"]


def test_one_settings_file_by_itself(
    film_club: Path, tmp_path: Path, edit: Callable[[Path, str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "settings" / "lastfm"
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        shutil.copy(film_club / "dataset.toml", folder / f"{name}.toml")
    monkeypatch.setattr(ablation, "SETTINGS", folder.parent)
    monkeypatch.setitem(ablation.WHOLE, "lastfm", ("first", "second"))
    ran: list[str] = []
    monkeypatch.setattr(ablation, "our_rows", lambda name, method, *rest: ran.append(method) or [])
    command = ["lastfm", "--data", str(film_club), "--variant", "whole"]
    for options in ([], ["--settings", "second"]):
        assert CliRunner().invoke(ablation.main, [*command, *options]).exit_code == 0
    assert ran == ["hyperlearn whole", "hyperlearn second, whole", "hyperlearn second, whole"]
    refused = CliRunner().invoke(ablation.main, [*command, "--settings", "third"])
    assert (refused.exit_code, refused.output) == (
        2,
        "Error: no settings 'third' of lastfm (expected one of first, second)\n",
    )
