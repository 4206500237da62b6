"""A ``dataset.toml`` from file to :class:`Dataset`, checked as a whole."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hyperlearn_dask.config.encoder import read_encoder, read_settings
from hyperlearn_dask.config.files import Files
from hyperlearn_dask.config.graph import read_graph
from hyperlearn_dask.config.lines import key_lines
from hyperlearn_dask.config.relation import check_interactions, read_relation
from hyperlearn_dask.config.section import Mistakes, Section, shown, unknown
from hyperlearn_dask.config.specs import (
    Dataset,
    Dtype,
    EncoderSpec,
    Hyperparameters,
    ModalitySpec,
    PlacementSpec,
    RelationSpec,
    Schedule,
    Scheme,
    Start,
    TrainingSpec,
)
from hyperlearn_dask.config.tune import read_tune
from hyperlearn_dask.errors import InputError

FILE = "dataset.toml"


def load_dataset(path: str | Path, *, folder: str | Path | None = None) -> Dataset:
    """Read and check a data set's settings.

    Parameters
    ----------
    path
        A ``dataset.toml``, or the folder it lies in.
    folder
        What paths in the file are relative to; None: the folder of the file.

    Returns
    -------
    Dataset
        With all paths absolute.

    Raises
    ------
    InputError
        The first mistake in the file, with its line and key, followed by the keys of all others.
    """
    file = Path(path)
    try:
        if file.is_dir():
            file = file / FILE
        content = file.read_bytes()
    except FileNotFoundError:
        if Path(path).is_dir():
            raise InputError(f"no {FILE} in this folder", file=path) from None
        raise InputError(f"no such file; expected a {FILE} or the folder of one", file=path) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read ({reason})", file=path) from None
    text = _decode(content, file)
    values = _parse(text, file)
    mistakes = Mistakes(file, key_lines(text))
    files = Files(Path(folder).resolve() if folder is not None else file.resolve().parent)
    dataset = _read_dataset(Section(values, (), mistakes), file.resolve(), files)
    mistakes.raise_any()
    return dataset


def training_from(settings: Mapping[str, Any]) -> TrainingSpec:
    """Check training settings that come from elsewhere, like those of the command line.

    Examples
    --------
    >>> training_from({"rank": 4, "sweeps": 10}).groups
    {'all': 4}
    """
    mistakes = Mistakes()
    training = _read_training(Section(dict(settings), ("training",), mistakes))
    mistakes.raise_any()
    return training


def placement_from(settings: Mapping[str, Any], modalities: Collection[str]) -> PlacementSpec:
    """Check placement settings that come from elsewhere, in the same way.

    Examples
    --------
    >>> placement_from({"scheme": "owner", "owners": {"artist": 1}}, ["artist"]).owners
    {'artist': '1'}
    """
    mistakes = Mistakes()
    placement = _read_placement(Section(dict(settings), ("placement",), mistakes), modalities)
    mistakes.raise_any()
    return placement


def encoder_from(modality: str, settings: Mapping[str, Any]) -> EncoderSpec:
    """Check the settings of a modality's encoder that come from elsewhere.

    Examples
    --------
    >>> encoder_from("artwork", {"degree": 2}).degree
    2
    """
    mistakes = Mistakes()
    spec = read_settings(Section(dict(settings), ("modalities", modality, "encoder"), mistakes))
    mistakes.raise_any()
    return spec


def _decode(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")  # Windows editors begin UTF-8 files with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not UTF-8 text (byte {content[error.start]:#04x}); save the file with UTF-8 encoding"
        raise InputError(problem, file=file, line=line) from None


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("not valid TOML: nested too deeply", file=file) from None
    except ValueError as error:  # TOMLDecodeError, and numbers with thousands of digits
        problem, line = str(error), None
        if at := re.search(r" \(at line (\d+), column (\d+)\)$", problem):
            problem, line = f"{problem[: at.start()]} at column {at[2]}", int(at[1])
        elif problem.endswith(" (at end of document)"):
            problem, line = problem.replace(" (at end", " at the end").rstrip(")"), text.count("\n") + 1
        raise InputError(f"not valid TOML: {problem}", file=file, line=line) from None


def _read_dataset(top: Section, file: Path, files: Files) -> Dataset:
    name = top.text("name") or file.parent.name
    title = top.text("title") or name
    modality_sections = dict(top.tables("modalities", "missing; a data set has [modalities.NAME] tables"))
    relation_sections = dict(top.tables("relations", "missing; a data set has at least one [relations.NAME]"))
    training_section = top.table("training")
    tune_section = top.table("tune")
    placement_section = top.table("placement")
    top.close()
    names = tuple(top.values["modalities"]) if modality_sections else ()
    training = _read_training(training_section) if training_section else TrainingSpec()
    relations = {
        relation: read_relation(relation, section, files, names)
        for relation, section in relation_sections.items()
    }
    members = {relation: tuple(spec.columns) for relation, spec in relations.items()}
    modalities = {
        modality: _read_modality(modality, section, files, members)
        for modality, section in modality_sections.items()
    }
    if relations and not any(spec.weight for spec in relations.values()):
        next(iter(relation_sections.values())).wrong(
            "0 in every relation: nothing would be learned", "weight"
        )
    for relation, spec in relations.items():
        if spec.noise and training.hyperparameters != "sampled":
            relation_sections[relation].wrong(
                'is drawn with the hyperparameters; training needs hyperparameters = "sampled"',
                "noise",
                at_odds=True,
            )
    check_interactions(relation_sections, relations, training, training_section)
    if training_section:
        _check_validation(training_section, training, relations, modalities)
    tune = read_tune(tune_section, training, relations, modalities) if tune_section else {}
    placement = _read_placement(placement_section, names) if placement_section else PlacementSpec()
    return Dataset(file, name, title, modalities, relations, training, tune, placement)


def _read_modality(
    name: str, section: Section, files: Files, members: Mapping[str, tuple[str, ...]]
) -> ModalitySpec:
    table = files.table(section, "table")
    ids = label = None
    if table is None:
        section.refuse("has no meaning without a table", "id", "label")
        if not any(name in modalities for modalities in members.values()):
            section.wrong(
                "no relation has this modality and it has no table, so it has no entities", at_odds=True
            )
    else:
        ids = section.required("id", f'"{name}"')
        label = section.text("label")
    graph_section, encoder_section = section.table("graph"), section.table("encoder")
    section.close()
    graph = encoder = None
    if graph_section is not None:
        graph = read_graph(name, graph_section, files, table, ids, members)
    if encoder_section is not None:
        encoder = read_encoder(name, encoder_section, files, table, ids, members, graph)
    return ModalitySpec(name, table, ids, label, graph, encoder)


def _read_training(section: Section) -> TrainingSpec:
    usual = TrainingSpec()
    groups = usual.groups
    if "groups" in section:
        section.refuse("is at odds with groups: rank makes one group of columns, 'all'", "rank")
        groups = _read_groups(section)
    else:
        groups = {"all": section.integer("rank", groups["all"], at_least=1)}
        section.take("groups")
    training = TrainingSpec(
        groups=groups,
        schedule=section.choice("schedule", Schedule, usual.schedule),
        sweeps=section.integer("sweeps", usual.sweeps, at_least=1),
        tolerance=section.number("tolerance", usual.tolerance),
        validation=section.text("validation"),
        held_out=section.number("held_out", usual.held_out, above=0),
        patience=section.integer("patience", usual.patience, at_least=1),
        ridge=section.number("ridge", usual.ridge),
        start=section.choice("start", Start, usual.start),
        draws=section.integer("draws", usual.draws, at_least=0),
        burn_in=section.integer("burn_in", usual.burn_in, at_least=0),
        hyperparameters=section.choice("hyperparameters", Hyperparameters, usual.hyperparameters),
        seed=section.integer("seed", usual.seed, at_least=0),
        dtype=section.choice("dtype", Dtype, usual.dtype),
    )
    if training.draws and training.ridge == 0:
        section.wrong("posterior draws need a ridge above 0: without it the posterior has no bounds", "draws")
    if training.hyperparameters == "sampled" and not training.draws:
        section.wrong("are sampled among posterior draws, and draws = 0 makes none", "hyperparameters")
    if training.held_out >= 1:
        section.wrong(f"expected a share below 1, got {training.held_out:g}", "held_out")
    section.close()
    return training


def _check_validation(
    section: Section,
    training: TrainingSpec,
    relations: Mapping[str, RelationSpec],
    modalities: Mapping[str, ModalitySpec],
) -> None:
    """Note a relation that is none, or that cannot be held out."""
    name = training.validation
    if name is None or not relations:
        return
    if name not in relations:
        section.wrong(unknown(f"no relation '{name}'", name, relations), "validation", at_odds=True)
    for modality, spec in modalities.items():
        for what, made in (("graph", spec.graph), ("encoder", spec.encoder)):
            if made is not None and name in made.relations:
                seen = f"is built from '{name}', so it has seen what would be held out"
                section.wrong(f"the {what} of '{modality}' {seen}", "validation", at_odds=True)


def _read_groups(section: Section) -> dict[str, int]:
    groups = section.table("groups")
    if groups is None:
        return {"all": 1}
    if not groups.values:
        section.wrong("expected at least one group of columns like { shared = 10 }", "groups")
    return {name: groups.integer(name, 1, at_least=1) for name in groups.values}


def _read_placement(section: Section, modalities: Collection[str]) -> PlacementSpec:
    usual = PlacementSpec()
    owners = section.table("owners")
    placement = PlacementSpec(
        section.choice("scheme", Scheme, usual.scheme),
        section.integer("shards", usual.shards, at_least=0),
        {} if owners is None else {m: _worker_name(owners, m) for m in owners.values},
    )
    for modality in placement.owners:
        if owners is not None and modality not in modalities:
            owners.wrong(unknown("no such modality", modality, modalities), modality)
    section.close()
    return placement


def _worker_name(owners: Section, modality: str) -> str:
    """Text, or the number that workers of a local cluster have for a name."""
    name = owners.take(modality)
    if isinstance(name, str) and name.strip():
        return name
    if isinstance(name, bool) or not isinstance(name, int) or name < 0:
        owners.wrong(f"expected the name or number of a worker, got {shown(name)}", modality)
    return str(name)
