"""Trainings whose workers or clients are killed at random moments: ``python -m benchmarks.faults``.

One training is left alone. Others of the same data and settings, on two workers each, have their workers
killed (SIGKILL, any number of times), or are killed themselves and started again by the same command. What
is promised: every training ends, with the factors of the undisturbed one, and neither processes nor
temporary files stay behind. The exit code is 1 if any of that is broken. It needs Linux's ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.output import Detail, Row, table, write_rows
from hyperlearn_dask.factorization.model_store import open_model

SIZES, HYPEREDGES, RANK = "user=4000,movie=800,tag=100", 100_000, 12
WORKERS = 2
TOLERANCE = 1e-6  # of a factor's largest entry
MOST_KILLS = 10  # of one training
RUN_SECONDS = 150.0  # a training that takes longer is taken for one that hangs
GONE_SECONDS = 30.0  # within which a command's processes must be gone after its end
POLL_SECONDS = 0.02
MADE = {"hypergraph.zarr", "model.zarr", "metrics.json"}
# Dask's own folder for its workers, with two locks that it never deletes.
SCRATCH = {"dask-scratch-space", "dask-scratch-space/global.lock", "dask-scratch-space/purge.lock"}
COMMAND = (sys.executable, "-c", "from pipeline.cli import main; main()")


@dataclass
class Tally:
    """What became of the trainings that were disturbed in one way."""

    wanted: int  # kills
    kills: int = 0
    trainings: int = 0
    ended: int = 0
    difference: float = 0.0
    leaked: int = 0
    orphans: int = 0
    repeated: int = 0  # sweeps that were done more than once
    gone: float = 0.0  # seconds until the last process of a command was gone, at most
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        found = list(self.problems)
        if self.kills < self.wanted:
            found.append(f"{self.kills} kills of {self.wanted} in the time there was")
        if self.ended < self.trainings:
            found.append(f"{self.trainings - self.ended} of {self.trainings} trainings did not end well")
        if not self.difference <= TOLERANCE:
            found.append(f"factors differ by {self.difference:.1e} of the largest entry, not {TOLERANCE:.0e}")
        if self.leaked:
            found.append(f"{self.leaked} processes stayed behind")
        if self.orphans:
            found.append(f"{self.orphans} files stayed behind")
        return found


class Training:
    """``hyperlearn run`` in a folder of its own: one command, or the same one again after it was killed."""

    def __init__(self, folder: Path, data: Path, sweeps: int, options: Sequence[str] = ()) -> None:
        self.out, self._tmp, self._folder = folder / "out", folder / "tmp", folder
        self._tmp.mkdir(parents=True)
        self._logs: list[Path] = []
        self.sweeps = sweeps
        settings = ("--scheduler", "local", "--workers", str(WORKERS), "--checkpoint-every", "1")
        amount = ("--sweeps", str(sweeps), "--tolerance", "0")
        self._command = (*COMMAND, "run", str(data), "--out", str(self.out), *settings, *amount, *options)

    def start(self) -> None:
        """Start the command, in a session of its own."""
        self._logs.append(self._folder / f"{len(self._logs)}.jsonl")
        with (self._folder / "said.txt").open("ab") as said:
            self.client = subprocess.Popen(
                [*self._command, "--log", str(self._logs[-1])],
                stdout=said,
                stderr=said,
                env={**os.environ, "TMPDIR": str(self._tmp)},
                start_new_session=True,
            )

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *problem: object) -> None:
        """Not even an interrupted soak leaves it running."""
        self.client.kill()
        self.client.wait()

    def has_ended(self) -> bool:
        """Whether the command is done, or dead."""
        return self.client.poll() is not None

    def is_under_way(self) -> bool:
        """Whether the command has come to training, or to its end before that."""
        return self.has_ended() or any(event["event"] == "started" for event in _events(self._logs[-1]))

    def workers(self) -> list[int]:
        """The ids of the worker processes, forked for nannies within the command."""
        ours = list(_session(self.client.pid))
        servers = [pid for pid, parent, line in ours if parent == self.client.pid and "forkserver" in line]
        return [pid for pid, parent, _ in ours if parent in servers]

    def finished(self) -> dict[str, Any]:
        """Its own account of its end."""
        return next(event for event in _events(self._logs[-1]) if event["event"] == "finished")

    def repeated(self) -> int:
        """How many sweeps were done again."""
        done = [e["sweep"] for log in self._logs for e in _events(log) if e["event"] == "sweep"]
        return len(done) - len(set(done))

    def orphans(self) -> list[str]:
        """What is left beside the results, and in the folder for temporary files."""
        results = [entry.name for entry in self.out.iterdir() if entry.name not in MADE]
        temporary = {str(path.relative_to(self._tmp)) for path in self._tmp.rglob("*")}
        return sorted([*results, *(temporary - SCRATCH)])

    def last_words(self) -> str:
        """The last line it has said."""
        lines = (self._folder / "said.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing")


@dataclass(frozen=True)
class Soak:
    """All that disturbed trainings are made of, and compared with."""

    folder: Path
    data: Path
    sweeps: int
    hypergraph: Path  # ready-made: it is training that is disturbed
    factors: dict[str, np.ndarray]  # of the undisturbed training
    span: float  # the seconds it took
    deadline: float

    def training(self, name: str, options: Sequence[str]) -> Training:
        made = Training(self.folder / name, self.data, self.sweeps, options)
        shutil.copytree(self.hypergraph, made.out / self.hypergraph.name)
        return made


def soak_workers(soak: Soak, kills: int, rng: np.random.Generator) -> Tally:
    """Trainings whose workers are killed, by the clock, whatever they are doing or recovering from."""
    tally = Tally(kills)
    began = time.monotonic()
    while tally.kills < kills and time.monotonic() < soak.deadline:
        moments = _moments(kills - tally.kills, soak.span, rng)
        with soak.training(f"workers-{tally.trainings}", ()) as training:
            training.start()
            _wait(training.is_under_way, RUN_SECONDS)
            start = time.monotonic()
            for moment in moments:
                _wait(training.has_ended, start + moment - time.monotonic())
                victims = training.workers()
                if victims and not training.has_ended():
                    tally.kills += _kill(int(rng.choice(victims)))
            _see_to_its_end(soak, training, tally)
    tally.seconds = time.monotonic() - began
    return tally


def soak_client(soak: Soak, kills: int, rng: np.random.Generator) -> Tally:
    """Trainings that are killed themselves and started again; the first, third … with TLS."""
    tally = Tally(kills)
    began = time.monotonic()
    while tally.kills < kills and time.monotonic() < soak.deadline:
        options = () if tally.trainings % 2 else ("--tls",)
        lives = np.diff(_moments(kills - tally.kills, soak.span, rng), prepend=0.0)
        with soak.training(f"client-{tally.trainings}", options) as training:
            for life in lives:
                training.start()
                _wait(training.is_under_way, RUN_SECONDS)
                _wait(training.has_ended, life)
                if training.has_ended():  # it was done before its time
                    break
                _kill(training.client.pid)
                tally.kills += training.client.wait() == -signal.SIGKILL
                _see_them_gone(training.client.pid, tally)
            else:
                training.start()
            _see_to_its_end(soak, training, tally)
    tally.seconds = time.monotonic() - began
    return tally


def _moments(most: int, span: float, rng: np.random.Generator) -> np.ndarray:
    """When, within a training, there is to be a kill."""
    return np.sort(rng.uniform(0, span, size=min(most, int(rng.integers(1, MOST_KILLS + 1)))))


def _see_to_its_end(soak: Soak, training: Training, tally: Tally) -> None:
    """Wait for a training, and compare what it leaves with what it should."""
    tally.trainings += 1
    try:
        status: int | str = training.client.wait(RUN_SECONDS)
    except subprocess.TimeoutExpired:
        status = f"no end after {RUN_SECONDS:.0f} s"
        _kill(training.client.pid)
        training.client.wait()
    _see_them_gone(training.client.pid, tally)
    tally.repeated += training.repeated()
    if status != 0:
        tally.problems.append(f"{training.out.parent.name}: {status}; it said: {training.last_words()}")
        return
    tally.ended += 1
    factors = open_model(training.out / "model.zarr").factors
    # np.maximum, as max would lose a NaN.
    tally.difference = float(np.maximum(tally.difference, _difference(factors, soak.factors)))
    orphans = training.orphans()
    tally.orphans += len(orphans)
    if orphans:
        tally.problems.append(f"{training.out.parent.name} left {', '.join(orphans)}")


def _difference(factors: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """max |A - B| / max |B|, the largest of all modalities."""
    return float(np.max([np.abs(factors[m] - e).max() / np.abs(e).max() for m, e in expected.items()]))


def _see_them_gone(session: int, tally: Tally) -> None:
    """Wait until no process of a session is there; those that stay are counted and ended."""
    began = time.monotonic()
    _wait(lambda: not any(_session(session)), GONE_SECONDS)
    tally.gone = max(tally.gone, time.monotonic() - began)
    for pid, _, command in list(_session(session)):
        tally.leaked += 1
        tally.problems.append(f"process {pid} stayed: {command}")
        _kill(pid)


def _session(session: int) -> Iterator[tuple[int, int, str]]:
    """Id, parent's id and command of every process of a session that runs."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # "pid (name) state parent group session ...": the name may hold anything.
            state, parent, _, its = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if int(its) == session and state not in "ZX":
            yield int(entry.name), int(parent), command


