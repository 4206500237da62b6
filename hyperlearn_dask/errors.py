"""The one kind of error a user can cause, and how it reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong; it reads as one line and ends a command with exit code 2.

    Parameters
    ----------
    problem
        What is wrong, what came, and what would be right, without a final full stop.
    file, row, column, key, line
        Where: the file; the row as a person counts it (1 is the header of a CSV or TSV file, the
        first record of any other); the column's name; the key of a settings file and its line there.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        row: int | None = None,
        column: str | None = None,
        key: str | None = None,
        line: int | None = None,
    ) -> None:
        self.problem = problem
        self.file = None if file is None else os.fspath(file)
        self.row = row
        self.column = column
        self.key = key
        self.line = line
        super().__init__(problem, self.file, row, column, key, line)

    # Exceptions cross process borders on a cluster; the keyword arguments must come along.
    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.problem, self.file, self.row, self.column, self.key, self.line)

    def __str__(self) -> str:
        where = []
        if self.file is not None:
            where.append(self.file)
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.row is not None:
            where.append(f"row {self.row}")
        if self.column is not None:
            where.append(f"column '{self.column}'")
        if self.key is not None:
            where.append(self.key)
        text = ", ".join(where) + ": " + self.problem if where else self.problem
        return " ".join(text.split())


def _rebuild(
    problem: str,
    file: str | None,
    row: int | None,
    column: str | None,
    key: str | None,
    line: int | None,
) -> InputError:
    return InputError(problem, file=file, row=row, column=column, key=key, line=line)


def refuse_foreign(path: Path, what: str, ours: Callable[[Path], bool]) -> None:
    """Refuse to write over something that is there, not empty and not ours.

    Raises
    ------
    InputError
        Saying that ``path`` is no earlier ``what``.
    """
    if path.exists() and not (path.is_file() and path.stat().st_size == 0) and not ours(path):
        raise InputError(f"exists and is no earlier {what}; choose another name or remove it", file=path)
