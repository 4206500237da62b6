"""The page and the metrics of a real scheduler, over HTTP and in a browser, while training goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass

import pytest
from bokeh.client import pull_session
from bokeh.models import Div
from distributed import Client

from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.monitor.post import Post, add_page
from hyperlearn_dask.training.fit import fit
from tests.monitor import chromium
from tests.training.made_up import SIZES, two_relations, two_relations_problem


@dataclass
class Running:
    """A training that goes on until it is told that it is enough."""

    client: Client
    page: str
    before: str  # what the page said before it
    reports: list
    events: list

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.page.replace("hyperlearn", path), timeout=60) as answer:
            return answer.read().decode()

    def wait_for_sweep(self, number: int) -> None:
        """Until a sweep is done, and the scheduler, which is told of it a little later, knows it."""
        assert_soon(lambda: self.reports and self.reports[-1].sweep >= number, "training does not get on")
        assert_soon(lambda: float(self.gauges().get("sweep", 0)) >= number, "the scheduler is not told")

    def gauges(self) -> dict[str, str]:
        found = re.findall(r'^hyperlearn_(\w+)\{training="[^"]*"\} (\S+)$', self.get("metrics"), re.M)
        return dict(found)


def assert_soon(true, otherwise, pause=0.05):
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(pause)


def wait_for_page(page, words, otherwise):
    """Until they are on it; seldom, as the scheduler keeps each session up to date for half a minute."""
    assert_soon(lambda: words in page_text(page), otherwise, pause=2)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "hypergraph.zarr"
    save_hypergraph(two_relations(), path)
    stored = open_hypergraph(path)
    # Even where F comes to rest, after some 130 sweeps, it goes on.
    problem, training = two_relations_problem(stored, sweeps=100_000, tolerance=-1.0)
    enough, told = threading.Event(), []

    with open_scheduler("local", list(SIZES), workers=2, tell=told.append) as client:
        page = re.search(r"training at (\S+)", told[0])[1]
        run = Running(client, page, page_text(page), [], [])

        def swept(report):
            run.reports.append(report)
            if enough.is_set():
                raise StopIteration("enough")

        def train():
            with contextlib.suppress(StopIteration):
                fit(stored, problem, training, client=client, on_sweep=swept, on_event=run.events.append)

        thread = threading.Thread(target=train)
        thread.start()
        yield run
        enough.set()
        thread.join()
        wait_for_page(page, "stopped: enough", "the end is not shown")


def page_text(url: str) -> str:
    """The words in a fresh session of a page."""
    with contextlib.closing(pull_session(url=url)) as session:
        return " ".join(div.text for div in session.document.select({"type": Div}))


def test_the_page_says_what_training_does_and_all_pages_lead_there(running):
    assert "No training yet" in running.before
    running.wait_for_sweep(5)
    text = page_text(running.page)
    assert re.search(r"HyperLearn: sweep \d+ of at most 100000", text)
    workers = running.client.scheduler_info(n_workers=-1)["workers"]
    for part in ("objective", "step", "2 workers", "made-0", "rated-0", "40 entities"):
        assert part in text
    for address in workers:
        assert address.removeprefix("tcp://") in text
    with contextlib.closing(pull_session(url=running.page)) as session:
        [source] = session.document.select({"name": "sweeps"})
        drawn = dict(zip(source.data["sweep"], source.data["objective"]))
    known = {report.sweep: report.objective for report in running.reports}
    assert len(drawn) >= 5
    assert all(drawn[sweep] == known[sweep] for sweep in drawn)
    assert 'href="hyperlearn"' in running.get("status")


def test_steps_count_the_bytes_that_come_from_other_workers(running):
    running.wait_for_sweep(60)
    received = Counter()
    for report in running.reports[30:60]:  # workers tell a few times a second, not in every sweep
        received.update(report.bytes_by)
    where = next(event.where for event in running.events if event.kind == "started")
    # A block's system needs the products of shards elsewhere: per column 8 bytes a row, and more.
    other = {m for m, owner in where.owners.items() if owner != where.holders["made-0"]}
    assert other
    for modality in other:
        assert received[f"solve-{modality}"] > 15 * 8 * SIZES[modality]
    names = r"(solve|line|mttkrp|normal|direction|turn|gram|step)-.*|turn"
    assert all(re.fullmatch(names, name) for name in received)


def test_prometheus_reads_gauges_of_training_and_counters_of_steps(running):
    running.wait_for_sweep(5)
    running.wait_for_sweep(running.reports[-1].sweep + 1)
    metrics = running.gauges()
    assert 0 < float(metrics["objective"]) <= running.reports[0].objective
    assert {"running": "1.0", "workers": "2.0"}.items() <= metrics.items()
    assert {"step_length", "sweep_seconds"} <= metrics.keys()

    ports = running.client.run(lambda dask_worker: dask_worker.http_server.port)
    steps = set()
    for port in ports.values():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            served = answer.read().decode()
        steps |= set(re.findall(r'^hyperlearn_step_seconds_total\{step="(.*)"\} ', served, re.M))
    assert {"solve-a", "solve-b", "solve-c", "mttkrp-made-0", "mttkrp-made-1", "step"} <= steps
    assert not any(re.fullmatch(r"step-\d+", name) for name in steps), "one series, not one for every sweep"


@pytest.mark.skipif(chromium.BINARY is None, reason="there is no Chromium to look at the page with")
def test_a_person_finds_the_page_and_the_tasks_of_each_modality_in_a_browser(running, tmp_path):
    running.wait_for_sweep(5)
    with chromium.chromium(tmp_path / "profile") as port:
        with chromium.tab(port, running.page) as tab:
            text = tab.wait_for(chromium.TEXT, r"HyperLearn: sweep \d+ of at most 100000")
            sweep = int(re.search(r"sweep (\d+)", text)[1])
            for part in ("Workers", "Modalities and shards", "made-0", "at work", "received"):
                assert part in text
            tab.wait_for(chromium.TEXT, rf"sweep (?!{sweep} )\d+ of")  # it is live
            curves = tab.wait_for(chromium.DATA, '"fall"')
            assert '"objective"' in curves
            tab.picture(tmp_path / "training.png")
        with chromium.tab(port, running.page.replace("hyperlearn", "status")) as tab:
            for modality in SIZES:
                # A worker's steps of a kind are one task: solve-a-c.
                tab.wait_for(chromium.DATA, rf'"(solve|direction)(-\w)*-{modality}')
            tab.picture(tmp_path / "status.png")
    for picture in ("training.png", "status.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert len(set((tmp_path / picture).read_bytes())) > 100  # not one colour


def test_losses_are_told_in_the_order_they_happen(running):
    """Last, as it costs a worker."""
    running.wait_for_sweep(5)
    victim = next(iter(running.client.run(os.getpid).values()))
    os.kill(victim, signal.SIGKILL)
    assert_soon(lambda: "recovered" in [event.kind for event in running.events], "nothing is recovered")
    wait_for_page(running.page, "recovered, going on from", "the page is not told")
    kinds = [event.kind for event in running.events if event.kind not in ("sweep", "checkpoint")]
    assert kinds[:3] == ["started", "lost", "recovered"]
    text = page_text(running.page)
    assert text.index("recovered, going on from") < text.index("lost: ") < text.index("started")


WITHOUT_US = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hyperlearn_dask":
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.parametrize("kind", ["without our package", "without a dashboard"])
def test_a_scheduler_that_cannot_show_it_is_no_worse_for_it(kind, tmp_path):
    (tmp_path / "without_us.py").write_text(WITHOUT_US)
    without = ["--preload", str(tmp_path / "without_us.py")] if "package" in kind else ["--no-dashboard"]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*command, "--dashboard-address", "127.0.0.1:0", *without], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = next(line for line in process.stderr if "Scheduler at:" in line)
            threading.Thread(target=process.stderr.read, daemon=True).start()
            # A busy host may take longer than the few seconds that a cluster of ours, open here, has set.
            with Client(line.split()[-1], set_as_default=False, timeout=60) as client:
                assert add_page(client) is None
                Post(client)({"event": "started"})
                assert client.scheduler_info()["type"] == "Scheduler"
        finally:
            process.kill()
