"""What a ``dataset.toml`` says: its dataclasses, and how it is read and checked."""

from hyperlearn_dask.config.load import encoder_from, load_dataset, training_from
from hyperlearn_dask.config.specs import (
    Absent,
    ColumnSpec,
    Dataset,
    Duplicates,
    EncodedFrom,
    EncoderSpec,
    FeatureKind,
    FeatureSpec,
    GraphSpec,
    Metric,
    ModalitySpec,
    NeighbourMethod,
    RelationSpec,
    TableSpec,
    TrainingSpec,
)

__all__ = [
    "Absent",
    "ColumnSpec",
    "Dataset",
    "Duplicates",
    "EncodedFrom",
    "EncoderSpec",
    "FeatureKind",
    "FeatureSpec",
    "GraphSpec",
    "Metric",
    "ModalitySpec",
    "NeighbourMethod",
    "RelationSpec",
    "TableSpec",
    "TrainingSpec",
    "encoder_from",
    "load_dataset",
    "training_from",
]
