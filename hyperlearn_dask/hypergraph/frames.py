"""A hypergraph from tables in memory; the rules are those of :mod:`.ingest`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from hyperlearn_dask.config import ColumnSpec, Duplicates, TableSpec
from hyperlearn_dask.config.section import unknown
from hyperlearn_dask.config.specs import Unseen
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order
from hyperlearn_dask.hypergraph.laplacian import adjacency_of, laplacian_graph
from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.blocks import Rows
from hyperlearn_dask.hypergraph.reading.hyperedges import (
    Chunk,
    code,
    dictionaries,
    look_up,
    look_up_test,
    make_chunk,
)
from hyperlearn_dask.hypergraph.reading.tables import Batch
from hyperlearn_dask.hypergraph.reading.vocabulary import as_modality, as_vocabulary, list_entities, merge
from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation, SparseTensor

Frame = Any  # pandas, Arrow, anything with Arrow's C stream (polars …), or a mapping of columns


def from_frames(
    relations: Mapping[str, Sequence[Any]],
    *,
    modalities: Mapping[str, Any] | None = None,
    tests: Mapping[str, Frame] | None = None,
    graphs: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    duplicates: Duplicates | Mapping[str, Duplicates] = "sum",
    unseen: Unseen | Mapping[str, Unseen] = "error",
) -> tuple[dict[str, Modality], dict[str, Relation], dict[str, Graph], dict[str, sp.csr_array]]:
    """What is in them, features last: see :meth:`hyperlearn_dask.Hypergraph.from_frames`."""
    modalities, tests, graphs, features = modalities or {}, tests or {}, graphs or {}, features or {}
    if not relations:
        raise InputError("expected at least one relation, got none", key="relations")
    read = {name: _Relation(name, given) for name, given in relations.items()}
    rule_of = _per_relation("duplicates", duplicates, Duplicates, read)
    unseen_of = _per_relation("unseen", unseen, Unseen, read)
    for name in tests:
        _require("tests", "relation", name, read)
    names = dict.fromkeys([m for relation in read.values() for m in relation.columns] + list(modalities))

    given = {name: _given_modality(name, entities) for name, entities in modalities.items()}
    edges = {name: _Edges(name, graph) for name, graph in graphs.items() if not sp.issparse(graph)}
    for name in graphs:
        _require("graphs", "modality", name, names)
    for name in features:
        _require("features", "modality", name, names)
    entities = {}
    for name in names:
        if name in given:
            entities[name] = given[name]
            continue
        found = [dictionaries(r.chunks, name) for r in read.values() if name in r.columns]
        if name in edges:
            found.append(edges[name].ids())
        entities[name] = as_modality(name, merge(found)[0])
        if not len(entities[name]):
            raise InputError("has no entities", key=f"modality '{name}'")
    vocabularies = {name: as_vocabulary(modality) for name, modality in entities.items()}

    made = {}
    for name, relation in read.items():
        tensor = relation.tensor(vocabularies, rule_of[name])
        test = relation.test(tests[name], vocabularies, unseen_of[name]) if name in tests else None
        made[name] = _relation(name, tuple(relation.columns), tensor, test)
    laplacians = {}
    for name, graph in graphs.items():
        if name in edges:
            laplacians[name] = edges[name].graph(vocabularies[name])
        else:
            order = _as_given("graph", name, modalities, vocabularies[name])
            laplacians[name] = _graph_of_matrix(name, graph, order)
    described = {
        name: _features(name, matrix, _as_given("features", name, modalities, vocabularies[name]))
        for name, matrix in features.items()
    }
    return entities, made, laplacians, described


class _Relation:
    """A relation as it was given: (frame, columns) or (frame, columns, value column)."""

    def __init__(self, name: str, given: Sequence[Any]) -> None:
        self.name = name
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise InputError("expected (frame, columns) or (frame, columns, value)", key=f"relation '{name}'")
        frame, columns, value = (*given, None)[:3]
        if isinstance(columns, str) or not isinstance(columns, Mapping | Sequence):
            raise InputError("expected the columns as a list, or by modality", key=f"relation '{name}'")
        pairs = columns.items() if isinstance(columns, Mapping) else ((column, column) for column in columns)
        by_modality = {str(modality): str(column) for modality, column in pairs}
        self.value = _named(value)
        if len(by_modality) < 2:
            raise InputError(
                f"a relation joins at least two modalities, got {len(by_modality)}", key=f"relation '{name}'"
            )
        self.columns = {modality: ColumnSpec(column) for modality, column in by_modality.items()}
        self.chunks = self._chunks(frame, f"relation '{name}'")

    def tensor(self, vocabularies: Mapping[str, pa.Array], rule: Duplicates) -> SparseTensor:
        coded = code(self.chunks, {m: look_up(self.chunks, m, vocabularies[m]) for m in self.columns})
        shape = self._shape(vocabularies)
        if not len(coded.values):
            raise InputError("has no hyperedges", key=f"relation '{self.name}'")
        ordered = in_order(coded.coords, coded.values, shape, rule)
        if isinstance(ordered, Repeat):
            rows = [row for chunk in self.chunks for row in map(chunk.row, range(len(chunk)))]
            raise InputError(
                f'repeats row {rows[ordered.first]}, which duplicates = "sum" or "last" would allow',
                file=f"relation '{self.name}'",
                row=rows[ordered.second],
            )
        return ordered[0]

    def test(self, frame: Frame, vocabularies: Mapping[str, pa.Array], unseen: Unseen) -> SparseTensor:
        chunks = self._chunks(frame, f"test of relation '{self.name}'")
        coded = code(chunks, {m: look_up_test(chunks, m, vocabularies[m], unseen) for m in self.columns})
        coords = tuple(coord.astype(np.int64) for coord in coded.coords)
        return SparseTensor(coords, coded.values, self._shape(vocabularies))

    def _chunks(self, frame: Frame, source: str) -> list[Chunk]:
        needed = [spec.column for spec in self.columns.values()] + ([self.value] if self.value else [])
        return [make_chunk(batch, self.columns, self.value) for batch in _batches(frame, needed, source)]

    def _shape(self, vocabularies: Mapping[str, pa.Array]) -> tuple[int, ...]:
        return tuple(len(vocabularies[modality]) for modality in self.columns)


class _Edges:
    """A graph given as (frame, source, target) or (frame, source, target, weight)."""

    def __init__(self, modality: str, given: Any) -> None:
        self.modality = modality
        if not isinstance(given, tuple | list) or len(given) not in (3, 4):
            raise InputError(
                "expected a SciPy sparse matrix, (frame, source, target) or (frame, source, target, weight)",
                key=f"graph of '{modality}'",
            )
        frame, source, target, weight = (*given, None)[:4]
        self.source, self.target, self.weight = str(source), str(target), _named(weight)
        needed = [self.source, self.target] + ([self.weight] if self.weight else [])
        self.batches = list(_batches(frame, needed, f"graph of '{modality}'"))

    def ids(self) -> list[pa.Array]:
        return [
            cells.ids(b, column).dictionary for b in self.batches for column in (self.source, self.target)
        ]

    def graph(self, vocabulary: pa.Array) -> Graph:
        columns = {"source": ColumnSpec(self.source), "target": ColumnSpec(self.target)}
        chunks = [make_chunk(batch, columns, self.weight) for batch in self.batches]
        coded = code(chunks, {end: look_up(chunks, end, vocabulary, what=self.modality) for end in columns})
        if coded.values.min(initial=0) < 0:
            raise InputError("expected weights of 0 or more", key=f"graph of '{self.modality}'")
        source, target = coded.coords
        adjacency = adjacency_of(source, target, coded.values, len(vocabulary))
        return laplacian_graph(self.modality, adjacency)


def _named(column: Any) -> str | None:
    """The name of a column, if one was given: a frame without a header has numbers."""
    return None if column is None else str(column)


def _given_modality(name: str, given: Any) -> Modality:
    """From (frame, id column), (frame, id column, label column), or ids."""
    batches, id_column, label_column = _modality_batches(name, given)
    return list_entities(name, batches, id_column, label_column)


def _modality_batches(name: str, given: Any) -> tuple[list[Batch], str, str | None]:
    source = f"modality '{name}'"
    if isinstance(given, tuple) and len(given) in (2, 3) and not isinstance(given[0], str | int):
        frame, id_column, label_column = (*given, None)[:3]
        id_column, label_column = str(id_column), _named(label_column)
        needed = [id_column] + ([label_column] if label_column else [])
        return list(_batches(frame, needed, source)), id_column, label_column
    return list(_batches({"id": given}, ["id"], source)), "id", None


def _as_given(what: str, name: str, modalities: Mapping[str, Any], vocabulary: pa.Array) -> np.ndarray:
    """The indices of a modality's entities in the order they were given in, that of a matrix."""
    if name not in modalities:
        raise InputError(
            f"a matrix does not say which ids its rows are; list them in modalities, as '{name}'",
            key=f"{what} of '{name}'",
        )
    batches, id_column, _ = _modality_batches(name, modalities[name])
    listed = pa.concat_arrays([cells.ids(batch, id_column).dictionary_decode() for batch in batches])
    return pc.index_in(listed, vocabulary).to_numpy().astype(np.int64)


