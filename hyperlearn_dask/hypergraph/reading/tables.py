"""Raw tables as Arrow columns: CSV, TSV, JSON Lines, Parquet and FROSTT .tns, plain or gzipped.

A table is planned into parts that can be read on their own, by other processes and in any order;
a part comes as batches of columns. Text stays as it is in the file: "007" and "NA" are ids.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from hyperlearn_dask.config import TableSpec
from hyperlearn_dask.config.section import unknown
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading.blocks import (
    DELIMITERS,
    Block,
    Rows,
    blank_lines,
    check_quotes,
    cut,
    decode,
    first_record,
    open_bytes,
)
from hyperlearn_dask.hypergraph.reading.jsonlines import json_names, parse_json

BLOCK = 32 << 20  # bytes of a text table per part: the larger, the fewer dictionaries to merge
TNS_VALUE = "value"  # what the last column of a .tns file is called here; the others are "1", "2" …
_STEP = 1 << 18  # bytes of a text table that are looked at at once to plan: they stay in the cache
_PIECE = 1 << 20  # bytes of a block that Arrow parses at once: they too
_ROWS = 1 << 20  # of a Parquet file at once


@dataclass(frozen=True)
class Part:
    """A part of a table: bytes (or row groups) from ``start`` to ``stop``, or all where stop is None.

    ``names`` are all columns of the table, ``needed`` those to read; ``row`` numbers the first record,
    and ``records`` of them there are, blank lines included, as far as one has looked when planning.
    """

    table: TableSpec
    names: tuple[str, ...]
    needed: tuple[str, ...]
    start: int
    stop: int | None
    row: int
    records: int
    block: int

    def can_take(self, next: Part) -> bool:
        """Whether a part follows on this one, and both are no more than a block together."""
        return self.stop == next.start and next.stop is not None and next.stop - self.start <= self.block


@dataclass(frozen=True)
class Batch:
    """Some consecutive records of a table. Columns of text formats are binary, strings or lists."""

    table: TableSpec
    columns: Mapping[str, pa.Array]
    rows: Rows

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def wrong(self, problem: str, record: int, column: str) -> InputError:
        """The error that names a record's row and a column."""
        return InputError(problem, file=self.table.path, row=self.rows[record], column=column)


def read_table(table: TableSpec, columns: Sequence[str], *, block: int = BLOCK) -> Iterator[Batch]:
    """All batches of a table's columns, in order.

    Raises
    ------
    InputError
        When the table is missing, empty, damaged, or lacks a column; with file, row and column.
    """
    for part in plan(table, columns, block=block):
        yield from read_part(part)


def plan(table: TableSpec, columns: Sequence[str], *, block: int = BLOCK) -> list[Part]:
    """Cut a table into parts. A gzipped one is a single part: it can be read from its start only.

    Raises
    ------
    InputError
        See :func:`read_table`.
    """
    needed = tuple(dict.fromkeys(columns))
    if table.format == "parquet":
        return _plan_parquet(table, needed)
    parts: list[Part] = []
    names = json_names(table, needed, block) if table.format == "jsonl" else None
    if names is not None:
        _require(table, names, needed)
    with open_bytes(table) as file:
        for found in cut(file, table, block if table.gzipped else min(block, _STEP)):
            if names is None:
                names, found = _begin(found, table)
                if names is not None:
                    _require(table, names, needed)
            if names is not None and found.data and not found.data.isspace():
                stop = None if table.gzipped else found.start + len(found.data)
                part = Part(table, names, needed, found.start, stop, found.row, found.records, block)
                if parts and parts[-1].can_take(part):
                    last = parts.pop()
                    part = replace(last, stop=part.stop, records=last.records + part.records)
                parts.append(part)
                if table.gzipped:
                    break
    if not parts:
        raise InputError("has no rows", file=table.path)
    return parts


def read_part(part: Part) -> Iterator[Batch]:
    """The batches of a part, in order."""
    if part.table.format == "parquet":
        yield from _read_parquet(part)
        return
    for block in _blocks(part):
        if part.table.format == "jsonl":
            columns, rows = parse_json(block, part.table, part.needed)
        else:
            columns, rows = _parse_text(block, part)
        batch = Batch(part.table, columns, rows)
        if len(batch):
            yield batch


def _blocks(part: Part) -> Iterator[Block]:
    with open_bytes(part.table) as file:
        if part.stop is not None:
            file.seek(part.start)
            yield Block(file.read(part.stop - part.start), part.start, part.row, part.records)
            return
        for block in cut(file, part.table, part.block):
            end = block.start + len(block.data)
            if end > part.start:
                skip = max(0, part.start - block.start)
                row = max(block.row, part.row)
                records = block.records - (row - block.row)
                yield Block(block.data[skip:], block.start + skip, row, records)


def _begin(block: Block, table: TableSpec) -> tuple[tuple[str, ...] | None, Block]:
    """The names of the columns, and the block without what comes before the first record."""
    if b"\r" in block.data and b"\n" not in block.data:
        raise InputError("its lines end with a carriage return alone; save it with \\n", file=table.path)
    if table.format == "tns":
        lines = _tidy(block.data).split(b"\n")
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            return None, block
        indices = range(1, len(first.split()))
        return (*map(str, indices), TNS_VALUE), block
    header = first_record(block.data, table)
    text = decode(header, table, 1).removeprefix("\ufeff")
    names_read = next(csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[table.format]), [])
    rest = block.data[len(header) :]
    return tuple(names_read), Block(rest, block.start + len(header), block.row + 1, block.records - 1)