def _kill(pid: int) -> int:
    """Kill a process; how many there were."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Until a condition holds or some seconds have passed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(POLL_SECONDS)


def _events(log: Path) -> list[dict[str, Any]]:
    """What a training has logged so far; a last line that is being written is left out."""
    if not log.exists():
        return []
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def prepared(folder: Path, sweeps: int, deadline: float) -> Soak:
    """Data out of a planted model, and the undisturbed training on it."""
    data = folder / "data"
    planted = ("--sizes", SIZES, "--hyperedges", str(HYPEREDGES), "--rank", str(RANK))
    subprocess.run([*COMMAND, "synth", str(data), *planted], check=True, capture_output=True)
    _undisturbed(Training(folder / "first", data, 1))  # so that nothing is compiled in those that count
    training = _undisturbed(Training(folder / "undisturbed", data, sweeps))
    factors = dict(open_model(training.out / "model.zarr").factors)
    hypergraph = training.out / "hypergraph.zarr"
    return Soak(folder, data, sweeps, hypergraph, factors, training.finished()["seconds"], deadline)


def _undisturbed(training: Training) -> Training:
    with training:
        training.start()
        status = training.client.wait()
    if status != 0 or training.orphans() or training.finished()["sweeps"] < training.sweeps:
        raise SystemExit(f"the undisturbed training ended with: {training.last_words()}")
    return training


def rows_of(task: str, tally: Tally, soak: Soak, seed: int) -> list[Row]:
    """One row per figure."""
    figures: dict[str, float] = {
        "kills": tally.kills,
        "trainings": tally.trainings,
        "runs_ended": tally.ended,
        "largest_difference": tally.difference,
        "leaked_processes": tally.leaked,
        "orphan_files": tally.orphans,
        "repeated_sweeps": tally.repeated,
        "longest_seconds_to_exit": tally.gone,
    }
    about: dict[str, Detail] = {"sweeps": soak.sweeps, "workers": WORKERS, "rank": RANK, "kill_seed": seed}
    about["undisturbed_seconds"] = soak.span
    data = f"planted {SIZES}, {HYPEREDGES} hyperedges"
    return [
        Row("faults", data, task, "hyperlearn", metric, _finite(value), seconds=tally.seconds, details=about)
        for metric, value in figures.items()
    ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers-kills", type=int, default=20, metavar="N")
    parser.add_argument("--client-kills", type=int, default=20, metavar="N")
    parser.add_argument("--sweeps", type=int, default=120, help="of each training")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--seconds", type=float, default=600.0, help="after which no training is begun")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    rows, told, broken = [], [], []
    with tempfile.TemporaryDirectory(prefix="hyperlearn-faults-") as folder:
        soak = prepared(Path(folder), arguments.sweeps, time.monotonic() + arguments.seconds)
        kinds = {
            "workers killed": (soak_workers, arguments.workers_kills),
            "client killed": (soak_client, arguments.client_kills),
        }
        for task, (disturb, kills) in kinds.items():
            tally = disturb(soak, kills, rng)
            told.append(f"{task}: factors differ by {tally.difference:.1e} of the largest entry at most")
            rows += rows_of(task, tally, soak, arguments.seed)
            broken += [f"{task}: {problem}" for problem in tally.broken()]
    print(table(rows), *told, sep="\n")
    if arguments.json:
        write_rows(rows, arguments.json)
    if broken:
        raise SystemExit("\n".join(["Broken promises:", *broken]))


if __name__ == "__main__":
    main()
