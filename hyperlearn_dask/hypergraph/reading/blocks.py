"""Text tables cut into blocks of whole records, so that parts of a file can be read on their own."""

from __future__ import annotations

import gzip
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, cast

import numpy as np

from hyperlearn_dask.config import TableSpec
from hyperlearn_dask.errors import InputError

DELIMITERS = {"csv": ",", "tsv": "\t", "tns": " "}
QUOTED = ("csv", "tsv")  # formats where a value in quotes may contain line ends


@dataclass(frozen=True)
class Block:
    """Whole records of a file: its bytes from ``start``.

    ``row`` is the number of the first record, ``records`` how many there are, blank lines included.
    """

    data: bytes
    start: int
    row: int
    records: int


class Rows:
    """Row numbers of the records of a block; blank lines are counted though nothing is read there."""

    def __init__(self, first: int, blanks: np.ndarray | None = None) -> None:
        self._first = first
        # How many records come before each blank line.
        self._before = None if blanks is None else blanks - np.arange(len(blanks))

    def __getitem__(self, record: int) -> int:
        skipped = 0 if self._before is None else int(np.searchsorted(self._before, record, side="right"))
        return self._first + int(record) + skipped


@contextmanager
def open_bytes(table: TableSpec) -> Iterator[BinaryIO]:
    """A table's bytes, unpacked; what goes wrong with the file becomes an :class:`InputError`."""
    path = table.path
    try:
        with gzip.open(path, "rb") if table.gzipped else path.open("rb") as file:
            yield cast(BinaryIO, file)
    except EOFError:
        raise InputError("ends too early: the gzip file is truncated", file=path) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"is damaged or no gzip file ({error})", file=path) from None
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", file=path) from error


def cut(file: BinaryIO, table: TableSpec, size: int) -> Iterator[Block]:
    """Cut a table's bytes where records end, into blocks of about ``size`` bytes.

    Raises
    ------
    InputError
        When a quote is never closed.
    """
    rest, start, row = b"", 0, 1
    while read := file.read(size):
        data = rest + read
        spans = _spans(data, table)
        end = _last_end(data, spans)
        if end == 0:
            rest = data
            size *= 2  # a record longer than a block: reading on in small steps would be quadratic
            continue
        whole, rest = data[:end], data[end:]
        records = _count_records(whole, spans)
        yield Block(whole, start, row, records)
        row += records
        start += end
    if rest:
        spans = _spans(rest, table)
        if spans and spans[-1][1] == len(rest) and rest[spans[-1][0] :].count(b'"') % 2:
            opened = row + _count_records(rest[: spans[-1][0]], spans[:-1])
            raise InputError("a quote opens here that is never closed", file=table.path, row=opened)
        yield Block(rest, start, row, _count_records(rest, spans) + 1)


def _count_records(data: bytes, spans: list[tuple[int, int]]) -> int:
    """How many records end in some bytes, blank lines included."""
    # Several times as fast as bytes.count, where lines are short
    ends = np.count_nonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
    return int(ends) - sum(data.count(b"\n", *span) for span in spans)


def blank_lines(data: bytes, table: TableSpec) -> np.ndarray:
    """The positions of blank lines among the lines (records) of a block."""
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8) == ord("\n"))
    for start, stop in _spans(data, table):
        ends = np.delete(ends, slice(bisect_left(ends, start), bisect_left(ends, stop)))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    length = ends - starts
    return np.flatnonzero((length == 0) | ((length == 1) & (np.frombuffer(data, np.uint8)[starts] == 13)))


def first_record(data: bytes, table: TableSpec) -> bytes:
    """The first record of a block, with its line end."""
    spans, end = _spans(data, table), -1
    while True:
        end = data.find(b"\n", end + 1)
        if end < 0:
            return data
        if not any(start < end < stop for start, stop in spans):
            return data[: end + 1]


def _last_end(data: bytes, spans: list[tuple[int, int]]) -> int:
    """Where the last complete record ends."""
    end = data.rfind(b"\n")
    for start, stop in reversed(spans):
        if start < end < stop:
            end = data.rfind(b"\n", 0, start)
    return end + 1


def _spans(data: bytes, table: TableSpec) -> list[tuple[int, int]]:
    """Where quoted values lie that contain line ends, or are still open at the end."""
    if table.format not in QUOTED or b'"' not in data:
        return []
    found = (match.span() for match in _quoted(DELIMITERS[table.format]).finditer(data))
    return [(start, stop) for start, stop in found if stop == len(data) or b"\n" in data[start:stop]]


@cache
def _quoted(delimiter: str) -> re.Pattern[bytes]:
    # A quote opens a value only where the value begins; within it, two quotes stand for one. What may
    # come before is looked at after the quote: a pattern that begins with a letter is searched fast.
    return re.compile(rb'"(?<![^\r\n%b]")(?:[^"]++|"")*+(?:"|\Z)' % re.escape(delimiter).encode())


def check_quotes(block: Block, table: TableSpec) -> None:
    """Refuse a value that begins with a quote and goes on after the quote is closed.

    Such a quote is part of the text, and what follows up to the next one, rows and all, no value.
    """
    if table.format not in QUOTED or b'"' not in block.data:
        return
    match = _well_quoted(DELIMITERS[table.format]).match(block.data)
    assert match is not None, "nothing is well quoted"
    if match.end() < len(block.data):
        before = block.data[: match.end()]
        raise InputError(
            "a value begins with a quote and goes on after the quote is closed; "
            'where the quote is text, write """so"" to speak"',
            file=table.path,
            row=block.row + _count_records(before, _spans(before, table)),
        )


@cache
def _well_quoted(delimiter: str) -> re.Pattern[bytes]:
    """All up to a value that is not: no quotes, quotes within a value, and values in quotes."""
    return re.compile(
        rb'(?:[^"]++|"(?<=[^\r\n%b]")|"(?:[^"]++|"")*+"(?=[\r\n%b]|\Z))*+'
        % ((re.escape(delimiter).encode(),) * 2)
    )


def decode(data: bytes, table: TableSpec, row: int) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(not_utf8(data[error.start]), file=table.path, row=row) from None
    if "\0" in text:
        raise InputError(not_utf8(0), file=table.path, row=row)
    return text


def not_utf8(byte: int) -> str:
    """What a message says about a byte that is no UTF-8 text."""
    return f"not UTF-8 text (byte {byte:#04x}); save the file with UTF-8 encoding"
