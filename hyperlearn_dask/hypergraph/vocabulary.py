"""From entity ids of any kind to contiguous indices, and back to what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperlearn_dask.config import GraphSpec, ModalitySpec
from hyperlearn_dask.hypergraph import cells
from hyperlearn_dask.hypergraph.tables import BLOCK, Batch, read_table
from hyperlearn_dask.hypergraph.tensor import Modality

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_CANDIDATES = 20_000


def id_order(ids: pa.Array) -> np.ndarray:
    """The order of ids: by number if all are integers as one writes them, else as text.

    Examples
    --------
    >>> import pyarrow as pa
    >>> id_order(pa.array(["10", "9"])).tolist(), id_order(pa.array(["10", "09"])).tolist()
    ([1, 0], [1, 0])
    """
    integers = pc.all(pc.match_substring_regex(ids, _INTEGER)).as_py()
    keys = pc.cast(ids, pa.int64()) if integers else ids
    return pc.array_sort_indices(keys).to_numpy().astype(np.int64)


def merge(vocabularies: Iterable[pa.Array]) -> pa.Array:
    """All distinct ids of several arrays, in order."""
    arrays = list(vocabularies)
    distinct = pc.unique(pa.chunked_array(arrays, pa.string())) if arrays else pa.array([], pa.string())
    return distinct.take(pa.array(id_order(distinct)))


def as_modality(name: str, ids: pa.Array, labels: pa.Array | None = None) -> Modality:
    """A modality of ids that are in order."""
    return Modality(name, _numpy(ids), None if labels is None else _numpy(labels))


def as_vocabulary(modality: Modality) -> pa.Array:
    """The ids of a modality, as codes refer to them."""
    return pa.array(modality.ids.tolist(), pa.string())


def read_modality(spec: ModalitySpec, block: int = BLOCK) -> Modality:
    """The entities of a modality's own table. Errors: see :func:`list_entities`."""
    assert spec.table is not None and spec.id is not None
    columns = [spec.id] if spec.label is None else [spec.id, spec.label]
    return list_entities(spec.name, read_table(spec.table, columns, block=block), spec.id, spec.label)


def list_entities(name: str, batches: Iterable[Batch], id: str, label: str | None) -> Modality:
    """The entities that a table lists in its columns ``id`` and ``label``.

    Raises
    ------
    InputError
        When an id is listed twice, with file, row and column.
    """
    ids: list[pa.Array] = []
    labels: list[pa.Array] = []
    read: list[tuple[int, Batch]] = []  # and how many entities come before
    count = 0
    for batch in batches:
        ids.append(cells.ids(batch, id).dictionary_decode())
        if label is not None:
            labels.append(pc.fill_null(cells.texts(batch, label), ""))
        read.append((count, batch))
        count += len(batch)
    listed = pa.concat_arrays(ids)
    if len(pc.unique(listed)) < count:
        first, second = _first_repeat(listed)
        before, batch = next(item for item in reversed(read) if item[0] <= first)
        told = (
            f"'{listed[first].as_py()}' is listed a second time (first in row {batch.rows[first - before]})"
        )
        before, batch = next(item for item in reversed(read) if item[0] <= second)
        raise batch.wrong(told, second - before, id)
    order = pa.array(id_order(listed))
    return as_modality(name, listed.take(order), pa.concat_arrays(labels).take(order) if labels else None)


def read_edge_ids(graph: GraphSpec, block: int = BLOCK) -> pa.Array:
    """The distinct ids in a file of edges."""
    assert graph.edges is not None and graph.source is not None and graph.target is not None
    columns = (graph.source, graph.target)
    batches = read_table(graph.edges, columns, block=block)
    found = [cells.ids(batch, column).dictionary for batch in batches for column in columns]
    return pc.unique(pa.chunked_array(found, pa.string()))


def closest(vocabulary: pa.Array, id: str) -> str:
    """A hint at the id that was probably meant, like ", did you mean 'Monet'?"; may be empty."""
    # Comparing with all of a large vocabulary would take minutes; a slip rarely changes the length much.
    lengths = pc.utf8_length(vocabulary)
    near = pc.and_(pc.greater_equal(lengths, len(id) - 2), pc.less_equal(lengths, len(id) + 2))
    candidates = vocabulary.filter(near)[:_CANDIDATES].to_pylist()
    meant = difflib.get_close_matches(id, candidates, n=1)
    return f", did you mean '{meant[0]}'?" if meant else ""


def _first_repeat(ids: pa.Array) -> tuple[int, int]:
    """The first position that repeats an id, after the one where that id was first."""
    seen: dict[str, int] = {}
    second = next(n for n, id in enumerate(ids.to_pylist()) if seen.setdefault(id, n) != n)
    return seen[ids[second].as_py()], second


def _numpy(array: pa.Array) -> np.ndarray:
    return np.array(array.to_pylist(), dtype=np.dtypes.StringDType())
