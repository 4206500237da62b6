"""From entity ids of any kind to contiguous indices, and back to what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperlearn_dask.config import GraphSpec, ModalitySpec
from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.tables import BLOCK, Batch, read_table
from hyperlearn_dask.hypergraph.tensor import Modality

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_FEW = 1_000
_CANDIDATES = 20_000


def id_order(ids: pa.Array) -> np.ndarray:
    """The order of ids: by number if all are integers as one writes them, else as text.

    Examples
    --------
    >>> import pyarrow as pa
    >>> id_order(pa.array(["10", "9"])).tolist(), id_order(pa.array(["10", "09"])).tolist()
    ([1, 0], [1, 0])
    """
    # A few ids usually show that there are others than integers.
    integers = all(pc.all(pc.match_substring_regex(some, _INTEGER)).as_py() for some in (ids[:_FEW], ids))
    keys = pc.cast(ids, pa.int64()) if integers else ids
    return pc.array_sort_indices(keys).to_numpy().astype(np.int64)


def merge(parts: Sequence[Sequence[pa.Array]]) -> tuple[pa.Array, list[list[pa.Array]]]:
    """All distinct ids of some dictionaries, in order, and where each of their ids is among them.

    Examples
    --------
    >>> import pyarrow as pa
    >>> ids, translations = merge([[pa.array(["b", "c"])], [pa.array(["a"]), pa.array(["c", "a"])]])
    >>> ids.to_pylist(), [[t.to_pylist() for t in part] for part in translations]
    (['a', 'b', 'c'], [[[1, 2]], [[0], [2, 0]]])
    """
    dictionaries = [dictionary for part in parts for dictionary in part]
    coded = pa.chunked_array(dictionaries, pa.string()).dictionary_encode().combine_chunks()
    order = id_order(coded.dictionary)
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(place).take(coded.indices)
    ends = np.cumsum([len(dictionary) for dictionary in dictionaries])
    translated = iter([indices[end - len(given) : end] for given, end in zip(dictionaries, ends)])
    return coded.dictionary.take(pa.array(order)), [[next(translated) for _ in part] for part in parts]


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


def read_edge_ids(graph: GraphSpec, block: int = BLOCK) -> list[pa.Array]:
    """The ids in a file of edges, each column and block's distinct ones apart."""
    assert graph.edges is not None and graph.source is not None and graph.target is not None
    columns = (graph.source, graph.target)
    batches = read_table(graph.edges, columns, block=block)
    return [cells.ids(batch, column).dictionary for batch in batches for column in columns]


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
