"""The data sets of ``benchmarks/datasets`` straight from their CSV files, with NumPy and SciPy alone.

For machines that have nothing else: ids are numbered as they are sorted, test tuples left out, and a graph
of neighbours goes by the tuples of one relation. So these are not quite the hypergraphs that the library's
own ingestion makes; they are for measuring training, not its accuracy.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.backend import Device
from hyperlearn_dask.config import Dataset, GraphSpec, RelationSpec, load_dataset
from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.hypergraph.nearest import (
    BLOCK_ENTRIES,
    Cloud,
    Neighbours,
    nearest,
    nearest_tiled,
    tile_of,
)
from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation

SETTINGS = Path(__file__).parent / "datasets"
Numbers = dict[str, dict[str, int]]  # by modality, of each id


def read_raw(name: str, data: Path, device: Device = "cpu") -> tuple[Dataset, Hypergraph]:
    """The settings and the hypergraph of a data set; ``data``: its folder of raw files."""
    dataset = load_dataset(SETTINGS / name / "dataset.toml", folder=data)
    columns = {r: _columns(spec) for r, spec in dataset.relations.items()}
    numbers = {m: _numbers(m, dataset, columns) for m in dataset.modalities}
    modalities = {m: Modality(m, np.array(list(ids))) for m, ids in numbers.items()}
    relations = {
        r: _relation(spec, columns[r], {m: numbers[m] for m in spec.columns})
        for r, spec in dataset.relations.items()
    }
    graphs = {
        m: _graph(m, spec.graph, numbers[m], relations, device)
        for m, spec in dataset.modalities.items()
        if spec.graph is not None
    }
    return dataset, Hypergraph(modalities, relations, graphs)


def _rows(path: Path, names: Iterable[str]) -> list[list[str]]:
    """Columns of a CSV file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    places = [header.index(name) for name in names]
    return [[row[place] for row in rows] for place in places]


def _columns(spec: RelationSpec) -> list[list[str]]:
    value = [] if spec.value is None else [spec.value]
    return _rows(spec.table.path, [*(column.column for column in spec.columns.values()), *value])


def _numbers(modality: str, dataset: Dataset, columns: dict[str, list[list[str]]]) -> dict[str, int]:
    spec = dataset.modalities[modality]
    ids: set[str] = set()
    if spec.table is not None and spec.id is not None:
        ids |= set(_rows(spec.table.path, [spec.id])[0])
    for name, relation in dataset.relations.items():
        if modality in relation.columns:
            ids |= set(columns[name][list(relation.columns).index(modality)])
    return {text: number for number, text in enumerate(sorted(ids))}


def _relation(spec: RelationSpec, columns: list[list[str]], numbers: Numbers) -> Relation:
    coords = tuple(
        np.array([numbers[modality][text] for text in column])
        for modality, column in zip(spec.columns, columns)
    )
    values = np.array(columns[-1], dtype=float) if spec.value is not None else np.ones(len(coords[0]))
    shape = tuple(len(numbers[modality]) for modality in spec.columns)
    ordered = in_order(coords, values, shape, "last")
    assert not isinstance(ordered, Repeat)
    tensor = ordered[0]
    return Relation(spec.name, tuple(spec.columns), shape, tensor.nnz, lambda: tensor)


def _graph(
    modality: str, spec: GraphSpec, numbers: dict[str, int], relations: dict[str, Relation], device: Device
) -> Graph:
    n = len(numbers)
    if spec.edges is not None:
        assert spec.source is not None
        assert spec.target is not None
        weight = [spec.edge_weight] if spec.edge_weight else []
        source, target, *weights = _rows(spec.edges.path, [spec.source, spec.target, *weight])
        ends = tuple(np.array([numbers[text] for text in column]) for column in (source, target))
        data = np.array(weights[0], dtype=float) if weights else np.ones(len(source))
        return laplacian_graph(modality, sp.csr_array((data, ends), shape=(n, n)))
    relation = relations[next(f.relation for f in spec.features if f.relation is not None)]
    mode = relation.modalities.index(modality)
    coords = relation.tensor.coords
    ones = np.ones(relation.nnz)
    blocks = [
        sp.csr_array((ones, (coords[mode], coords[m])), shape=(n, relation.shape[m]))
        for m in range(len(relation.modalities))
        if m != mode
    ]
    features = sp.csr_array(sp.hstack(blocks, format="csr"))
    described = np.flatnonzero(np.diff(features.indptr))
    rows, columns, squared = neighbours(Cloud.of(features[described], spec.k, "cosine"), device)
    near = sp.csr_array((1 - squared / 2, (described[rows], described[columns])), shape=(n, n))
    return laplacian_graph(modality, near)


def neighbours(cloud: Cloud, device: Device) -> Neighbours:
    """The nearest of all points, block by block."""
    n = len(cloud)
    if device == "cuda":
        there, size = cloud.on(device), tile_of(cloud)
        parts = [nearest_tiled(there, at, min(at + size, n), size) for at in range(0, n, size)]
    else:
        size = max(16, BLOCK_ENTRIES // n)
        parts = [nearest(cloud, np.arange(at, min(at + size, n))) for at in range(0, n, size)]
    rows, columns, squared = (np.concatenate([part[a] for part in parts]) for a in range(3))
    return rows, columns, squared
