"""The state of an unfinished training on disk, so that an interrupted one goes on where it was.

A checkpoint is a Zarr store ``FOLDER/<fingerprint>-<sweeps>.zarr``: the matrices, and ``about``, a text
that describes them and the rest. All of it is in chunks with checksums, and is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.training.events import CheckpointWritten
from hyperlearn_dask.training.report import SweepReport

FORMAT = "hyperlearn-checkpoint"
KEPT = 2  # checkpoints: should the last one be damaged, there is the one before it
EVERY_SECONDS = 30.0
SHARE = 0.02  # of the time that a training may spend on its checkpoints

Matrices = Mapping[str, Array]  # one per modality, or none at all


@dataclass(frozen=True)
class State:
    """All that the rest of a training follows from, as values.

    ``factors`` and the ``codes`` of encoders, and the last sweep's ``proposals``, ``directions`` and
    ``slope``, which the next ones are made conjugate to; of a modality with an encoder both are of its
    code. The ``best`` factors by validation and their ``best_codes``, where they are not the last ones.
    Among posterior draws: ``draw``, the number of the last one (0 before them), the factors ``drawn``
    there and the codes, all draws ``kept`` so far, one below the other, and, by relation, the variances
    of the ``noise`` at every draw; by relation and modality, as ``relation.modality``, the ``weights`` of its
    entities' noise at the last draw, and the sums of 1 / w over those after the burn-in.
    """

    history: tuple[SweepReport, ...]
    factors: Matrices
    codes: Matrices = field(default_factory=dict)
    proposals: Matrices = field(default_factory=dict)
    directions: Matrices = field(default_factory=dict)
    best: Matrices = field(default_factory=dict)
    best_codes: Matrices = field(default_factory=dict)
    slope: float = 0.0
    draw: int = 0
    drawn: Matrices = field(default_factory=dict)
    drawn_codes: Matrices = field(default_factory=dict)
    noise: Matrices = field(default_factory=dict)
    weights: Matrices = field(default_factory=dict)
    inverse: Matrices = field(default_factory=dict)
    kept: Matrices = field(default_factory=dict)
    done: bool = False  # whether the sweeps are; such a state is not written

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"posterior draw {self.draw}" if self.draw else f"sweep {len(self.history)}"


_ROLES = tuple(field.name for field in dataclasses.fields(State) if field.type == "Matrices")


class Checkpoints:
    """The checkpoints of one training.

    Parameters
    ----------
    folder
        Where they are; made when the first one is written, and gone again with the last one.
    fingerprint
        A hash of all that the training's states follow from, data and settings, not of when it ends: only a
        checkpoint that has the same one is gone on from.
    tell
        Hears, in lines, what becomes of them.
    every, share
        One is written when this many seconds have passed since the last one, or more where writing
        would take more than this share of the time.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        *,
        tell: Callable[[str], None] | None = None,
        every: float = EVERY_SECONDS,
        share: float = SHARE,
    ) -> None:
        self._folder = folder
        self._fingerprint = fingerprint
        self._tell = tell or (lambda line: None)
        self._every = every
        self._share = share
        self._good: list[Path] = []  # those to keep, oldest first
        self._due = time.monotonic() + every

    def latest(self, leads_on: Callable[[State], bool] = lambda state: True) -> State | None:
        """The last state to go on from, if any; ``leads_on``: whether training still comes by one."""
        self._due = time.monotonic() + self._every
        found = _numbers(self._folder)
        own = sorted((path for path in found if path.name.startswith(self._prefix)), key=found.__getitem__)
        if found and not own:
            self._tell("the checkpoints there are of other data or settings; training begins anew")
        while own:
            try:
                state = _read(own[-1], self._fingerprint)
            except (InputError, KeyError, TypeError, ValueError):
                before = "the one before it is used" if own[:-1] else "training begins anew"
                self._tell(f"{own.pop()}: this checkpoint is damaged or of another version; {before}")
            else:
                if leads_on(state):
                    self._good = own
                    self._tell(f"going on from {state.place}")
                    return state
                before = "an earlier one is looked for" if own[:-1] else "training begins anew"
                self._tell(
                    f"the checkpoint of {state.place} is not on the way to where training ends now; {before}"
                )
                own.pop()
        return None

    def offer(self, take: Callable[[], State]) -> CheckpointWritten | None:
        """Write the state that ``take`` gathers, if it is time for it; None where nothing was written.

        A checkpoint that cannot be written is told about and is no reason to stop training.
        """
        began = time.monotonic()
        if began < self._due:
            return None
        written = self.write(take())
        now = time.monotonic()
        # cost / (cost + pause) <= share
        self._due = now + max(self._every, (now - began) * (1 - self._share) / self._share)
        return written

    def write(self, state: State) -> CheckpointWritten | None:
        """Write a state; where that cannot be done it is told about."""
        path = self._folder / f"{self._prefix}{len(state.history) + state.draw}.zarr"
        try:
            _write(state, path, self._fingerprint)
        except InputError as error:
            self._tell(f"no checkpoint at {state.place}: {error}")
            return None
        self._good = [*(good for good in self._good if good != path), path][-KEPT:]
        self._remove_all_but(self._good)
        return CheckpointWritten(str(path), state.place)

    def clear(self) -> None:
        """Delete them all, those of other trainings as well."""
        self._remove_all_but([])
        with contextlib.suppress(OSError):  # not there, or somebody has put something in it
            self._folder.rmdir()

    @property
    def _prefix(self) -> str:
        return f"{self._fingerprint[:12]}-"

    def _remove_all_but(self, kept: Collection[Path]) -> None:
        for path in _entries(self._folder):
            if path not in kept and _NAME.fullmatch(path.name.removeprefix(".")):
                shutil.rmtree(path, ignore_errors=True)


