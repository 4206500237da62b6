"""The ``encoder`` of a modality in a ``dataset.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hyperlearn_dask.config.files import Files
from hyperlearn_dask.config.graph import read_feature
from hyperlearn_dask.config.section import Section
from hyperlearn_dask.config.specs import EncodedFrom, EncoderSpec, GraphSpec, TableSpec


def read_encoder(
    modality: str,
    section: Section,
    files: Files,
    table: TableSpec | None,
    ids: str | None,
    members: Mapping[str, tuple[str, ...]],
    graph: GraphSpec | None,
) -> EncoderSpec:
    """Read and check an encoder.

    Parameters
    ----------
    modality, table, ids
        The modality, its table and the column of its ids there.
    members
        The modalities of each relation.
    graph
        The modality's graph, whose features the encoder has if it names none.
    """
    shared = graph.features if graph is not None else ()
    features = shared
    if "features" in section:
        given = section.rows("features")
        features = tuple(read_feature(modality, one, files, table, ids, members) for one in given)
    else:
        section.take("features")
    spec = read_settings(section)
    if spec.on == "free":
        if "features" in section:
            section.wrong('is for an encoder with on = "features"', "features", at_odds=True)
        features = ()
    elif not features:
        section.wrong("features are missing, and there is no graph with some that it could share")
    if spec.degree > 0 and graph is None:
        section.wrong("the modality has no graph; degree = 0 needs none", "degree", at_odds=True)
    return replace(spec, features=features)


def read_settings(section: Section) -> EncoderSpec:
    """Read and check all settings of an encoder but its features."""
    usual = EncoderSpec()
    spec = EncoderSpec(
        on=section.choice("on", EncodedFrom, usual.on),
        degree=section.integer("degree", usual.degree, at_least=0),
        decay=section.number("decay", usual.decay, above=0),
        own=section.flag("own", usual.own),
    )
    if spec.on == "free" and spec.own:
        section.wrong("free rows are the entities' own already", "own")
    section.close()
    return spec
