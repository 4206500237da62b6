"""From the cells of a table to ids and numbers; what is neither is an error with row and column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperlearn_dask.hypergraph.reading.blocks import not_utf8
from hyperlearn_dask.hypergraph.reading.tables import TNS_VALUE, Batch, is_text

_EXACT = 2.0**53  # floats below this are exact integers


def ids(batch: Batch, column: str) -> pa.DictionaryArray:
    """One id per record, as a dictionary-encoded array of strings; its dictionary has no others.

    Integers become their decimal text and so do floats like 1762.0, the form that integer columns
    with gaps take in data frames; times are ISO 8601.

    Raises
    ------
    InputError
        When a cell is empty, a list, or no text.
    """
    array = batch.columns[column]
    if _is_list(array.type):
        raise batch.wrong("expected one id, got a list of them", 0, column)
    coded = _coded(array, batch, column)
    if pa.types.is_dictionary(array.type):
        coded = used(coded)
    empty = pc.indices_nonzero(pc.equal(coded.dictionary, "")).to_pylist()
    firsts = [_first_null(coded.indices), *(_first(coded.indices, code) for code in empty)]
    found = [first for first in firsts if first is not None]
    if found:
        raise batch.wrong("is empty; expected an id", min(found), column)
    if batch.table.format == "tns" and column != TNS_VALUE:
        _require_indices(coded, batch, column)
    return coded


def holds_several(batch: Batch, column: str, separator: str | None) -> bool:
    """Whether cells of a column may hold several ids: there is a separator, or they are lists."""
    return separator is not None or _is_list(batch.columns[column].type)


def id_lists(batch: Batch, column: str, separator: str | None) -> tuple[np.ndarray, pa.DictionaryArray]:
    """Any number of ids per record: cells that hold several, between separators or as a list.

    Returns
    -------
    counts, ids
        How many ids each record has, and all of them in order. Empty parts are left out, and so is
        white space around a part.
    """
    array = batch.columns[column]
    if not _is_list(array.type):
        if separator is None:
            return np.ones(len(batch), dtype=np.int64), ids(batch, column)
        array = pc.split_pattern(_coded(array, batch, column).dictionary_decode(), separator)
    parents = pc.list_parent_indices(array).to_numpy()
    parts = _coded(pc.list_flatten(array), batch, column, parents).dictionary_decode()
    if separator is not None:
        parts = pc.utf8_trim_whitespace(parts)
    full = pc.fill_null(pc.not_equal(parts, ""), False)
    counts = np.bincount(parents[full.to_numpy(zero_copy_only=False)], minlength=len(batch))
    return counts, parts.filter(full).dictionary_encode()


def texts(batch: Batch, column: str) -> pa.Array:
    """One text per record; missing ones are null or, in formats that know no null, empty."""
    array = batch.columns[column]
    if _is_list(array.type):
        raise batch.wrong("expected a text, got a list", 0, column)
    return _coded(array, batch, column).dictionary_decode()


def numbers(batch: Batch, column: str, *, missing: Literal["error", "nan"] = "error") -> np.ndarray:
    """One finite float64 per record; with ``missing = "nan"`` an empty cell is NaN.

    Raises
    ------
    InputError
        When a cell is no number, NaN or infinite, or empty.
    """
    array = batch.columns[column]
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if is_text(array.type):
        array = pc.utf8_trim_whitespace(_coded(array, batch, column).dictionary_decode())
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    elif not _is_number(array.type):
        raise batch.wrong(f"expected numbers, got {array.type}", 0, column)
    elif missing == "nan" and pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    if missing == "error" and (empty := _first_null(array)) is not None:
        raise batch.wrong("is empty; expected a number", empty, column)
    try:
        found = pc.cast(array, pa.float64(), safe=False)
    except pa.ArrowInvalid:
        first = _first_failing(array, lambda part: pc.cast(part, pa.float64()))
        raise batch.wrong(f"expected a number, got '{array[first].as_py()}'", first, column) from None
    values = pc.fill_null(found, 0.0).to_numpy()
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise batch.wrong(f"expected a finite number, got {values[first]}", first, column)
    if found.null_count:
        values = np.where(pc.is_null(found).to_numpy(zero_copy_only=False), np.nan, values)
    return values


def used(coded: pa.DictionaryArray) -> pa.DictionaryArray:
    """The same array with a dictionary of only what occurs in it.

    Examples
    --------
    >>> import pyarrow as pa
    >>> used(pa.array(["a", "b", "c"]).dictionary_encode()[1:]).dictionary.to_pylist()
    ['b', 'c']
    """
    occurs = np.zeros(len(coded.dictionary), dtype=bool)
    occurs[coded.indices.drop_null().to_numpy()] = True
    if occurs.all():
        return coded
    codes = pa.array((np.cumsum(occurs) - 1).astype(np.int32))
    return pa.DictionaryArray.from_arrays(
        codes.take(coded.indices), coded.dictionary.filter(pa.array(occurs))
    )


def _coded(
    array: pa.Array, batch: Batch, column: str, records: np.ndarray | None = None
) -> pa.DictionaryArray:
    """Cells as text; distinct values are looked at once. ``records``: whose cells these are."""
    if not _is_coded_text(array):
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not is_text(array.type):
            array = _as_text(array, batch, column)
    coded = array.dictionary_encode()
    try:
        dictionary = pc.cast(coded.dictionary, pa.string())
    except pa.ArrowInvalid:
        bad = _first_failing(coded.dictionary, lambda part: pc.cast(part, pa.string()))
        cell = _first(coded.indices, bad)
        assert cell is not None
        raise batch.wrong(
            not_utf8(_bad_byte(coded.dictionary[bad].as_py())),
            cell if records is None else int(records[cell]),
            column,
        ) from None
    return pa.DictionaryArray.from_arrays(coded.indices, dictionary)


def _as_text(array: pa.Array, batch: Batch, column: str) -> pa.Array:
    kind = array.type
    if pa.types.is_floating(kind):
        array = pc.cast(array, pa.float64())
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, pa.float64()), array)
        whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), _EXACT))
        integers = pc.cast(pc.if_else(whole, array, 0.0), pa.int64())
        return pc.if_else(whole, pc.cast(integers, pa.string()), pc.cast(array, pa.string()))
    if pa.types.is_timestamp(kind):
        text = pc.replace_substring(pc.cast(array, pa.string()), " ", "T", max_replacements=1)
        return pc.replace_substring_regex(text, r"\.0+(Z?)$", r"\1")
    try:
        return pc.cast(array, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise batch.wrong(f"expected texts or numbers, got {kind}", 0, column) from None


def _require_indices(coded: pa.DictionaryArray, batch: Batch, column: str) -> None:
    right = pc.match_substring_regex(coded.dictionary, r"^[1-9][0-9]{0,17}$")
    wrong = pc.index(right, False).as_py()
    if wrong >= 0:
        first = _first(coded.indices, wrong)
        assert first is not None
        came = coded.dictionary[wrong].as_py()
        raise batch.wrong(f"expected an index from 1, got '{came}'", first, column)


def _bad_byte(value: bytes) -> int:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        return value[error.start]
    return 0


def _first_failing(array: pa.Array, attempt: Callable[[pa.Array], object]) -> int:
    """The first element that makes an attempt fail, by halving; the attempt on all of them fails."""
    start, stop = 0, len(array)  # all before start is fine, something before stop is not
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            attempt(array.slice(start, middle - start))
        except pa.ArrowInvalid:
            stop = middle
        else:
            start = middle
    return start


def _first(indices: pa.Array, index: int) -> int | None:
    found = pc.index(indices, pa.scalar(index, indices.type)).as_py()
    return None if found < 0 else int(found)


def _first_null(array: pa.Array) -> int | None:
    return int(pc.index(pc.is_null(array), True).as_py()) if array.null_count else None


def _is_coded_text(array: pa.Array) -> bool:
    kind = array.type
    return bool(pa.types.is_dictionary(kind) and is_text(kind.value_type) and not array.dictionary.null_count)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)
