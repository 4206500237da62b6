"""Reading a table of settings key by key, noting every mistake instead of stopping at the first."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from hyperlearn_dask.config.lines import KeyPath
from hyperlearn_dask.errors import InputError

T = TypeVar("T", bound=str)

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LISTED = 8  # further mistakes that are named, of any number
_INT64 = 2**63


@dataclass(frozen=True)
class Mistake:
    """What is wrong, and with which key.

    A mistake ``at_odds`` is with what stands elsewhere, which may be the one to mend.
    """

    path: KeyPath
    problem: str
    at_odds: bool = False


@dataclass
class Mistakes:
    """The mistakes found so far in a file, and where its keys stand in it."""

    file: Path | None = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    found: list[Mistake] = field(default_factory=list)

    def below(self, path: KeyPath) -> bool:
        """Whether something is wrong with a key or with what is in it."""
        return any(mistake.path[: len(path)] == path for mistake in self.found)

    def line(self, path: KeyPath) -> int | None:
        """The line of a key or, where the key is missing, of the table it belongs to."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def raise_any(self) -> None:
        """Raise the mistake that comes first in the file, naming the keys of the others.

        Mistakes that are wrong in themselves come before those that are at odds with something,
        which they often have caused.
        """
        if not self.found:
            return
        first, *others = sorted(self.found, key=lambda found: (found.at_odds, self.line(found.path) or 0))
        problem = first.problem
        keys = list(dict.fromkeys(key_name(other.path) for other in others if other.path != first.path))
        if keys:
            named = ", ".join(keys[:_LISTED]) + (", …" if len(keys) > _LISTED else "")
            count = "1 more mistake" if len(keys) == 1 else f"{len(keys)} more mistakes"
            problem += f" (and {count}: {named})"
        raise InputError(
            problem, file=self.file, line=self.line(first.path), key=key_name(first.path) or None
        )


