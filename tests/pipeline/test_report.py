"""The page about results: whole, by itself, and true to what it is about."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import Ended

Run = Callable[..., Ended]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Text(HTMLParser):
    """The words of a page, and a complaint about tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words += data.split()


def read(page: Path) -> str:
    text = Text()
    text.feed(page.read_text(encoding="utf-8"))
    text.close()
    assert not text.open
    return " ".join(text.words)


def test_a_report_tells_what_there_is_how_good_it_is_and_shows_examples(
    hyperlearn: Run, finished_copy: Path
) -> None:
    ended = hyperlearn("report", finished_copy / "out")
    assert (ended.code, ended.out) == (0, "")
    page = finished_copy / "out" / "report.html"
    words = read(page)
    metrics = hyperlearn("info", finished_copy / "out", "--json").document["metrics"]
    for metric in metrics:
        assert f"{metric['metric']} {metric['value']:.4f}" in words
    for shown in ("movie × tag", "which tag?", "which value?", "Movie 4", "ranked first", "objective"):
        assert shown in words
    source = page.read_text(encoding="utf-8")
    assert "Bokeh" in source
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", source)  # nothing comes from elsewhere


def test_results_beside_their_data_are_reported_too(hyperlearn: Run, finished_copy: Path) -> None:
    (finished_copy / "out" / "dataset.toml").write_bytes(
        (finished_copy / "club" / "dataset.toml").read_bytes()
    )
    assert hyperlearn("report", finished_copy / "out").code == 0


def test_names_are_text_and_a_report_can_do_without_metrics(
    hyperlearn: Run, film_club: Path, tmp_path: Path, edit: Callable[[Path, str, str], None]
) -> None:
    edit(film_club / "movies.csv", "Movie 4", "<script>alert(4)</script>")
    for command in ("ingest", "graph", "train"):
        assert hyperlearn(command, film_club, "--out", tmp_path / "out").code == 0
    page = tmp_path / "elsewhere" / "page.html"
    assert hyperlearn("report", tmp_path / "out", "--out", page, "--seed", "3").code == 0
    assert "<script>alert(4)" not in page.read_text(encoding="utf-8")
    words = read(page)
    assert "<script>alert(4)</script>" in words  # as text
    assert "There is no metrics.json of this model; make one" in words


@pytest.mark.parametrize(
    ("out", "to", "said"),
    [
        ("club", None, "no hypergraph.zarr in this folder"),
        ("out", "out", "is a folder"),
        ("none", None, "none"),
        ("out", "club/ratings.csv", "exists and is no earlier report; choose another name or remove it"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    hyperlearn: Run, finished: Path, out: str, to: str | None, said: str
) -> None:
    ended = hyperlearn("report", finished / out, *(["--out", finished / to] if to else []))
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert not (finished / out / "report.html").exists()
