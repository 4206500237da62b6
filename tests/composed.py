"""What Docker Compose would make of our files, as far as we can tell without it.

Variables are put in, files are merged, references are followed, and the services' commands run as
processes of this machine: host names become loopback, mounts become the folders that are mounted.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml
from compose_spec import parse_duration

ROOT = Path(__file__).parents[1]
COMPOSE, TLS = ROOT / "docker-compose.yml", ROOT / "docker-compose.tls.yml"
LOOPBACK = "127.0.0.1"
VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<other>[^}]*))?\})")

Environment = Mapping[str, str]
Project = dict[str, Any]


def interpolate(text: str, environment: Environment) -> str:
    """Put variables in, as ``${NAME}``, ``${NAME:-default}``, ``${NAME-default}`` or ``${NAME:?message}``.

    >>> interpolate("${A}-${B:-b}-$${C}", {"A": "a", "B": ""})
    'a-b-${C}'
    """

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        given, how = environment.get(found["name"]), found["how"] or "-"
        if given or (given is not None and ":" not in how):
            return given
        if "?" in how:
            raise KeyError(f"{found['name']}: {found['other']}")
        return found["other"] or ""

    return VARIABLE.sub(value, text)


def visit(value: Any, change: Callable[[str], str]) -> Any:
    """A document with every text in it changed."""
    if isinstance(value, dict):
        return {name: visit(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [visit(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def load(text: str, environment: Environment) -> Project:
    """A file as Compose reads it: what is a text first is parsed and has its variables put in then."""
    document = {name: part for name, part in yaml.safe_load(text).items() if not name.startswith("x-")}
    project: Project = visit(document, lambda text: interpolate(text, environment))
    return project


def merged(base: Project, over: Project) -> Project:
    """A project with services of a second file on top: lists are continued, dicts completed."""
    services = dict(base["services"])
    for name, added in over["services"].items():
        service = services[name]
        services[name] = service | {
            key: [*service.get(key, []), *value] if isinstance(value, list) else service.get(key, {}) | value
            for key, value in added.items()
        }
    return base | {"services": services}


# What a schema does not see.


def problems(project: Project, root: Path = ROOT) -> list[str]:
    """Everything that Compose would refuse or that we do not want, a line each."""
    services = project["services"]
    found = [f"{name}: {what}" for name, service in services.items() for what in _alone(service, root)]
    for name, service in services.items():
        found += [f"{name}: {what}" for what in _dependencies(service, services)]
    for kind in ("volumes", "networks", "secrets", "configs"):
        defined = set(project.get(kind) or {}) | ({"default"} if kind == "networks" else set())
        used = {part for service in services.values() for part in _used(service, kind)}
        found += [f"{kind}: '{part}' is not defined" for part in sorted(used - defined)]
        found += [f"{kind}: nobody uses '{part}'" for part in sorted(defined - used - {"default"})]
    return found


def _alone(service: Project, root: Path) -> Iterator[str]:
    """Problems of a service by itself."""
    for port in service.get("ports", []):
        if not re.fullmatch(rf"{re.escape(LOOPBACK)}:\d+:\d+", str(port)):
            yield f"port {port} is not published on {LOOPBACK} alone"
    if str(service.get("user", "")).split(":")[0] in ("root", "0") or service.get("privileged"):
        yield "runs as root"
    if not service.get("deploy", {}).get("resources", {}).get("limits", {}).get("memory"):
        yield "has no memory limit"
    if "image" not in service and "build" not in service:
        yield "has neither image nor build"
    if "build" in service:
        if service.get("pull_policy") != "build":
            yield "may take somebody else's image of that name"
        context = root / service["build"]["context"]
        if not (context / service["build"].get("dockerfile", "Dockerfile")).is_file():
            yield f"there is no Dockerfile in {context}"
    for mount in mounts(service):
        if mount.source.startswith((".", "/")) and not (root / mount.source).exists():
            yield f"there is no {mount.source} to mount"
        if mount.source.startswith((".", "/")) and mount.mode != "ro":
            yield f"may write to {mount.source}"
    yield from _health(service.get("healthcheck"))


def _health(check: Project | None) -> Iterator[str]:
    if check is None:
        yield "has no health check"
        return
    if check["test"][0] not in ("CMD", "CMD-SHELL"):
        yield f"health check {check['test'][0]} is no command"
    for key in ("interval", "timeout", "start_period"):
        if not isinstance(check.get(key), str):
            yield f"health check: {key} is no duration"


def _dependencies(service: Project, services: Project) -> Iterator[str]:
    profiles = set(service.get("profiles", []))
    for name, dependency in service.get("depends_on", {}).items():
        target, condition = services.get(name), dependency["condition"]
        if target is None:
            yield f"depends on '{name}', which is no service"
            continue
        if condition == "service_healthy" and "healthcheck" not in target:
            yield f"waits for '{name}' to be healthy, which has no health check"
        if condition == "service_completed_successfully" and target.get("restart", "no") != "no":
            yield f"waits for the end of '{name}', which is always restarted"
        others = set(target.get("profiles", []))
        always = not others or (profiles and profiles <= others)
        if dependency.get("required", True) and not always:
            yield f"needs '{name}', which another profile has"


@dataclass(frozen=True)
class Mount:
    """``source``: a path of the host, or the name of a volume."""

    source: str
    target: str
    mode: str = "rw"


def mounts(service: Project) -> list[Mount]:
    return [Mount(*volume.split(":")) for volume in service.get("volumes", [])]


def _used(service: Project, kind: str) -> list[str]:
    if kind == "volumes":
        return [m.source for m in mounts(service) if not m.source.startswith((".", "/"))]
    return list(service.get(kind, []))


def copied(dockerfile: str) -> list[str]:
    """What the image is given of the build context."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def instruction(dockerfile: str, name: str) -> str:
    """The argument of the last such instruction, which is the one that counts."""
    return re.findall(rf"^{name} (.*)$", dockerfile, re.MULTILINE)[-1]


