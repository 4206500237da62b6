"""The graphs of a data set, and the features of encoders: made into its stored hypergraph, or kept.

An encoder is given the blocks of columns that a Euclidean graph would be, and a constant: what is linear
in features needs numbers as numbers, and a mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from hyperlearn_dask.backend import Device
from hyperlearn_dask.config import Dataset, EncoderSpec, GraphSpec, ModalitySpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.features import read_features
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.laplacian import adjacency_of, laplacian_graph
from hyperlearn_dask.hypergraph.neighbors import neighbour_graph
from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.entities import Entities
from hyperlearn_dask.hypergraph.reading.tables import read_table
from hyperlearn_dask.hypergraph.store import (
    create_hypergraph,
    open_hypergraph,
    stored_order,
    unit_attributes,
    write_features,
    write_graph,
)
from hyperlearn_dask.hypergraph.tensor import Graph, SparseTensor
from hyperlearn_dask.storage import (
    Progress,
    UnitReport,
    hash_file,
    hash_of,
    link_unit,
    replacing,
)

if TYPE_CHECKING:
    import distributed

_RECIPE = 2  # part of every fingerprint: raise it when graphs come out differently
_MADE = ("graphs/", "features/")  # units that are made here


def build_graphs(
    dataset: Dataset,
    path: str | Path,
    *,
    client: distributed.Client | None = None,
    progress: Progress | None = None,
    device: Device = "cpu",
) -> list[UnitReport]:
    """Make the graphs of a data set, and the features of its encoders, in its stored hypergraph.

    A graph stays as it is while its settings (except its weight, which is training's), its files,
    its entities and the relations among its features do; one that the data set no longer has goes.
    The store is replaced as a whole, or not touched at all.

    Parameters
    ----------
    dataset
        The settings.
    path
        The store, as ingestion left it.
    client
        A cluster for the neighbours; None is this process, with threads.
    progress
        Called with a short text as work proceeds.
    device
        What finds exact neighbours: see :func:`neighbour_graph`. The graphs are the same.

    Returns
    -------
    list of UnitReport
        One for each graph and then for each encoder's features, in the order of the data set.

    Raises
    ------
    InputError
        When the store or a file is missing or wrong.
    """
    path = Path(path)
    stored = unit_attributes(path)
    wanted = _fingerprints(dataset, path, stored)
    kept = [unit for unit in wanted if unit in stored and stored[unit]["fingerprint"] == wanted[unit]]
    others = [unit for unit in stored if not unit.startswith(_MADE)]
    reports = {unit: UnitReport(unit, "kept", _described(stored[unit]), 0.0) for unit in kept}
    if len(kept) < len(wanted) or len(kept) + len(others) < len(stored):
        hypergraph = open_hypergraph(path)
        with replacing(path) as staging:
            root = create_hypergraph(staging, stored_order(path))
            for unit in (*others, *kept):
                link_unit(path, staging, unit)
            for unit in [unit for unit in wanted if unit not in kept]:
                begun = time.perf_counter()
                kind, _, name = unit.partition("/")
                modality = dataset.modalities[name]
                if kind == "graphs":
                    graph, detail = _make(modality, dataset, hypergraph, client, progress, device)
                    write_graph(root, graph, wanted[unit])
                else:
                    matrix, blocks, detail = _encoder_features(modality, hypergraph, progress)
                    write_features(root, name, matrix, blocks, wanted[unit])
                reports[unit] = UnitReport(unit, "made", detail, time.perf_counter() - begun)
    return [reports[unit] for unit in wanted]


def graphs_up_to_date(dataset: Dataset, path: Path) -> bool:
    """Whether :func:`build_graphs` has nothing to do."""
    stored = unit_attributes(path)
    fingerprints = {unit: stored[unit]["fingerprint"] for unit in stored if unit.startswith(_MADE)}
    return fingerprints == _fingerprints(dataset, path, stored)


def _fingerprints(dataset: Dataset, path: Path, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For each graph that the data set has, and each encoder's features, a hash of all it is made from."""
    file_hash = cache(hash_file)
    wanted = {}
    specs: list[tuple[str, ModalitySpec, GraphSpec | EncoderSpec]] = []
    for modality in dataset.modalities.values():
        if modality.graph is not None:
            specs.append(("graphs", modality, replace(modality.graph, weight=GraphSpec.weight)))
    for modality in dataset.modalities.values():
        if modality.encoder is not None and modality.encoder.features:
            specs.append(("features", modality, EncoderSpec(features=modality.encoder.features)))
    for kind, modality, spec in specs:
        units = [f"modalities/{modality.name}"]
        units += [f"relations/{feature.relation}" for feature in spec.features if feature.relation]
        for unit in units:
            if unit not in stored:
                raise InputError(f"has no '{unit}'; ingest the data set first", file=path)
        contents = [file_hash(file) for file in _files(modality, spec)]
        wanted[f"{kind}/{modality.name}"] = hash_of(
            [_RECIPE, spec, contents, [stored[unit]["digest"] for unit in units]]
        )
    return wanted


def _files(modality: ModalitySpec, spec: GraphSpec | EncoderSpec) -> list[Path]:
    files = [spec.edges.path] if isinstance(spec, GraphSpec) and spec.edges else []
    for feature in spec.features:
        files += [table.path for table in feature.tables]
        if feature.file is not None and modality.table is not None:
            files += [feature.file, modality.table.path]  # whose rows those of the file follow
    return files


def _make(
    modality: ModalitySpec,
    dataset: Dataset,
    hypergraph: Hypergraph,
    client: distributed.Client | None,
    progress: Progress | None,
    device: Device,
) -> tuple[Graph, str]:
    """A graph, and what to report of it."""
    spec = modality.graph
    assert spec is not None
    entities = Entities(hypergraph.modalities[modality.name], closed=modality.table is not None)
    if spec.edges is not None:
        if progress:
            progress(f"{modality.name}: reading {spec.edges.path.name}")
        adjacency, loops = read_edges(spec, entities)
        notes = [f"{_count(loops, 'self-loop')} left out"] if loops else []
        return _reported(modality.name, adjacency, spec.edges.path.name, notes)

    if spec.k >= len(entities):
        raise InputError(
            f"expected fewer neighbours than entities ({len(entities):,}), got {spec.k}",
            file=dataset.path,
            key=f"modalities.{modality.name}.graph.k",
        )
    if progress:
        progress(f"{modality.name}: reading {_count(len(spec.features), 'feature')}")
    features = read_features(modality, spec, entities, _unfolding(hypergraph, modality.name))
    reported: list[str] = []
    adjacency = neighbour_graph(
        modality.name,
        features.matrix,
        spec.k,
        spec.metric,
        method=spec.method,
        informed=features.informed,
        client=client,
        progress=progress,
        note=reported.append,
        device=device,
    )
    origin = f"k = {spec.k} {spec.metric} over {_count(len(spec.features), 'feature block')}"
    return _reported(modality.name, adjacency, origin, [*reported, *features.notes])


def _encoder_features(
    modality: ModalitySpec, hypergraph: Hypergraph, progress: Progress | None
) -> tuple[sp.csr_array, tuple[int, ...], str]:
    """The features of an encoder, how many columns each has, and what to report of them."""
    assert modality.encoder is not None
    spec = GraphSpec(metric="euclidean", features=modality.encoder.features)
    if progress:
        progress(f"{modality.name}: reading {_count(len(spec.features), 'feature')}")
    entities = Entities(hypergraph.modalities[modality.name], closed=modality.table is not None)
    unfolding = _unfolding(hypergraph, modality.name)
    found = read_features(modality, spec, entities, unfolding, "encoder")
    constant = found.informed.astype(np.float64)[:, None]
    matrix = sp.csr_array(sp.hstack([sp.csr_array(found.matrix), sp.csr_array(constant)], format="csr"))
    return matrix, (*found.widths, 1), "; ".join([_described({"shape": matrix.shape}), *found.notes])


def _unfolding(hypergraph: Hypergraph, modality: str) -> Callable[[str], tuple[SparseTensor, int]]:
    """A relation's training tensor by its name, and the place of the modality among its modes."""

    def relation(name: str) -> tuple[SparseTensor, int]:
        found = hypergraph.relations[name]
        return found.tensor, found.modalities.index(modality)

    return relation


def read_edges(spec: GraphSpec, entities: Entities) -> tuple[sp.csr_array, int]:
    """The edges of a file as weights (entities x entities), and how many self-loops it has.

    An edge named several times has the largest of its weights, without a column of weights 1.

    Raises
    ------
    InputError
        When an id is no entity, or a weight is no number or negative; with file, row and column.
    """
    assert spec.edges is not None and spec.source is not None and spec.target is not None
    columns = [spec.source, spec.target, *([spec.edge_weight] if spec.edge_weight else [])]
    parts = []
    for batch in read_table(spec.edges, columns):
        ends = (entities.of(batch, column, known=True) for column in (spec.source, spec.target))
        weights = cells.numbers(batch, spec.edge_weight) if spec.edge_weight else np.ones(len(batch))
        if spec.edge_weight and weights.min() < 0:
            record = int(np.argmax(weights < 0))
            raise batch.wrong(
                f"expected a weight of 0 or more, got {weights[record]:g}", record, spec.edge_weight
            )
        parts.append((*ends, weights))
    source, target, weights = (np.concatenate(column) for column in zip(*parts))

    return adjacency_of(source, target, weights, len(entities)), int((source == target).sum())


def _reported(modality: str, adjacency: sp.csr_array, origin: str, notes: Sequence[str]) -> tuple[Graph, str]:
    graph = laplacian_graph(modality, adjacency)
    counts = _counts(graph.edges, graph.components, graph.isolated)
    return graph, "; ".join([f"{origin}: {counts}", *notes])


def _described(unit: Mapping[str, Any]) -> str:
    """What a stored unit is like, from its attributes."""
    if "shape" in unit:
        return f"{_count(unit['shape'][1], 'column')} of features, for {unit['shape'][0]:,} entities"
    return _counts(unit["edges"], unit["components"], unit["isolated"])


def _counts(edges: int, components: int, isolated: int) -> str:
    return (
        f"{_count(edges, 'edge')}, {_count(components, 'connected part')}, "
        f"{isolated:,} isolated {'entity' if isolated == 1 else 'entities'}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
