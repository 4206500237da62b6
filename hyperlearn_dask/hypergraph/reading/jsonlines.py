"""JSON Lines as Arrow columns of text, by Python's own reader: Arrow's guesses types block by block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hyperlearn_dask.config import TableSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading.blocks import Block, Rows, cut, decode, open_bytes


def json_names(table: TableSpec, needed: Sequence[str], size: int) -> tuple[str, ...]:
    """The names in the records, as far as one has to read to see all that are needed."""
    names: dict[str, None] = {}
    with open_bytes(table) as file:
        for block in cut(file, table, size):
            for position, line in enumerate(_lines(block, table)):
                if line:
                    names |= dict.fromkeys(_record(line, table, block.row + position))
            if names and all(name in names for name in needed):
                break
    if not names:
        raise InputError("has no rows", file=table.path)
    return tuple(names)


def parse_json(block: Block, table: TableSpec, needed: Sequence[str]) -> tuple[dict[str, pa.Array], Rows]:
    """The needed columns of a block: texts, or lists of texts where a record has a list."""
    records, blanks = [], []
    for position, line in enumerate(_lines(block, table)):
        if line:
            records.append(_record(line, table, block.row + position))
        else:
            blanks.append(position)
    rows = Rows(block.row, np.array(blanks) if blanks else None)
    columns = {}
    for name in needed:
        cells = []
        for position, record in enumerate(records):
            cell = _text(record.get(name))
            if isinstance(cell, InputError):
                raise InputError(cell.problem, file=table.path, row=rows[position], column=name)
            cells.append(cell)
        try:
            columns[name] = _array(cells)
        except UnicodeEncodeError:
            bad = next(position for position, cell in enumerate(cells) if not _is_unicode(cell))
            problem = "expected Unicode text, got half of a character (a lone surrogate)"
            raise InputError(problem, file=table.path, row=rows[bad], column=name) from None
    return columns, rows


def _lines(block: Block, table: TableSpec) -> list[str]:
    lines = block.data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    decoded = (decode(line, table, block.row + n) for n, line in enumerate(lines))
    return [line.removeprefix("\ufeff").strip() for line in decoded]


def _record(line: str, table: TableSpec, row: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON ({error})", file=table.path, row=row) from None
    if not isinstance(record, dict):
        raise InputError('expected a JSON object like {"id": 1}', file=table.path, row=row)
    return record


def _text(value: Any) -> str | list[str | None] | InputError | None:
    """A JSON value as text: 1762.0 is "1762", as tables with gaps have it; a list stays one."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value != value:  # NaN, as pandas writes what is missing
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return [text if isinstance(text := _text(item), str) else None for item in value]
    return InputError("expected a text, a number or a list of them, got something nested")


def _is_unicode(cell: Any) -> bool:
    try:
        _array([cell])
    except UnicodeEncodeError:
        return False
    return True


def _array(cells: list[Any]) -> pa.Array:
    if any(isinstance(cell, list) for cell in cells):
        lists = [cell if isinstance(cell, list) or cell is None else [cell] for cell in cells]
        return pa.array(lists, pa.list_(pa.string()))
    return pa.array(cells, pa.string())
