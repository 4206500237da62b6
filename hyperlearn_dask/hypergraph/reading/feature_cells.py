"""Reading features from tables: whose they are, and what the cells say.

Every function here returns ``owners``, the index of the entity that each value is about, and the
values. A row about no entity is an error where the modality is closed, and left out where it is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperlearn_dask.config import FeatureSpec, ModalitySpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.blocks import Rows
from hyperlearn_dask.hypergraph.reading.entities import Entities
from hyperlearn_dask.hypergraph.reading.tables import Batch, read_table


def read_texts(feature: FeatureSpec, entities: Entities) -> tuple[np.ndarray, pa.Array]:
    """Texts that are not empty."""
    return _read_filled(feature, entities, lambda batch, column: (None, cells.texts(batch, column)))


def read_categories(feature: FeatureSpec, entities: Entities) -> tuple[np.ndarray, pa.Array]:
    """Categories; several of one cell, where it is a list or has separators, follow each other."""

    def several(batch: Batch, column: str) -> tuple[np.ndarray | None, pa.Array]:
        if not cells.holds_several(batch, column, feature.separator):
            return None, cells.texts(batch, column)
        counts, ids = cells.id_lists(batch, column, feature.separator)
        return counts, ids.dictionary_decode()

    return _read_filled(feature, entities, several)


def read_numbers(feature: FeatureSpec, entities: Entities) -> tuple[np.ndarray, np.ndarray]:
    """Numbers; NaN is an empty cell."""
    owners, numbers = [], []
    for batch, column, indices in _batches(feature, entities):
        values = cells.numbers(batch, column, missing="nan")
        owners.append(indices[indices >= 0])
        numbers.append(values[indices >= 0])
    return np.concatenate(owners), np.concatenate(numbers)


def read_flags(feature: FeatureSpec, entities: Entities) -> tuple[np.ndarray, pa.Array]:
    """The names of the columns that are not 0 or empty, as categories."""
    owners, names = [], []
    for column in feature.columns:
        one, numbers = read_numbers(replace(feature, column=column), entities)
        set_ = one[np.nan_to_num(numbers) != 0]
        owners.append(set_)
        names.append(np.full(len(set_), column))
    return np.concatenate(owners), pa.array(np.concatenate(names))


def read_vectors(feature: FeatureSpec, entities: Entities) -> tuple[np.ndarray, np.ndarray]:
    """Vectors, a row each, of one length; empty cells are left out."""
    owners, vectors = [], []
    length: int | None = None
    for batch, column, indices in _batches(feature, entities):
        records, found = _vectors(batch, column, length)
        if len(found):
            length = found.shape[1]
        known = indices[records] >= 0
        owners.append(indices[records][known])
        vectors.append(found[known])
    kept = [part for part in vectors if len(part)]
    return np.concatenate(owners), np.concatenate(kept) if kept else np.zeros((0, 0))


def read_vectors_file(
    path: Path, modality: ModalitySpec, entities: Entities
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a .npy matrix, which follow those of the modality's table."""
    assert modality.table is not None and modality.id is not None
    batches = read_table(modality.table, [modality.id])
    owners = np.concatenate([entities.of(batch, modality.id, known=True) for batch in batches])
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"is no readable .npy file ({error})", file=path) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        came = (
            f"shape {vectors.shape} of {vectors.dtype}" if isinstance(vectors, np.ndarray) else "an archive"
        )
        raise InputError(f"expected a matrix of numbers, got {came}", file=path)
    if len(vectors) != len(owners):
        raise InputError(
            f"expected a row for each of the {len(owners):,} rows of {modality.table.path.name}, "
            f"got {len(vectors):,}",
            file=path,
        )
    finite = np.isfinite(vectors)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"expected finite numbers, got {vectors[row, column]} in column {column + 1}",
            file=path,
            row=int(row) + 1,
        )
    return owners, vectors.astype(np.float64)


def _batches(feature: FeatureSpec, entities: Entities) -> Iterator[tuple[Batch, str, np.ndarray]]:
    """Each batch of a feature's tables, its column, and the entity of each record (-1: none)."""
    assert feature.column is not None and feature.id is not None
    for table in feature.tables:
        for batch in read_table(table, [feature.id, feature.column]):
            yield batch, feature.column, entities.of(batch, feature.id, known=entities.closed)


def _read_filled(
    feature: FeatureSpec,
    entities: Entities,
    read: Callable[[Batch, str], tuple[np.ndarray | None, pa.Array]],
) -> tuple[np.ndarray, pa.Array]:
    """Cells of text that are not empty; ``read`` says how many each record has (None: one) and which."""
    owners, values = [], []
    for batch, column, indices in _batches(feature, entities):
        counts, found = read(batch, column)
        if counts is not None:
            indices = np.repeat(indices, counts)
        filled = pc.fill_null(pc.not_equal(found, ""), False).to_numpy(zero_copy_only=False)
        filled &= indices >= 0
        owners.append(indices[filled])
        values.append(found.filter(pa.array(filled)))
    return np.concatenate(owners), pa.concat_arrays(values)


def _vectors(batch: Batch, column: str, length: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The records that have a vector, and the vectors; ``length`` is that of those before."""
    array = batch.columns[column]
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        if array.null_count == len(array):
            return np.zeros(0, dtype=np.int64), np.zeros((0, 0))
        raise batch.wrong("expected a list of numbers", 0, column)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    records = np.flatnonzero(lengths)
    if not len(records):
        return records, np.zeros((0, 0))
    length = length or int(lengths[records[0]])
    if (lengths[records] != length).any():
        other = records[np.argmax(lengths[records] != length)]
        raise batch.wrong(
            f"expected {length} numbers as in the rows before, got {lengths[other]}", other, column
        )
    items = Batch(batch.table, {column: pc.list_flatten(array)}, _RowsOfItems(batch.rows, records, length))
    return records, cells.numbers(items, column).reshape(-1, length)


class _RowsOfItems(Rows):
    """The rows of the items of vectors."""

    def __init__(self, rows: Rows, records: np.ndarray, length: int) -> None:
        self._rows, self._records, self._length = rows, records, length

    def __getitem__(self, record: int) -> int:
        return self._rows[self._records[record // self._length]]
