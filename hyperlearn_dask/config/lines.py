"""On which line of a TOML file each key stands, which :mod:`tomllib` does not tell."""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]  # keys, and positions (from 0) in arrays

_TEXT_OR_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*",
    re.DOTALL,
)
_SPACE = re.compile(r"[\s]*")
_SCALAR = re.compile(r"[^,\]}\n]*")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line (from 1) of every table header, key and array item of a valid TOML document."""
    scan = _Scan(text)
    scan.document()
    return scan.lines


def value_spans(text: str) -> dict[KeyPath, tuple[int, int]]:
    """Where the value of every ``key = value`` of a valid TOML document begins and ends."""
    scan = _Scan(text)
    scan.document()
    return scan.spans


class _Scan:
    """A walk over a document that is known to be valid, so that nothing needs to be checked."""

    def __init__(self, text: str) -> None:
        self.text = text
        # The same text, position by position, without what could be mistaken for structure.
        self.mask = _TEXT_OR_COMMENT.sub(_hide, text)
        self.lines: dict[KeyPath, int] = {}
        self.spans: dict[KeyPath, tuple[int, int]] = {}
        self.items: dict[KeyPath, int] = {}  # [[array of tables]] -> tables seen so far

    def document(self) -> None:
        table: KeyPath = ()
        at = self._space(0)
        while at < len(self.mask):
            if self.mask[at] == "[":
                end = self._line_end(at)
                table = self._header(self.text[at : self._last(at, end)], at)
                at = end
            else:
                at = self._pair(at, table)
            at = self._space(at)

    def _header(self, header: str, at: int) -> KeyPath:
        array = header.startswith("[[")
        path: KeyPath = ()
        keys = _keys(header.strip("[]"))
        for depth, key in enumerate(keys, start=1):
            path = (*path, key)
            if array and depth == len(keys):
                self.items[path] = self.items.get(path, 0) + 1
            self._note(path, at)
            if path in self.items:  # what follows belongs to the latest table of the array
                path = (*path, self.items[path] - 1)
                self._note(path, at)
        return path

    def _pair(self, at: int, table: KeyPath) -> int:
        equals = self.mask.index("=", at)
        path = table
        for key in _keys(self.text[at:equals]):
            path = (*path, key)
            self._note(path, at)
        begin = self._space(equals + 1)
        end = self._value(begin, path)
        self.spans[path] = (begin, self._last(begin, end))
        return end

    def _value(self, at: int, path: KeyPath) -> int:
        """Walk over the value that begins at ``at``; where it ends."""
        opening = self.mask[at]
        if opening not in "[{":
            scalar = _SCALAR.match(self.mask, at)
            assert scalar is not None
            return scalar.end()
        at = self._space(at + 1)
        index = 0
        while self.mask[at] not in "]}":
            if opening == "[":
                self._note((*path, index), at)
                at = self._value(at, (*path, index))
                index += 1
            else:
                at = self._pair(at, path)
            at = self._space(at)
            if self.mask[at] == ",":
                at = self._space(at + 1)
        return at + 1

    def _note(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, at) + 1)

    def _space(self, at: int) -> int:
        space = _SPACE.match(self.mask, at)
        assert space is not None
        return space.end()

    def _line_end(self, at: int) -> int:
        end = self.mask.find("\n", at)
        return len(self.mask) if end < 0 else end

    def _last(self, at: int, end: int) -> int:
        """Where what begins at ``at`` ends: before the spaces a comment was turned into."""
        return at + len(self.mask[at:end].rstrip())


def _hide(match: re.Match[str]) -> str:
    found = match.group()
    return (" " if found.startswith("#") else "x") * len(found)


def _keys(text: str) -> list[str]:
    """The parts of a key: ``a."b c".d`` has three."""
    found = tomllib.loads(f"{text.strip()} = 0")
    keys = []
    while isinstance(found, dict):
        ((key, found),) = found.items()
        keys.append(key)
    return keys
