"""What is searched: settings of a data set by their keys, and where each may lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from hyperlearn_dask.config import Dataset, Range

Key = tuple[str | int, ...]  # of a setting, as in the file: ("training", "ridge")
Space = Mapping[str, Range]
Settings = Mapping[str, float]  # by name, see name_of

_FACTOR = 10.0  # a weight is looked for between a tenth and ten times what it is


def name_of(key: Key) -> str:
    """A key as one text: ``training.ridge``."""
    return ".".join(map(str, key))


def search_space(dataset: Dataset, relation: str) -> Space:
    """The data set's own ``tune`` table, or the usual settings around where they are.

    Those are the widths of the groups (half to twice; a group of one column is a bias and stays one),
    the ridge, the weights of graphs and the neighbours they have, weights of zeros, and weights of
    relations other than the judged one: F times a number has the same minimum. With posterior draws
    the judged one's weight has a meaning of its own, the precision of the noise.
    """
    if dataset.tune:
        return {name_of(key): range_ for key, range_ in dataset.tune.items()}
    training, space = dataset.training, {}
    for group, width in training.groups.items():
        if width > 1:
            one = list(training.groups) == ["all"]
            space["training.rank" if one else f"training.groups.{group}"] = Range(
                max(1, width // 2), 2 * width, whole=True
            )
    if training.ridge:
        space["training.ridge"] = _around(training.ridge)
    for name, modality in dataset.modalities.items():
        if (graph := modality.graph) is not None:
            if graph.weight:
                space[f"modalities.{name}.graph.weight"] = _around(graph.weight)
            if graph.features and graph.k > 1:
                ks = (graph.k // 2, graph.k, 2 * graph.k)
                space[f"modalities.{name}.graph.k"] = Range(ks[0], ks[-1], whole=True, choices=ks)
    for name, spec in dataset.relations.items():
        if spec.weight and (name != relation or training.draws):
            space[f"relations.{name}.weight"] = _around(spec.weight)
        if spec.absent != "unknown":
            space[f"relations.{name}.absent_weight"] = Range(
                spec.absent_weight / _FACTOR**2, max(spec.absent_weight, 1.0)
            )
    return space


def _around(value: float) -> Range:
    return Range(value / _FACTOR, value * _FACTOR)


def settings_of(dataset: Dataset, space: Space) -> Settings:
    """The settings as the data set has them."""
    return {name: _get(dataset, _path(name)) for name in space}


def lies_in(settings: Settings, space: Space) -> bool:
    """Whether every setting is where it is searched."""
    return all(
        settings[name] in range_.choices if range_.choices else range_.low <= settings[name] <= range_.high
        for name, range_ in space.items()
    )


def with_settings(dataset: Dataset, settings: Settings) -> Dataset:
    """The data set with other settings."""
    for name, value in settings.items():
        dataset = _replaced(dataset, _path(name), value)
    return dataset


def key_of(name: str) -> tuple[str, ...]:
    """The key of a setting in the file; the name of a group may have dots in it."""
    groups = "training.groups."
    return ("training", "groups", name[len(groups) :]) if name.startswith(groups) else tuple(name.split("."))


def _path(name: str) -> list[str]:
    """Where a setting is in a :class:`Dataset`: ``rank`` is the width of the one group."""
    return ["training", "groups", "all"] if name == "training.rank" else list(key_of(name))


def _get(value: Any, path: list[str]) -> Any:
    for key in path:
        value = value[key] if isinstance(value, Mapping) else getattr(value, key)
    return value


def _replaced(value: Any, path: list[str], to: float) -> Any:
    """A value of dataclasses and mappings with another number at a path."""
    if not path:
        return to
    key, *rest = path
    if isinstance(value, Mapping):
        return {**value, key: _replaced(value[key], rest, to)}
    return dataclasses.replace(value, **{key: _replaced(getattr(value, key), rest, to)})
