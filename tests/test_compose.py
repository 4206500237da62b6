"""The files for Docker Compose are valid, and what they start does the museum job."""

from __future__ import annotations

import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
import pytest
from compose_spec import PyCompose
from distributed.config import defaults

from hyperlearn_dask.cluster.certificates import temporary_certificates
from hyperlearn_dask.cluster.local import MALLOC, THREAD_POOLS
from hyperlearn_dask.config import load_dataset
from tests import composed
from tests.composed import COMPOSE, LOOPBACK, ROOT, TLS, Machine, Project

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
SETTINGS = (ROOT / ".env").read_text(encoding="utf-8")
MUSEUM = ROOT / "data" / "museum"


def faults(text: str, over: str | None = None) -> list[str]:
    """What is wrong with a compose file, by its schema or else by our reading of its references."""
    project = composed.load(text, {})
    if over is not None:
        project = composed.merged(project, composed.load(over, {"CERTIFICATES": "./data"}))
    try:
        PyCompose.from_json(json.dumps(project)).validate()
    except ValueError as error:
        return [str(error)]
    return composed.problems(project)


def test_the_files_are_valid() -> None:
    assert faults(COMPOSE.read_text()) == []
    assert faults(COMPOSE.read_text(), TLS.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("healthcheck: *scheduler-answers", "healthchek: {}", "key `healthchek` does not"),
        ("capabilities: [gpu]", "", "missing field `capabilities`"),
        (
            "{condition: service_healthy, required: false}",
            "{condition: healthy}",
            "unknown variant `healthy`",
        ),
        ("    healthcheck: &scheduler-answers\n", "    x-check: &scheduler-answers\n", "which has no health"),
        ("worker-6: *if-active", "worker-8: *if-active", "depends on 'worker-8', which is no service"),
        ("service_healthy, required: false}", "service_healthy}", "needs 'worker-1', which another profile"),
        ("{condition: service_healthy}", "{condition: service_completed_successfully}", "always restarted"),
        ("- results:/results", "- result:/results", "volume `result` is used across"),
        ("  kernels:\n", "  kernels:\n  spare:\n", "volumes: nobody uses 'spare'"),
        ("- 127.0.0.1:${DASH", "- 0.0.0.0:${DASH", "port 0.0.0.0:8787:8787 is not published on 127.0.0.1"),
        ("- 127.0.0.1:${DASHBOARD_PORT:-8787}:", "- ", "port 8787 is not published on 127.0.0.1"),
        ("interval: 5s", "interval: 5", "health check: interval is no duration"),
        ("init: true", "user: root", "runs as root"),
        ("context: .", "context: ./docker", "there is no Dockerfile in"),
        ("./data/museum}:/data:ro", "./data/musem}:/data:ro", "there is no ./data/musem to mount"),
        ("/data:ro", "/data", "may write to ./data/museum"),
        ("limits: {memory: 2g}", "limits: {pids: 99}", "scheduler: has no memory limit"),
        ("  pull_policy: build", "  pull_policy: missing", "may take somebody else's image"),
    ],
)
def test_a_mistake_is_found(old: str, new: str, says: str) -> None:
    text = COMPOSE.read_text()
    assert old in text
    assert any(says in fault for fault in faults(text.replace(old, new, 1)))


def test_workers_own_the_modalities_of_the_default_data_set() -> None:
    services = composed.load(COMPOSE.read_text(), {})["services"]
    owned = [
        re.findall(r"([\w-]+)=1", services[name]["command"])
        for name in services
        if "cpu" in services[name].get("profiles", [])
    ]
    assert sorted(owned) == sorted([modality] for modality in load_dataset(MUSEUM).modalities)
    assert set(services["runner"]["depends_on"]) == set(services) - {"runner"}


def test_all_settings_and_their_defaults_are_in_the_env_file() -> None:
    used = re.findall(r"\$\{(\w+)(?::[-?]([^}]*))?\}", COMPOSE.read_text() + TLS.read_text())
    defaults = {name: default for name, default in used if not default.startswith("a folder")}
    listed = dict(re.findall(r"^#(\w+)=(.*)$", SETTINGS, re.MULTILINE))
    assert listed.pop("CERTIFICATES") == ""
    assert listed == defaults | {"EXTRAS": ""}
    assert re.findall(r"^\w+=.*$", SETTINGS, re.MULTILINE) == ["COMPOSE_PROFILES=cpu"]


