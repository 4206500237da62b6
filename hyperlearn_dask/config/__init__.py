"""What a ``dataset.toml`` says: its dataclasses, and how it is read and checked."""

from hyperlearn_dask.config.load import load_dataset, placement_from, training_from
from hyperlearn_dask.config.specs import (
    Absent,
    ColumnSpec,
    Dataset,
    Duplicates,
    FeatureKind,
    FeatureSpec,
    GraphSpec,
    Metric,
    ModalitySpec,
    NeighbourMethod,
    PlacementSpec,
    Range,
    RelationSpec,
    TableSpec,
    TrainingSpec,
)

__all__ = [
    "Absent",
    "ColumnSpec",
    "Dataset",
    "Duplicates",
    "FeatureKind",
    "FeatureSpec",
    "GraphSpec",
    "Metric",
    "ModalitySpec",
    "NeighbourMethod",
    "PlacementSpec",
    "Range",
    "RelationSpec",
    "TableSpec",
    "TrainingSpec",
    "load_dataset",
    "placement_from",
    "training_from",
]
