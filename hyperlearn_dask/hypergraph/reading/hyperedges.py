"""From the rows of a relation's table to coordinates: read, explode, code.

A chunk knows its ids by its own small dictionaries, so it can be read before the entities of the
modalities are known, and coded once they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperlearn_dask.config import ColumnSpec, RelationSpec, TableSpec
from hyperlearn_dask.config.specs import Unseen
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.blocks import Rows
from hyperlearn_dask.hypergraph.reading.tables import TNS_VALUE, Batch, Part, read_part
from hyperlearn_dask.hypergraph.reading.vocabulary import closest


@dataclass(frozen=True)
class Chunk:
    """Hyperedges of consecutive rows.

    ``ids``: per modality a dictionary-encoded array whose dictionary holds nothing that does not occur;
    ``values``: one per hyperedge; ``records``: the record each came from, None where that is one each;
    ``rows``: their numbers in ``table``.
    """

    table: TableSpec
    columns: Mapping[str, str]
    ids: Mapping[str, pa.DictionaryArray]
    values: np.ndarray
    records: np.ndarray | None
    rows: Rows

    def __len__(self) -> int:
        return len(self.values)

    def row(self, hyperedge: int) -> int:
        """The row of the table that a hyperedge comes from."""
        return self.rows[hyperedge if self.records is None else int(self.records[hyperedge])]


@dataclass(frozen=True)
class Coded:
    """Coordinates (int32, -1 for an id that is no entity) and values of a part's hyperedges."""

    coords: tuple[np.ndarray, ...]
    values: np.ndarray


def value_column(spec: RelationSpec) -> str | None:
    """The column of a relation's values; that of a .tns file has no name of its own."""
    return TNS_VALUE if spec.table.format == "tns" else spec.value


def needed_columns(spec: RelationSpec) -> list[str]:
    """The columns of a relation's tables that matter."""
    value = value_column(spec)
    return [column.column for column in spec.columns.values()] + ([value] if value else [])


def read_chunks(part: Part, columns: Mapping[str, ColumnSpec], value: str | None) -> list[Chunk]:
    """The hyperedges of a part of a table, one chunk per batch."""
    return [make_chunk(batch, columns, value) for batch in read_part(part)]


def make_chunk(batch: Batch, columns: Mapping[str, ColumnSpec], value: str | None) -> Chunk:
    """The hyperedges of a batch; ``columns`` by modality, ``value`` the column of values or None for 1."""
    values = np.ones(len(batch)) if value is None else cells.numbers(batch, value)
    ids: dict[str, pa.DictionaryArray] = {}
    several: dict[str, tuple[np.ndarray, pa.DictionaryArray]] = {}
    for modality, spec in columns.items():
        if cells.holds_several(batch, spec.column, spec.separator):
            several[modality] = cells.id_lists(batch, spec.column, spec.separator)
        else:
            ids[modality] = cells.ids(batch, spec.column)
    names = {modality: spec.column for modality, spec in columns.items()}
    if not several:
        return Chunk(batch.table, names, ids, values, None, batch.rows)

    # Every combination of what a row's cells hold is a hyperedge.
    records = np.arange(len(batch))
    places: dict[str, np.ndarray] = {}
    for modality, (counts, _) in several.items():
        repeats = counts[records]
        begins = (np.cumsum(counts) - counts)[records]
        before = np.cumsum(repeats) - repeats
        within = np.arange(repeats.sum()) - np.repeat(before, repeats)
        places = {m: np.repeat(place, repeats) for m, place in places.items()}
        places[modality] = np.repeat(begins, repeats) + within
        records = np.repeat(records, repeats)
    exploded = {
        m: cells.used(
            several[m][1].take(pa.array(places[m])) if m in several else ids[m].take(pa.array(records))
        )
        for m in columns
    }
    return Chunk(batch.table, names, exploded, values[records], records, batch.rows)


def dictionaries(chunks: list[Chunk], modality: str) -> list[pa.Array]:
    """The distinct ids of a modality in each of some chunks, as its codes refer to them."""
    return [chunk.ids[modality].dictionary for chunk in chunks]


def look_up(
    chunks: list[Chunk],
    modality: str,
    vocabulary: pa.Array,
    *,
    open: bool = False,
    what: str | None = None,
) -> list[pa.Array]:
    """For each chunk, where the ids of its dictionary are in a vocabulary.

    Parameters
    ----------
    vocabulary
        The ids of the modality, in order.
    open
        An id that is not there is -1, and no error.
    what
        What an unknown id should have been, its modality unless given.

    Raises
    ------
    InputError
        When an id is no entity, unless ``open``, with file, row and column.
    """
    found = []
    for chunk in chunks:
        indices = pc.index_in(chunk.ids[modality].dictionary, vocabulary)
        if indices.null_count and not open:
            raise _unknown(chunk, modality, vocabulary, indices, what or modality)
        found.append(pc.fill_null(indices, -1))
    return found


def look_up_test(chunks: list[Chunk], modality: str, vocabulary: pa.Array, unseen: Unseen) -> list[pa.Array]:
    """Look up the ids of test tuples; the error of one that is no entity names the way out."""
    try:
        return look_up(chunks, modality, vocabulary, open=unseen == "skip")
    except InputError as error:
        raise InputError(
            f'{error.problem} (unseen = "skip" scores it by the mean row)',
            file=error.file,
            row=error.row,
            column=error.column,
        ) from None


def code(chunks: list[Chunk], translations: Mapping[str, list[pa.Array]]) -> Coded:
    """Replace ids by indices.

    ``translations``: for each modality, in the order of the modes, and chunk, the index of each id in
    the chunk's dictionary, as :func:`look_up` and :func:`.vocabulary.merge` find them.
    """
    coords = [
        pa.chunked_array(
            [index.take(chunk.ids[modality].indices) for chunk, index in zip(chunks, translation)], pa.int32()
        ).to_numpy()
        for modality, translation in translations.items()
    ]
    return Coded(tuple(coords), np.concatenate([np.empty(0), *(chunk.values for chunk in chunks)]))


def row_at(chunks: list[Chunk], hyperedge: int) -> int:
    """The row of the table of a part's hyperedge."""
    for chunk in chunks:
        if hyperedge < len(chunk):
            return chunk.row(hyperedge)
        hyperedge -= len(chunk)
    raise IndexError(hyperedge)


def _unknown(chunk: Chunk, modality: str, vocabulary: pa.Array, indices: pa.Array, what: str) -> InputError:
    """The error of the first hyperedge that has an id without index."""
    ids = chunk.ids[modality]
    first = int(pc.index(pc.is_null(indices).take(ids.indices), True).as_py())
    id = ids[first].as_py()
    return InputError(
        f"'{id}' is no {what}{closest(vocabulary, id)}",
        file=chunk.table.path,
        row=chunk.row(first),
        column=chunk.columns[modality],
    )
