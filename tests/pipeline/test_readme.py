"""What the README shows is true: its settings load, its Python runs, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperlearn_dask.config import load_dataset
from pipeline.cli import cli
from tests.conftest import Ended, write_csv

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_its_settings_load(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(blocks("toml")[0], encoding="utf-8")
    for table in ("movies", "friends", "ratings", "ratings_test"):
        write_csv(tmp_path / f"{table}.csv", [], [])
    assert list(load_dataset(tmp_path).relations) == ["rated", "played"]


def test_its_python_runs() -> None:
    script = "".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("water ")


def test_its_commands_exist(hyperlearn: Callable[..., Ended]) -> None:
    named = set(re.findall(r"hyperlearn ([a-z]+) ", README))
    assert named == set(cli.commands) - {"ingest", "graph", "train", "evaluate"}


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[2] / link).exists()