def _graph_of_matrix(name: str, matrix: Any, order: np.ndarray) -> Graph:
    size = len(order)
    if matrix.shape != (size, size):
        raise InputError(
            f"expected a matrix of {size} x {size}, a row per id, got {' x '.join(map(str, matrix.shape))}",
            key=f"graph of '{name}'",
        )
    entries = sp.coo_array(matrix)
    moved = (entries.data, (order[entries.row], order[entries.col]))
    return laplacian_graph(name, sp.coo_array(moved, shape=(size, size)).tocsr())


def _features(name: str, matrix: Any, order: np.ndarray) -> sp.csr_array:
    """The rows of a matrix, given in some order of the entities, in that of their indices."""
    if (np.ndim(matrix) != 2 and not sp.issparse(matrix)) or matrix.shape[0] != len(order):
        came = " x ".join(map(str, np.shape(matrix)))
        raise InputError(
            f"expected a matrix with {len(order)} rows, one per id, got {came}", key=f"features of '{name}'"
        )
    ordered = sp.csr_array(matrix, dtype=np.float64)[np.argsort(order)]
    if not np.isfinite(ordered.data).all():
        raise InputError("expected finite numbers", key=f"features of '{name}'")
    return ordered


def _relation(
    name: str, modalities: tuple[str, ...], tensor: SparseTensor, test: SparseTensor | None
) -> Relation:
    load_test = None if test is None else lambda: test
    return Relation(name, modalities, tensor.shape, tensor.nnz, lambda: tensor, load_test)


