"""The ``encoder`` of a modality in a ``dataset.toml``."""

from __future__ import annotations

from hyperlearn_dask.config.section import Section
from hyperlearn_dask.config.specs import EncodedFrom, EncoderSpec


def read_encoder(section: Section) -> EncoderSpec:
    """Read and check an encoder's settings."""
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