def _require(table: TableSpec, names: tuple[str, ...], needed: tuple[str, ...]) -> None:
    for column in needed:
        if column not in names:
            problem = unknown("no such column", column, names) + _separated(table, names)
            raise InputError(problem, file=table.path, column=column)
        if names.count(column) > 1:
            raise InputError("there are several columns of this name", file=table.path, column=column)


def _separated(table: TableSpec, names: tuple[str, ...]) -> str:
    """What to say where a table has a single column because it is separated by something else."""
    if len(names) != 1 or table.format not in ("csv", "tsv"):
        return ""
    kind, right = table.format, DELIMITERS[table.format]
    found = [mark for mark in (";", "\t", "|", ",") if mark in names[0] and mark != right]
    return f"; its columns are separated by {found[0]!r}, those of {kind} by {right!r}" if found else ""


# CSV, TSV and .tns


def _parse_text(block: Block, part: Part) -> tuple[dict[str, pa.Array], Rows]:
    table, data = part.table, block.data
    if table.format == "tns":
        data = _tidy(data)
    if not data or data.isspace():  # of a .tns file, nothing but comments
        return {name: pa.array([], pa.binary()) for name in part.needed}, Rows(block.row)
    check_quotes(block, table)
    ragged: list[Any] = []

    def note(row: Any) -> str:
        ragged.append(row)
        return "error"

    # Names may repeat or be anything, so columns go by their position. Bytes, not text: the error
    # of a wrong encoding has to name its row.
    positions = {name: str(part.names.index(name)) for name in part.needed}

    def parse(size: int) -> pa.Table:
        return pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                column_names=[str(position) for position in range(len(part.names))],
                use_threads=False,
                block_size=size,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=DELIMITERS[table.format],
                quote_char=False if table.format == "tns" else '"',
                newlines_in_values=b'"' in data,
                invalid_row_handler=note,
            ),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(positions.values()),
                column_types={position: pa.binary() for position in positions.values()},
                strings_can_be_null=False,
            ),
        )

    try:
        try:
            # Where a piece ends between the two of a quoted CRLF, Arrow loses one.
            parsed = parse(len(data) + 1 if b'"' in data and b"\r" in data else _PIECE)
        except pa.ArrowInvalid:  # something is wrong, or only longer than a piece
            ragged.clear()
            parsed = parse(len(data) + 1)
    except pa.ArrowInvalid as error:
        if not ragged:
            raise InputError(f"cannot be read ({error})", file=table.path, row=block.row) from error
        row = ragged[0]
        wrong = f"expected {row.expected_columns} values, got {row.actual_columns}"
        number = Rows(block.row, blank_lines(data, table))[row.number - 1]
        raise InputError(wrong, file=table.path, row=number) from None
    columns = {name: _one(parsed.column(position)) for name, position in positions.items()}
    # Arrow passes over blank lines; they count as rows all the same.
    rows = Rows(block.row, None if block.records == len(parsed) else blank_lines(data, table))
    return columns, rows


def _tidy(data: bytes) -> bytes:
    """A block of a .tns file with one space between numbers, and comments as blank lines."""
    if b"#" in data:
        data = re.sub(rb"(?m)^[ \t]*#[^\n]*", b"", data)
    if b"\t" in data or b"  " in data or b" \n" in data or b"\n " in data or data.startswith(b" "):
        data = re.sub(rb"[ \t]+", b" ", data)
        data = re.sub(rb"(?m)^ | (?=\r?$)", b"", data)
    return data


def _one(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, as bytes or decoded."""
    return kind in (pa.binary(), pa.string(), pa.large_binary(), pa.large_string())


# Parquet


def _plan_parquet(table: TableSpec, needed: tuple[str, ...]) -> list[Part]:
    file = _open_parquet(table)
    names = tuple(file.schema_arrow.names)
    _require(table, names, needed)
    parts, row = [], 1
    for group in range(file.metadata.num_row_groups):
        records = file.metadata.row_group(group).num_rows
        parts.append(Part(table, names, needed, group, group + 1, row, records, _ROWS))
        row += records
    if row == 1:
        raise InputError("has no rows", file=table.path)
    return parts


def _read_parquet(part: Part) -> Iterator[Batch]:
    row = part.row
    assert part.stop is not None
    groups = list(range(part.start, part.stop))
    # Texts come with the dictionaries that the file has of them, which spares looking at each cell.
    schema = _open_parquet(part.table).schema_arrow
    texts = [name for name in part.needed if is_text(schema.field(name).type)]
    try:
        file = _open_parquet(part.table, texts)
        for batch in file.iter_batches(part.block, groups, list(part.needed), use_threads=False):
            yield Batch(part.table, {name: batch.column(name) for name in part.needed}, Rows(row))
            row += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise _bad_parquet(part.table, error) from error


def _open_parquet(table: TableSpec, coded: Sequence[str] = ()) -> pa.parquet.ParquetFile:
    """A Parquet file; the columns ``coded`` will be dictionary-encoded."""
    try:
        return pa.parquet.ParquetFile(table.path, read_dictionary=list(coded))
    except FileNotFoundError:
        raise InputError("no such file", file=table.path) from None
    except (OSError, pa.ArrowException) as error:
        raise _bad_parquet(table, error) from error


def _bad_parquet(table: TableSpec, error: Exception) -> InputError:
    return InputError(f"is no readable Parquet file ({error})", file=table.path)
