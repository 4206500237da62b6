"""Finished trials on disk, one line of JSON each: what a search that was interrupted goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.storage import replacing
from hyperlearn_dask.tuning.space import Settings
from hyperlearn_dask.tuning.trial import Outcome

FORMAT = "hyperlearn-trials"


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number, the settings tried and what they came to."""

    number: int
    settings: Settings
    outcome: Outcome


class Ledger:
    """The trials of one search, in the order they finished.

    Parameters
    ----------
    path
        The file; made with the first trial.
    asked
        What the search is of: by it, trials of another are told apart, and refused.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self._path = path
        self._asked = {"format": FORMAT, "version": 1, **asked}
        self.trials = self._read() if path.exists() else []

    def add(self, trial: Trial) -> None:
        """Write a trial down, so that it outlives this process."""
        if not self._path.exists():
            with replacing(self._path) as staging:
                staging.write_text(json.dumps(self._asked) + "\n", encoding="utf-8")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)

    def _read(self) -> list[Trial]:
        """The trials there; a line that an interruption has left half written goes."""
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            first, *rows = [json.loads(line) for line in whole.splitlines()]
            trials = [Trial(row["number"], row["settings"], Outcome(**row["outcome"])) for row in rows]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                "is not what hyperlearn writes there, or damaged; move it away", file=self._path
            ) from None
        if first != json.loads(json.dumps(self._asked)):
            raise InputError(
                "holds trials of other data, settings or metric; choose another --out, or move it away",
                file=self._path,
            )
        if whole != text:
            with replacing(self._path) as staging:
                staging.write_text(whole, encoding="utf-8")
        return trials
