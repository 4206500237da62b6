"""What a ``dataset.toml`` says, as frozen dataclasses; :mod:`.load` makes and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

Absent = Literal["zero", "unknown", "context"]
Duplicates = Literal["sum", "last", "error"]
FeatureKind = Literal["text", "number", "category", "flags", "vector", "relation"]
Metric = Literal["cosine", "euclidean"]
NeighbourMethod = Literal["auto", "exact", "approximate"]
Unseen = Literal["error", "skip"]
Schedule = Literal["parallel", "sequential"]
Start = Literal["auto", "degree", "clustered", "random"]
Dtype = Literal["float32", "float64"]
Scheme = Literal["shards", "owner"]
Hyperparameters = Literal["fixed", "sampled"]
EncodedFrom = Literal["features", "free"]


@dataclass(frozen=True)
class TableSpec:
    """A raw table: its path (absolute) and format (``csv tsv jsonl parquet tns``, gzipped or not)."""

    path: Path
    format: str
    gzipped: bool = False


@dataclass(frozen=True)
class ColumnSpec:
    """A column that holds entity ids; with a separator, several of them in one cell.

    Columns of a .tns file have numbers for names, from "1".
    """

    column: str
    separator: str | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """One block of features of a modality's entities.

    ``column`` is one of ``tables``, whose column ``id`` says which entity a row is about; both are
    the modality's own unless the file names others. An entity may have several rows there (texts and
    categories are then accumulated). ``kind = "flags"``: of the ``columns``, those that are not 0 in a row
    are its categories. ``kind = "relation"`` takes the entity's row of the unfolding of ``relation`` along
    the modality as a bag of words. ``kind = "vector"`` reads a fixed-length list column, or ``file``, a .npy
    matrix whose rows follow the modality's table. With a ``separator`` a cell holds several categories.
    """

    kind: FeatureKind
    column: str | None = None
    tables: tuple[TableSpec, ...] = ()
    id: str | None = None
    separator: str | None = None
    relation: str | None = None
    file: Path | None = None
    weight: float = 1.0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class GraphSpec:
    """The intra-modal graph of a modality: edges from a table, or kNN over features."""

    weight: float = 1.0  # mu_m in the objective: a setting of training, not of the graph
    edges: TableSpec | None = None
    source: str | None = None
    target: str | None = None
    edge_weight: str | None = None
    k: int = 10
    metric: Metric = "cosine"
    method: NeighbourMethod = "auto"
    features: tuple[FeatureSpec, ...] = ()

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations that it is built from."""
        return tuple(f.relation for f in self.features if f.relation is not None)


@dataclass(frozen=True)
class EncoderSpec:
    """The encoder of a modality: its rows are a learned graph convolution of something.

    ``on``: of its entities' features, or of a free matrix. ``degree``: of the Chebyshev polynomials in its
    Laplacian; 0 uses no graph. ``decay``: the ridge of the learned weights. ``own``: each entity also has
    a free row of its own, added to what the features say, which training's ridge draws to 0.
    ``features``: of a data set's entities, to be read; those in memory are a hypergraph's.
    """

    on: EncodedFrom = "features"
    degree: int = 1
    decay: float = 1.0
    own: bool = False
    features: tuple[FeatureSpec, ...] = ()

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations among its features."""
        return tuple(f.relation for f in self.features if f.relation is not None)


@dataclass(frozen=True)
class ModalitySpec:
    """A modality. Without a table its entities are the ids found in the relations (and edges)."""

    name: str
    table: TableSpec | None = None
    id: str | None = None
    label: str | None = None
    graph: GraphSpec | None = None
    encoder: EncoderSpec | None = None


@dataclass(frozen=True)
class RelationSpec:
    """A relation: which columns of which table join which modalities, and how absence is read."""

    name: str
    table: TableSpec
    columns: dict[str, ColumnSpec]  # modality -> column, in the order of the tensor's modes
    value: str | None = None
    duplicates: Duplicates = "sum"
    test: TableSpec | None = None
    target: str | None = None  # the modality that is ranked when the relation is evaluated
    unseen: Unseen = "error"  # a test id that is no entity
    absent: Absent = "zero"
    absent_weight: float = 1.0  # of a zero against an observed entry; not with absent = "unknown"
    weight: float = 1.0  # lambda_p
    interactions: dict[str, tuple[str, ...]] | None = None  # group -> modalities it couples
    offset: float | Literal["mean"] = 0.0  # subtracted from the values; only with absent = "unknown"
    evidence: bool = False  # rank the target by local evidence as well; not with absent = "unknown"
    noise: tuple[str, ...] = ()  # whose entities differ in their noise; with hyperparameters = "sampled" only


@dataclass(frozen=True)
class TrainingSpec:
    """Settings of the factorisation and of its schedule."""

    groups: dict[str, int] = field(default_factory=lambda: {"all": 16})  # `rank = 16` in the file
    schedule: Schedule = "parallel"
    sweeps: int = 100
    tolerance: float = 1e-4  # stop when a sweep brings less than this fraction of F's fall so far
    validation: str | None = None  # a relation: stop as well when its held-out hyperedges are told no better
    held_out: float = 0.1  # the share of its training hyperedges that are then held out
    patience: int = 10  # sweeps without a new best there, before training stops
    ridge: float = 1e-2  # eps
    start: Start = "auto"
    seed: int = 0
    dtype: Dtype = "float64"
    draws: int = 0  # posterior draws after that, from the optimum on
    burn_in: int = 20  # draws before those, not kept
    hyperparameters: Hyperparameters = "fixed"  # among draws: ridges and noise drawn as well, or as given


@dataclass(frozen=True)
class Range:
    """Where a setting is searched: from ``low`` to ``high``, ``whole`` numbers or not, or in ``choices``."""

    low: float
    high: float
    whole: bool = False
    choices: tuple[float, ...] = ()


@dataclass(frozen=True)
class PlacementSpec:
    """Who does what on a cluster; whatever it says, results are the same.

    ``scheme``: products of all modes over a worker's shard, or, as published, of its own modalities'
    over the whole relations. ``shards``: how many stretches the relations are cut into, 0: one per
    worker. ``owners``: modality -> name of the worker that shall own it, for some of them.
    """

    scheme: Scheme = "shards"
    shards: int = 0
    owners: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """A whole ``dataset.toml``; ``path`` is the file itself, absolute."""

    path: Path
    name: str
    title: str
    modalities: dict[str, ModalitySpec]
    relations: dict[str, RelationSpec]
    training: TrainingSpec
    # What is searched by their keys, like ("training", "ridge"); empty: the usual settings.
    tune: Mapping[tuple[str | int, ...], Range] = field(default_factory=dict)
    placement: PlacementSpec = field(default_factory=PlacementSpec)

    @property
    def graphs_from(self) -> dict[str, tuple[str, ...]]:
        """Per modality the relations that its graph or features are built from, where they are from some."""
        built = {
            name: tuple(
                relation
                for spec in (modality.graph, modality.encoder)
                for relation in (spec.relations if spec is not None else ())
            )
            for name, modality in self.modalities.items()
        }
        return {name: relations for name, relations in built.items() if relations}

    @property
    def encoders(self) -> dict[str, EncoderSpec]:
        """The encoders as training takes them, by modality: their features are in the hypergraph."""
        return {
            name: replace(modality.encoder, features=())
            for name, modality in self.modalities.items()
            if modality.encoder is not None
        }