# A checkpoint, or what an interrupted writing of one has left.
_NAME = re.compile(r"[^.]+-(\d+)\.zarr(\.(partial|old)-\d+)?")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _numbers(folder: Path) -> dict[Path, int]:
    """Whatever has the name of a checkpoint, with its number of sweeps."""
    named = ((path, _NAME.fullmatch(path.name)) for path in _entries(folder))
    return {path: int(match[1]) for path, match in named if match is not None and match[2] is None}


def _write(state: State, path: Path, fingerprint: str) -> None:
    from hyperlearn_dask.storage import create_artefact, replacing, write_array

    matrices = [(role, m, matrix) for role in _ROLES for m, matrix in getattr(state, role).items()]
    about = {
        "fingerprint": fingerprint,
        "history": [dataclasses.asdict(report) for report in state.history],
        "slope": state.slope,
        "draw": state.draw,
        "matrices": [(role, m, matrix.shape, matrix.dtype.str) for role, m, matrix in matrices],
    }
    with replacing(path) as staging:
        root = create_artefact(staging, FORMAT)
        write_array(root, "about", np.array([json.dumps(about)]))
        for role, modality, matrix in matrices:
            write_array(root.require_group(role), modality, matrix)


def _read(path: Path, fingerprint: str) -> State:
    """The state in a checkpoint, or an InputError where it is not all as it was written."""
    from hyperlearn_dask.storage import child_group, open_artefact, read_array

    root = open_artefact(path, FORMAT)
    texts = read_array(root, "about")
    if len(texts) != 1:
        raise InputError("describes itself in no or several texts", file=path)
    about: dict[str, Any] = json.loads(texts[0])
    if about["fingerprint"] != fingerprint:
        raise InputError("is of other data or settings", file=path)
    matrices: dict[str, dict[str, np.ndarray]] = {role: {} for role in _ROLES}
    for role, modality, shape, dtype in about["matrices"]:
        matrix = read_array(child_group(root, role), modality)
        if list(matrix.shape) != shape or matrix.dtype.str != dtype:
            raise InputError(f"has {role} of '{modality}' in another shape or type", file=path)
        matrices[role][modality] = matrix
    history = tuple(SweepReport(**report) for report in about["history"])
    return State(history, slope=about["slope"], draw=about["draw"], **matrices)  # type: ignore[arg-type]
