"""A cluster that others attach to: private, encrypted if asked for, and gone without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Ended

Run = Callable[..., Ended]
ANYWHERE = ("--port", "0", "--dashboard-port", "0")


@contextmanager
def serving(*options: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The command in a process group of its own, and the document it prints when it is up."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "cluster", *ANYWHERE, "--json"]
    process = subprocess.Popen(
        [*command, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        yield process, json.loads(text)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> str:
    """Wait for the end, which is a clean one; what it said on stderr."""
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    return process.stderr.read()


def gone(group: int) -> bool:
    """Whether no process of the group is left; Python's own helper ends a moment after the others."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_others_attach_to_an_encrypted_cluster_by_its_file(
    hyperlearn: Run, film_club: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "cluster.json", tmp_path / "out"
    with serving(film_club, "--workers", "2", "--tls", "--scheduler-file", file) as (process, found):
        assert found["scheduler"].startswith("tls://127.0.0.1:")
        assert found["dashboard"].startswith("http://127.0.0.1:")
        assert found["training"] == found["dashboard"].replace("/status", "/hyperlearn")
        assert sorted(found["workers"].values()) == [["movie"], ["tag", "user"]]
        assert all(address.startswith("tls://127.0.0.1:") for address in found["workers"])

        certificates = {part: Path(path) for part, path in json.loads(file.read_text())["tls"].items()}
        assert {path.stat().st_mode & 0o777 for path in certificates.values()} == {0o600}
        assert certificates["key"].parent.stat().st_mode & 0o777 == 0o700

        ended = hyperlearn("run", film_club, "--out", out, "--scheduler", file)
        assert ended.code == 0, ended.err
        assert "2 Dask workers, dashboard at http://127.0.0.1:" in ended.err
        assert f"training at {found['training']}\n" in ended.err
        assert (out / "metrics.json").exists()

        plain = "tcp" + found["scheduler"].removeprefix("tls")
        refused = hyperlearn("run", film_club, "--out", tmp_path / "other", "--scheduler", plain)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "it speaks TLS only" in refused.err
        bare = hyperlearn("run", film_club, "--out", tmp_path / "other", "--scheduler", found["scheduler"])
        assert (bare.code, bare.err.count("\n")) == (2, 1)
        assert "needs certificates: --tls-ca, --tls-cert, --tls-key" in bare.err

        process.send_signal(signal.SIGTERM)
        assert end(process) == "The cluster has ended\n"
    assert not file.exists()
    assert not certificates["key"].parent.exists()


def test_ctrl_c_ends_a_cluster_in_silence() -> None:
    with serving("--modalities", "user,movie", "--workers", "1") as (process, found):
        assert found["scheduler"].startswith("tcp://127.0.0.1:")
        assert list(found["workers"].values()) == [["movie", "user"]]
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells all processes in front
        assert end(process) == "The cluster has ended\n"
        assert gone(process.pid)


@pytest.mark.parametrize("after", [0.0, 0.7])
def test_a_cluster_told_to_end_while_it_starts_does_so(tmp_path: Path, after: float) -> None:
    file = tmp_path / "cluster.json"
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "cluster", *ANYWHERE]
    with subprocess.Popen(
        [*command, "--workers", "1", "--scheduler-file", file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not _children(process.pid):  # the process that workers are copied from
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(after)
        os.killpg(process.pid, signal.SIGINT)  # a terminal tells all processes in front
        # In its very first moments Dask logs that its processes were interrupted, too.
        assert end(process).splitlines()[-1] == "The cluster has ended"
        assert process.stdout is not None and process.stdout.read() == ""
        assert gone(process.pid)
    assert not file.exists()


def _children(process: int) -> list[psutil.Process]:
    return psutil.Process(process).children()


def test_a_killed_cluster_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving("--workers", "1") as (process, _):
        process.kill()
        process.wait()
        assert gone(process.pid)
    assert [path.name for path in tmp_path.iterdir() if path.name != "dask-scratch-space"] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--modalities", "user,,movie"], "--modalities: 'user,,movie' has an empty name, or one twice"),
        (["--workers", "0"], "--workers: 0 workers are too few"),
        (["--cuda", "--workers", "2"], "--workers: goes with --scheduler local only"),
        (["--host", "192.0.2.1", *ANYWHERE], "--port: cannot listen at 192.0.2.1:0"),
        (["--port", "99999"], "99999 is not in the range 0<=x<=65535"),
        (["--tls-ca", "ca.pem"], "--tls-cert, --tls-key: is missing; --tls-ca, --tls-cert, --tls-key go"),
        (["--tls", "--tls-ca", "ca.pem"], "--tls: makes temporary certificates; leave out either"),
        (["--scheduler-file", __file__], "exists and is no earlier scheduler file; choose another name"),
    ],
)
def test_what_cannot_be_is_one_line(hyperlearn: Run, options: list[str], says: str) -> None:
    ended = hyperlearn("cluster", *options)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert says in ended.err


def test_a_taken_port_is_one_line(hyperlearn: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = hyperlearn("cluster", "--port", taken.getsockname()[1])
    assert ended.code == 2
    assert "Address already in use" in ended.err


def test_data_set_and_modalities_are_one_too_many(hyperlearn: Run, film_club: Path) -> None:
    ended = hyperlearn("cluster", film_club, "--modalities", "user", *ANYWHERE)
    assert ended.code == 2
    assert "name one or the other" in ended.err
