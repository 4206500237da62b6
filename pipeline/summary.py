"""What lies in a folder or store, as plain values: the JSON that commands print and tables show."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hyperlearn_dask.config import Dataset, load_dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model_store import FORMAT as MODEL_FORMAT
from hyperlearn_dask.factorization.model_store import model_attrs
from hyperlearn_dask.hypergraph.store import FORMAT as HYPERGRAPH_FORMAT
from hyperlearn_dask.hypergraph.store import open_hypergraph
from pipeline.stages import HYPERGRAPH, METRICS, MODEL, are_of, read_metrics, training_summary


def summary(path: Path) -> dict[str, Any]:
    """Whatever there is to say about a data set, a store or a folder of results.

    The keys are some of ``dataset``, ``hypergraph``, ``model``, ``metrics``.
    """
    if not path.exists():
        raise InputError("does not exist; expected a data set, a store or a folder of results", file=path)
    found: dict[str, Any] = {}
    if path.is_file() or (path / "dataset.toml").exists():
        found["dataset"] = dataset_summary(load_dataset(path))
    elif (path / "zarr.json").exists():
        if _format(path) == MODEL_FORMAT:
            found["model"] = model_summary(path)
        else:
            found["hypergraph"] = hypergraph_summary(path)
    else:
        found = results_summary(path)
    if not found:
        raise InputError(
            f"holds no dataset.toml, {HYPERGRAPH}, {MODEL} or {METRICS}: nothing to tell about", file=path
        )
    return found


def results_summary(folder: Path) -> dict[str, Any]:
    """``hypergraph``, ``model`` and ``metrics`` of a folder of results, those that are there.

    Metrics of an earlier model than the one there are none.
    """
    found: dict[str, Any] = {}
    if (folder / HYPERGRAPH).exists():
        found["hypergraph"] = hypergraph_summary(folder / HYPERGRAPH)
    if (folder / MODEL).exists():
        found["model"] = model_summary(folder / MODEL)
    if (folder / METRICS).exists():
        metrics = read_metrics(folder / METRICS)
        if "model" not in found or are_of(metrics, model_attrs(folder / MODEL)):
            found["metrics"] = metrics["metrics"]
    return found


def dataset_summary(dataset: Dataset) -> dict[str, Any]:
    """What a ``dataset.toml`` declares."""
    modalities = []
    for name, modality in dataset.modalities.items():
        graph = "-"
        if modality.graph is not None:
            kinds = ", ".join(dict.fromkeys(feature.kind for feature in modality.graph.features))
            edges = modality.graph.edges
            graph = f"edges of {edges.path.name}" if edges else f"{modality.graph.k} nearest by {kinds}"
        table = modality.table.path.name if modality.table else "-"
        modalities.append({"name": name, "table": table, "graph": graph})
    relations = [
        {
            "name": name,
            "modalities": list(relation.columns),
            "table": relation.table.path.name,
            "test": relation.test.path.name if relation.test else "-",
            "absent": relation.absent,
            "target": relation.target or "-",
        }
        for name, relation in dataset.relations.items()
    ]
    return {"name": dataset.name, "title": dataset.title, "modalities": modalities, "relations": relations}


def hypergraph_summary(path: Path) -> dict[str, Any]:
    """Modalities with their graphs, relations with their shapes."""
    hypergraph = open_hypergraph(path)
    modalities = []
    for name, modality in hypergraph.modalities.items():
        graph = hypergraph.graphs.get(name)
        row: dict[str, Any] = {"name": name, "entities": len(modality)}
        for figure in ("edges", "components", "isolated"):
            row[figure] = None if graph is None else getattr(graph, figure)
        modalities.append(row)
    relations = [
        {
            "name": name,
            "modalities": list(relation.modalities),
            "shape": [int(size) for size in relation.shape],
            "hyperedges": relation.nnz,
            "density": relation.nnz / math.prod(float(size) for size in relation.shape),
            "test": None if relation.test is None else relation.test.nnz,
        }
        for name, relation in hypergraph.relations.items()
    ]
    return {"modalities": modalities, "relations": relations}


def model_summary(path: Path) -> dict[str, Any]:
    """Columns, relations and training of a stored model."""
    attributes = model_attrs(path)
    problem = attributes["problem"]
    return {
        "entities": problem["sizes"],
        "groups": dict(problem["groups"]),
        "relations": {
            name: {key: term[key] for key in ("modalities", "absent", "weight")}
            for name, term in problem["terms"].items()
        },
        "graph_weights": problem["graph_weights"],
        "training": training_summary(attributes),
    }


def _format(store: Path) -> str:
    try:
        return str(json.loads((store / "zarr.json").read_text(encoding="utf-8"))["attributes"]["format"])
    except (OSError, ValueError, KeyError, TypeError):
        return HYPERGRAPH_FORMAT  # opening it as one says what is wrong with it
