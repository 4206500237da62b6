"""The relations of a ``dataset.toml``, and how their columns are coupled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hyperlearn_dask.config.files import NOWHERE, Files
from hyperlearn_dask.config.section import Section, for_example, is_number, shown, unknown
from hyperlearn_dask.config.specs import (
    Absent,
    ColumnSpec,
    Duplicates,
    RelationSpec,
    TrainingSpec,
    Unseen,
)


def read_relation(name: str, section: Section, files: Files, modalities: Sequence[str]) -> RelationSpec:
    """Read and check a relation; ``modalities``: those there are."""
    table = files.table(section, "table", for_example("table", f'"{name}.csv"'), tns=True) or NOWHERE
    numbered = None if table is NOWHERE else table.format == "tns"
    columns = _read_columns(section, modalities, numbered)
    if numbered:
        section.refuse("the last column of a .tns file is the value", "value")
        value = None
    else:
        value = section.text("value")
    test = files.table(section, "test", tns=True)
    if test is None:
        section.refuse("is for relations with a test table", "unseen")
    elif test is not NOWHERE and numbered is (test.format != "tns"):
        section.wrong("either table and test are both .tns files or neither is", "test")
    absent: Absent = section.choice("absent", Absent, RelationSpec.absent)
    # Else what follows from it is not known.
    right = section.values.get("absent") in (None, absent) and not section.misspelt("absent")
    ranked = right and absent != "unknown"
    if ranked:
        section.refuse('has a meaning with absent = "unknown" only', "offset")
    elif right:
        section.refuse('has no meaning with absent = "unknown"', "absent_weight", "evidence")
    evidence = section.flag("evidence", RelationSpec.evidence)
    spec = RelationSpec(
        name=name,
        table=table,
        columns=columns,
        value=value,
        duplicates=section.choice("duplicates", Duplicates, RelationSpec.duplicates),
        test=test,
        target=_read_target(section, columns, absent, evidence and ranked, ranked and test is not None),
        unseen=section.choice("unseen", Unseen, RelationSpec.unseen),
        absent=absent,
        absent_weight=section.number("absent_weight", RelationSpec.absent_weight, above=0),
        weight=section.number("weight", RelationSpec.weight),
        interactions=_read_interactions(section, tuple(columns)),
        offset=RelationSpec.offset if ranked else _read_offset(section),
        evidence=evidence,
        noise=_read_noise(section, columns, ranked),
    )
    section.close()
    return spec


def check_interactions(
    sections: Mapping[str, Section],
    relations: Mapping[str, RelationSpec],
    training: TrainingSpec,
    training_section: Section | None,
) -> None:
    """Note groups of columns that do not exist, and those that no relation uses."""
    if training_section and any(training_section.is_wrong(key) for key in ("rank", "groups")):
        return
    used: set[str] = set()
    for name, spec in relations.items():
        for group in training.groups if spec.interactions is None else spec.interactions:
            used.add(group)
            if group not in training.groups:
                problem = unknown(f"training has no group '{group}'", group, training.groups)
                sections[name].wrong(problem, "interactions", group, at_odds=True)
    if training_section is None or not relations:
        return
    for group in training.groups:
        if group not in used:
            keys = ("groups", group) if "groups" in training_section else ("rank",)
            training_section.wrong(
                f"no relation uses the group '{group}' in its interactions", *keys, at_odds=True
            )


def _read_noise(section: Section, columns: Mapping[str, ColumnSpec], ranked: bool) -> tuple[str, ...]:
    if ranked:
        section.refuse('has a meaning with absent = "unknown" only', "noise")
    if ranked or "noise" not in section:
        section.take("noise")
        return ()
    noise = section.texts("noise", section.take("noise"))
    for modality in noise:
        if modality not in columns:
            section.wrong(unknown(f"the relation has no '{modality}'", modality, columns), "noise")
    return noise


def _read_columns(
    section: Section, modalities: Sequence[str], numbered: bool | None
) -> dict[str, ColumnSpec]:
    two = (*modalities, "artist", "artwork")[:2]
    example = "{ " + ", ".join(f"{m} = {k if numbered else repr(m)}" for k, m in enumerate(two, 1)) + " }"
    table = section.table("columns", for_example("columns", example.replace("'", '"')))
    columns = {}
    for modality in table.values if table else ():
        assert table is not None
        if modality not in modalities:
            table.wrong(unknown(f"no modality '{modality}'", modality, modalities), modality)
        columns[modality] = _read_column(table, modality, numbered)
    if table is not None and len(columns) < 2:
        section.wrong(f"a relation joins at least two modalities, got {len(columns)}", "columns")
    return columns


def _read_column(table: Section, modality: str, numbered: bool | None) -> ColumnSpec:
    value: Any = table.take(modality)
    if numbered is None:  # with a table of no known kind, names and numbers may both be right
        return ColumnSpec(str(value))
    if numbered:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            table.wrong(
                f"expected the number of a column of the .tns file, from 1, got {shown(value)}", modality
            )
        elif list(table.values.values()).index(value) < list(table.values).index(modality):
            table.wrong(f"column {value} is another modality's already", modality)
        return ColumnSpec(str(value))
    if isinstance(value, dict):
        below = table.table(modality)
        assert below is not None
        spec = ColumnSpec(below.required("column", f'"{modality}"'), below.text("separator", blank=True))
        below.close()
        return spec
    return ColumnSpec(table.text(modality) or "")


def _read_target(
    section: Section, columns: Mapping[str, ColumnSpec], absent: Absent, evidence: bool, tested: bool
) -> str | None:
    when = f'with {"a test and " if absent == "zero" else ""}absent = "{absent}"'
    if evidence:
        when = "with evidence"
    missing = f"missing; {when} it names what is ranked ({', '.join(columns)})"
    target = section.text("target", missing if tested or evidence or absent == "context" else None)
    if target is not None and columns and target not in columns:
        section.wrong(
            unknown(f"the relation has no modality '{target}'", target, columns), "target", at_odds=True
        )
    return target


def _read_interactions(section: Section, modalities: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
    table = section.table("interactions")
    if table is None:
        return None
    if not table.values:
        section.wrong("names no group of columns, so nothing would be learned; leave it out", "interactions")
    interactions = {}
    for group, value in table.values.items():
        members = table.texts(group, value)
        for member in members if modalities else ():
            if member not in modalities:
                problem = unknown(f"the relation has no modality '{member}'", member, modalities)
                table.wrong(problem, group, at_odds=True)
        interactions[group] = members
    return interactions


def _read_offset(section: Section) -> float | Literal["mean"]:
    value = section.take("offset")
    if value is None:
        return RelationSpec.offset
    if value == "mean":
        return "mean"
    if not is_number(value):
        section.wrong(f'expected a number or "mean", got {shown(value)}', "offset")
        return 0.0
    return float(value)