def test_workers_have_the_environment_of_those_of_a_local_cluster() -> None:
    services = composed.load(COMPOSE.read_text(), {})["services"]
    expected = dict.fromkeys(THREAD_POOLS, "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
    expected |= {name: str(value) for name, value in MALLOC.items()}
    for name, service in services.items():
        assert service.get("environment", {}) == (expected if name.startswith("worker") else {})


def test_encryption_is_for_all_and_by_settings_that_dask_knows() -> None:
    plain = composed.load(COMPOSE.read_text(), {})
    over = composed.load(TLS.read_text(), {"CERTIFICATES": "./data"})
    assert over["services"].keys() == plain["services"].keys()
    for service in over["services"].values():
        for name in service["environment"]:
            key = name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")
            assert dask.config.get(key, default="unknown", config=defaults) != "unknown", name
    with pytest.raises(KeyError, match=r"CERTIFICATES: a folder with ca\.pem"):
        composed.load(TLS.read_text(), {})


def test_the_image_is_built_of_files_that_are_there_for_a_user_who_is_not_root() -> None:
    assert composed.instruction(DOCKERFILE, "USER") == "hyperlearn"
    sources = composed.copied(DOCKERFILE)
    assert {"pyproject.toml", "hyperlearn_dask", "pipeline"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    *patterns, last = (ROOT / ".dockerignore").read_text().splitlines()[1:]
    assert patterns == ["*", *(f"!{source}" for source in sources)]
    assert last == "**/__pycache__"


# The services' own commands, as processes on loopback.


def free_ports(count: int) -> list[str]:
    held = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [str(server.getsockname()[1]) for server in held]
    for server in held:
        server.close()
    return ports


@contextmanager
def up(
    workers: Sequence[str],
    settings: Mapping[str, str],
    folder: Path,
    kernels: Path,
    over: Path | None = None,
) -> Iterator[tuple[Machine, str]]:
    """Scheduler and workers, healthy; nothing of them runs afterwards. The machine, and the dashboard."""
    scheduler, dashboard, *health = free_ports(2 + len(workers))
    ports = {"SCHEDULER_PORT": scheduler, "DASHBOARD_PORT": dashboard}
    own_port = dict(zip(workers, health, strict=True))

    def project(name: str) -> Project:
        environment = {**settings, **ports, "HEALTH_PORT": own_port.get(name, "0")}
        base = composed.load(COMPOSE.read_text(), environment)
        return base if over is None else composed.merged(base, composed.load(over.read_text(), environment))

    volumes = {"results": folder / "results", "kernels": kernels}
    with composed.machine(project, volumes, folder) as machine:
        order = composed.starting_order(project(""), ["scheduler", *workers, "runner"])
        assert order == [["scheduler"], list(workers), ["runner"]]
        for names in order[:-1]:
            for name in names:
                machine.start(name)
            machine.wait_healthy(names)
        yield machine, f"http://{LOOPBACK}:{dashboard}"
    for process in machine.running.values():
        assert_soon(partial(gone, process.pid))


def owners(dashboard: str) -> dict[str, list[str]]:
    """What the scheduler's workers have declared, by their addresses."""
    answers: list[dict[str, Any]] = []

    def answered() -> bool:
        # Dask fails with 500 while a worker's last report times tasks: such times have tuples for names.
        try:
            with urllib.request.urlopen(f"{dashboard}/json/identity.json", timeout=5) as answer:
                answers.append(json.load(answer))
        except urllib.error.HTTPError:
            return False
        return True

    assert_soon(answered)
    return {address: list(worker["resources"]) for address, worker in answers[0]["workers"].items()}


def do_the_job(machine: Machine) -> None:
    runner = machine.start("runner")
    machine.wait_healthy(["runner"])
    assert runner.wait(timeout=300) == 0, machine.log("runner")
    made = {path.name for path in machine.volumes["results"].iterdir()}
    assert {"hypergraph.zarr", "model.zarr", "metrics.json"} <= made
    assert all(process.poll() is None for name, process in machine.running.items() if name != "runner")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are kept that have been compiled; empty at first."""
    return tmp_path_factory.mktemp("kernels")


def test_the_services_do_the_museum_job(tmp_path: Path, kernels: Path) -> None:
    settings = {  # three workers start in half the time of seven
        "WORKER_1": "artist=1,medium=1,decade=1",
        "WORKER_3": "movement=1,museum=1,subject=1",
        "RUN_OPTIONS": "--sweeps 3 --json",
    }
    declared = [["artist", "medium", "decade"], ["artwork"], ["movement", "museum", "subject"]]
    with up(["worker-1", "worker-2", "worker-3"], settings, tmp_path, kernels) as (machine, dashboard):
        assert_soon(lambda: sorted(owners(dashboard).values()) == declared)
        do_the_job(machine)
        assert "3 Dask workers" in machine.log("runner")
        assert sorted(owners(dashboard).values()) == declared


def test_the_services_do_another_job_encrypted(film_club: Path, tmp_path: Path, kernels: Path) -> None:
    with temporary_certificates() as made:
        certificates = str(made.ca.parent)
        settings = {"DATASET": str(film_club), "PROTOCOL": "tls", "CERTIFICATES": certificates}
        settings["WORKER_1"] = "user=1"
        with up(["worker-1"], settings, tmp_path, kernels, TLS) as (machine, dashboard):
            assert_soon(lambda: list(owners(dashboard).values()) == [["user"]])
            assert all(address.startswith("tls://") for address in owners(dashboard))
            do_the_job(machine)


def assert_soon(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def gone(group: int) -> bool:
    """Whether no process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
