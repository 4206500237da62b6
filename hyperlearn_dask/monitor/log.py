"""A log that programs read: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from hyperlearn_dask.errors import InputError

_LONGEST = 1 << 20  # bytes of a line that may be one of ours


class JsonLines:
    """Appends records to a file, each at once and whole, so that others can follow it.

    A log that cannot be written any more (a full disk) is told about, once, and is no reason to stop.

    Raises
    ------
    InputError
        When the file cannot be opened, or holds something else.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._path = path
        try:
            if path.is_file() and not _is_log(path):
                raise InputError("exists and is no log of ours to append to", file=path, key="--log")
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", file=path, key="--log") from None

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._file.closed:
            return
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            self._file.write(line.encode())
        except OSError as error:
            self._tell(f"{self._path}: the log ends here ({error.strerror})")
            self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _is_log(path: Path) -> bool:
    """Whether a file begins as a log does, or is empty."""
    with path.open("rb") as file:
        line = file.readline(_LONGEST)
    try:
        record = json.loads(line or '{"event": ""}')
    except ValueError:
        return False
    return isinstance(record, dict) and "event" in record