class Section:
    """A table of a settings file.

    Every getter notes what is wrong and answers with a value of the right type, so that reading goes
    on; what it answered in place of a mistake is never seen, as the mistake is raised at the end.
    Keys nobody asked for by the time of :meth:`close` are mistakes too.
    """

    def __init__(self, values: dict[str, Any], path: KeyPath, mistakes: Mistakes) -> None:
        self.values = values
        self.path = path
        self.mistakes = mistakes
        self._known: list[str] = []
        self._refused: set[str] = set()
        self._missing: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def wrong(self, problem: str, *keys: str | int, at_odds: bool = False) -> None:
        """Note a mistake at a key below this table, or at the table itself."""
        self.mistakes.found.append(Mistake((*self.path, *keys), problem, at_odds))

    def is_wrong(self, key: str) -> bool:
        """Whether a mistake has been noted at a key or in what is below it."""
        return self.mistakes.below((*self.path, key))

    def misspelt(self, key: str) -> bool:
        """Whether a key is not there, and another one that nobody asked for so far looks like it."""
        strange = [other for other in self.values if other not in self._known and not other.startswith(key)]
        return key not in self.values and bool(_close(key, strange))

    def take(self, key: str, missing: str | None = None) -> Any:
        """The value of a key, of any type; ``missing``: what to say where it may not be left out."""
        self._known.append(key)
        if key not in self.values and missing is not None:
            self._missing[key] = missing
        return self.values.get(key)

    def text(self, key: str, missing: str | None = None, *, blank: bool = False) -> str | None:
        """Text that is not empty and, unless it may be ``blank``, not only spaces."""
        value = self.take(key, missing)
        if value is None or (isinstance(value, str) and (value if blank else value.strip())):
            return value
        self.wrong(f"expected text in quotes, got {shown(value)}", key)
        return None

    def required(self, key: str, example: str) -> str:
        """Text that may not be missing."""
        return self.text(key, for_example(key, example)) or ""

    def texts(self, key: str, value: Any) -> tuple[str, ...]:
        """A value as a list of texts, none of them empty or twice; at least one."""
        items = value if isinstance(value, list) else []
        if not items or not all(isinstance(item, str) and item.strip() for item in items):
            self.wrong(f'expected a list of texts like ["a", "b"], none empty, got {shown(value)}', key)
            return ()
        for item in dict.fromkeys(items):
            if items.count(item) > 1:
                self.wrong(f"'{item}' is listed {items.count(item)} times", key)
        return tuple(items)

    def choice(self, key: str, options: Any, default: T) -> T:
        """One of the texts of a ``Literal``."""
        value = self.take(key)
        valid = get_args(options)
        if value is None or value in valid:
            return value if value is not None else default
        if isinstance(value, str):
            self.wrong(unknown(f"'{value}' is not a choice", value, valid), key)
        else:
            self.wrong(f"expected one of {', '.join(valid)} in quotes, got {shown(value)}", key)
        return default

    def integer(self, key: str, default: int, at_least: int) -> int:
        """A whole number that is not too small."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value < _INT64:
            self.wrong(f"expected a whole number of at least {at_least}, got {shown(value)}", key)
            return default
        return value

    def flag(self, key: str, default: bool) -> bool:
        """``true`` or ``false``."""
        value = self.take(key)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(f"expected true or false, without quotes, got {shown(value)}", key)
        return default

    def number(self, key: str, default: float, *, above: float | None = None) -> float:
        """A finite number of at least 0, or ``above`` a bound."""
        value = self.take(key)
        if value is None:
            return default
        bound = "of at least 0" if above is None else f"above {above:g}"
        if not is_number(value) or (value < 0 if above is None else value <= above):
            self.wrong(f"expected a number {bound}, got {shown(value)}", key)
            return default
        return float(value)

    def table(self, key: str, missing: str | None = None) -> Section | None:
        """A table below this one."""
        value = self.take(key, missing)
        if value is None:
            return None
        return self._below(value, key)

    def tables(self, key: str, missing: str) -> Iterator[tuple[str, Section]]:
        """The tables below the table ``key``, by name, at least one; names become folders of the store."""
        group = self.table(key, missing)
        if group is None:
            return
        if not group.values:
            self.wrong(missing, key)
        taken: dict[str, str] = {}
        for name, value in group.values.items():
            if not _NAME.fullmatch(name):
                group.wrong("a name may have letters (a to z), digits, _ and - only", name)
            twin = taken.setdefault(name.lower(), name)
            if twin != name:
                group.wrong(f"differs from '{twin}' in capitals only, and names become folders", name)
            section = group._below(value, name)
            if section is not None:
                yield name, section

    def rows(self, key: str) -> Iterator[Section]:
        """The tables of the array ``key``."""
        value = self.take(key)
        if not isinstance(value, list) or not value:
            self.wrong(f"expected a list of tables like [ {{ … }}, {{ … }} ], got {shown(value)}", key)
            return
        for position, item in enumerate(value):
            section = self._below(item, key, position)
            if section is not None:
                yield section

    def _below(self, value: Any, *keys: str | int) -> Section | None:
        if isinstance(value, dict):
            return Section(value, (*self.path, *keys), self.mistakes)
        self.wrong(f"expected a table, got {shown(value)}", *keys)
        return None

    def refuse(self, reason: str, *keys: str) -> None:
        """Keys that are right elsewhere and at odds with the others here."""
        self._refused.update(keys)
        for key in keys:
            if key in self.values:
                self.wrong(reason, key, at_odds=True)

    def close(self) -> None:
        """Note unknown keys, and missing ones unless an unknown key looks like them."""
        meant = set()
        for key in self.values:
            if key in self._known or key in self._refused:
                continue
            known = [k for k in self._known if k not in self._refused]
            self.wrong(unknown("unknown key", key, known), key)
            meant.update(_close(key, known))
        for key, problem in self._missing.items():
            if key not in meant:
                self.wrong(problem, key)


def for_example(key: str, example: str) -> str:
    """What to say of a key that is missing."""
    return f"missing; expected, for example, {key} = {example}"


def is_number(value: Any) -> bool:
    """Whether a TOML value is a finite number."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < _INT64
    return isinstance(value, float) and math.isfinite(value)


def unknown(problem: str, name: str, valid: Iterable[str]) -> str:
    """A problem with a name nobody knows: what was probably meant, and all that would be right."""
    valid = list(valid)
    meant = _close(name, valid)
    hint = f", did you mean '{meant[0]}'?" if meant else ""
    return f"{problem}{hint} (expected {'one of ' if len(valid) > 1 else ''}{', '.join(valid) or 'none'})"


def _close(name: str, valid: list[str]) -> list[str]:
    return difflib.get_close_matches(name, valid, n=1)


def key_name(path: KeyPath) -> str:
    """A key as a person writes it; items of a list are counted from 1: ``graph.features[2].kind``."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key + 1}]"
        else:
            text += ("." if text else "") + (key if _NAME.fullmatch(key) else f'"{key}"')
    return text


def shown(value: Any) -> str:
    """A value of a TOML file as a message shows it."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= 40 else f'"{value[:37]}…"'
    if isinstance(value, int) and abs(value) >= _INT64:
        return "a number beyond 64 bits"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty table"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    return f"the date or time {value}"
