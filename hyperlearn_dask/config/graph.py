"""The ``graph`` of a modality in a ``dataset.toml``: edges, or features to find neighbours by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from hyperlearn_dask.config.files import Files
from hyperlearn_dask.config.section import Section, unknown
from hyperlearn_dask.config.specs import (
    FeatureKind,
    FeatureSpec,
    GraphSpec,
    Metric,
    NeighbourMethod,
    TableSpec,
)


def read_graph(
    modality: str,
    section: Section,
    files: Files,
    table: TableSpec | None,
    ids: str | None,
    members: Mapping[str, tuple[str, ...]],
) -> GraphSpec:
    """Read and check a graph.

    Parameters
    ----------
    modality, table, ids
        The modality, its table and the column of its ids there.
    members
        The modalities of each relation.
    """
    weight = section.number("weight", GraphSpec.weight)
    if ("edges" in section) == ("features" in section):
        came = "both" if "edges" in section else "neither"
        section.wrong(f"expected either edges (a table) or features (to find neighbours by), got {came}")
    if "edges" in section:
        spec = _from_edges(section, files, weight)
    else:
        spec = _from_features(modality, section, files, table, ids, members, weight)
    section.close()
    return spec


def _from_edges(section: Section, files: Files, weight: float) -> GraphSpec:
    spec = GraphSpec(
        weight=weight,
        edges=files.table(section, "edges"),
        source=section.required("source", '"source"'),
        target=section.required("target", '"target"'),
        edge_weight=section.text("edge_weight"),
    )
    if spec.source and spec.source == spec.target:
        section.wrong(f"source and target are both the column '{spec.target}'", "target")
    section.refuse("is for graphs made from features, and this one has edges", "k", "metric", "method")
    if "features" in section:
        section.take("features")  # noted already, as both
    return spec


def _from_features(
    modality: str,
    section: Section,
    files: Files,
    table: TableSpec | None,
    ids: str | None,
    members: Mapping[str, tuple[str, ...]],
    weight: float,
) -> GraphSpec:
    features: tuple[FeatureSpec, ...] = ()
    if "features" in section:
        features = tuple(
            read_feature(modality, feature, files, table, ids, members)
            for feature in section.rows("features")
        )
        section.refuse("is for graphs read from edges", "source", "target", "edge_weight")
    else:  # which it is to be is open
        for key in ("edges", "source", "target", "edge_weight", "features"):
            section.take(key)
    return GraphSpec(
        weight=weight,
        k=section.integer("k", GraphSpec.k, at_least=1),
        metric=section.choice("metric", Metric, GraphSpec.metric),
        method=section.choice("method", NeighbourMethod, GraphSpec.method),
        features=features,
    )


def read_feature(
    modality: str,
    section: Section,
    files: Files,
    table: TableSpec | None,
    ids: str | None,
    members: Mapping[str, tuple[str, ...]],
) -> FeatureSpec:
    """One item of ``features``. Which keys it may have depends on its kind."""
    kind: FeatureKind = section.choice("kind", FeatureKind, "text")
    if section.values.get("kind") != kind:  # which other keys would be right is open
        if "kind" not in section:
            section.wrong(f"kind is missing (expected one of {', '.join(get_args(FeatureKind))})")
        return FeatureSpec(kind)
    weight = section.number("weight", FeatureSpec.weight, above=0)
    if kind == "relation":
        spec = FeatureSpec(kind, relation=_relation(modality, section, members), weight=weight)
    elif kind == "vector" and "file" in section:
        section.refuse("is for vectors in a column, and this one has a file", "column", "table", "id")
        if table is None:
            section.wrong(
                "its rows follow the modality's table, and the modality has none", "file", at_odds=True
            )
        spec = FeatureSpec(kind, file=files.npy(section, "file"), weight=weight)
    else:
        spec = _in_column(kind, section, files, table, ids, weight)
    section.close()
    return spec


def _relation(modality: str, section: Section, members: Mapping[str, tuple[str, ...]]) -> str | None:
    relation = section.required("relation", '"' + next(iter(members), "relation") + '"')
    if relation and relation not in members:
        section.wrong(unknown(f"no relation '{relation}'", relation, members), "relation", at_odds=True)
    elif relation and modality not in members[relation]:
        section.wrong(
            f"relation '{relation}' does not have modality '{modality}' "
            f"(it has {', '.join(members[relation])})",
            "relation",
            at_odds=True,
        )
    return relation


def _in_column(
    kind: FeatureKind, section: Section, files: Files, table: TableSpec | None, ids: str | None, weight: float
) -> FeatureSpec:
    columns: tuple[str, ...] = ()
    column = None
    if kind == "flags":
        columns = section.texts("columns", section.take("columns"))
        section.refuse("is for other kinds, and flags have columns", "column")
    else:
        column = section.required("column", '"name"')
    if kind == "vector":
        section.take("file")  # the other way to give vectors
    separator = None
    if kind == "category":
        separator = section.text("separator", blank=True)
    else:
        section.refuse("only categories have a separator", "separator")
    tables: tuple[TableSpec, ...] = (table,) if table else ()
    if "table" in section:
        tables = files.tables(section, "table")
        ids = section.text("id") or ids
        if ids is None:
            section.wrong("id is missing: the column of the table that says which entity a row is about")
    else:
        section.take("table")
        section.refuse("is for a feature with a table of its own", "id")
        if table is None:
            section.wrong(
                "the modality has no table, so the feature needs a table and an id of its own", at_odds=True
            )
    return FeatureSpec(kind, column, tables, ids, separator, weight=weight, columns=columns)