def _batches(frame: Frame, columns: Sequence[str], source: str) -> Iterator[Batch]:
    table = _table(frame, columns, source)
    if not table.num_rows:
        raise InputError("has no rows", file=source)
    row = 1
    for batch in table.combine_chunks().to_batches():
        found = {column: batch.column(column) for column in columns}
        yield Batch(TableSpec(Path(source), "frame"), found, Rows(row))
        row += len(batch)


def _table(frame: Frame, columns: Sequence[str], source: str) -> pa.Table:
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if isinstance(frame, Mapping | pa.Table):
        own = list(frame) if isinstance(frame, Mapping) else frame.column_names
    elif hasattr(frame, "columns"):
        own = list(frame.columns)
    elif hasattr(frame, "__arrow_c_stream__"):
        frame = pa.table(frame)
        own = frame.column_names
    else:
        raise InputError(
            f"expected a data frame or a dict of columns, got {type(frame).__name__}", file=source
        )
    names = {str(name): name for name in own}
    for column in columns:
        if column not in names:
            raise InputError(unknown("no such column", column, names), file=source, column=column)
    arrays = {column: _array(frame[names[column]], source, column) for column in dict.fromkeys(columns)}
    if len({len(array) for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{column} {len(array)}" for column, array in arrays.items())
        raise InputError(f"its columns have different lengths ({sizes})", file=source)
    return pa.table(arrays)


def _array(values: Any, source: str, column: str) -> pa.Array | pa.ChunkedArray:
    """One column; a missing value is whatever its library calls so."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "UT":
        values = values.tolist()
    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:
        raise InputError(
            "expected whole numbers of at most 64 bits; make them texts", file=source, column=column
        ) from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"expected values of one kind, got a mixture ({error})", file=source, column=column
        ) from None


def _per_relation(key: str, given: Any, options: Any, relations: Mapping[str, Any]) -> dict[str, Any]:
    """A setting for all relations, or by relation."""
    by_relation = dict(given) if isinstance(given, Mapping) else dict.fromkeys(relations, given)
    for name, value in by_relation.items():
        _require(key, "relation", name, relations)
        if value not in get_args(options):
            raise InputError(unknown(f"'{value}' is not a choice", str(value), get_args(options)), key=key)
    return {name: by_relation.get(name, get_args(options)[0]) for name in relations}


def _require(key: str, what: str, name: str, valid: Mapping[str, Any]) -> None:
    if name not in valid:
        raise InputError(unknown(f"no {what} '{name}'", name, valid), key=key)