# Services as processes.


@dataclass
class Machine:
    """Processes that stand for the containers of a project.

    ``project``: gives it for a service, as each container has ports of its own and these processes share
    those of one machine. ``volumes``: the folders behind named volumes.
    """

    project: Callable[[str], Project]
    volumes: Mapping[str, Path]
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Run a service's command."""
        service = self.project(name)["services"][name]
        entrypoint = service.get("entrypoint")
        words = json.loads(self._image("ENTRYPOINT")) if entrypoint is None else shlex.split(entrypoint)
        words = [*words, *shlex.split(service.get("command", ""))]
        with self._log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                self._here(words, service),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(service),
                start_new_session=True,
            )
        return self.running[name]

    def wait_healthy(self, names: Sequence[str]) -> None:
        """Do the services' health checks until each has succeeded, as long as Compose would."""
        for name in names:
            service = self.project(name)["services"][name]
            check = service["healthcheck"]
            assert check["test"][0] == "CMD"
            patience = parse_duration(check["start_period"])
            patience += check["retries"] * parse_duration(check["interval"])
            deadline = time.monotonic() + patience
            while not self._succeeds(check, service):
                assert self.running[name].poll() is None, f"{name} has ended: {self.log(name)}"
                assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)}"
                time.sleep(0.5)

    def log(self, name: str) -> str:
        return self._log(name).read_text(errors="replace")

    def end(self) -> None:
        """End all processes and their children."""
        for process in self.running.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.running.values():
            process.wait()

    def _succeeds(self, check: Project, service: Project) -> bool:
        command = self._here(check["test"][1:], service)
        timeout = parse_duration(check["timeout"])
        try:
            done = subprocess.run(
                command, env=self._environment(service), capture_output=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def _here(self, words: Sequence[str], service: Project) -> list[str]:
        """Words of a container as words of this machine: its hosts are loopback, its mounts folders."""
        hosts = rf"(?<![\w-])({'|'.join(self.project('')['services'])})(?=:\d)|0\.0\.0\.0"
        words = [re.sub(hosts, LOOPBACK, word) for word in words]
        for mount in mounts(service):
            source = str(self.volumes.get(mount.source, (ROOT / mount.source).resolve()))
            words = [re.sub(rf"^{mount.target}(?=/|$)", source, word) for word in words]
        return words

    def _environment(self, service: Project) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        given = service.get("environment", {})
        given = dict(zip(given, self._here(list(given.values()), service), strict=True))
        return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)} | given

    def _image(self, name: str) -> str:
        return instruction((ROOT / "Dockerfile").read_text(), name)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


@contextmanager
def machine(project: Callable[[str], Project], volumes: Mapping[str, Path], logs: Path) -> Iterator[Machine]:
    """A machine on which nothing of the project runs any more when the context is left."""
    made = Machine(project, volumes, logs)
    try:
        yield made
    finally:
        made.end()


def starting_order(project: Project, names: Sequence[str]) -> list[list[str]]:
    """The services in lots, each of which needs only those before it to be healthy."""
    graph = {name: set(project["services"][name].get("depends_on", {})) & set(names) for name in names}
    sorter = TopologicalSorter(graph)
    sorter.prepare()
    lots = []
    while sorter.is_active():
        lots.append(sorted(sorter.get_ready()))
        sorter.done(*lots[-1])
    return lots
