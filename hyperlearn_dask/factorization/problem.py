"""What is to be minimised: the terms of F and which columns each of them couples.

    F(A) = sum_p lambda_p sum_{i in Omega_p} (x_i - xhat_i)^2 + 1/2 sum_m tr(A_m' (mu_m L_m + eps I) A_m)
    xhat_i = sum_r prod_{m in M_p} A_m[i_m, r]

Columns come in groups. A term couples, for each group, a subset of its modalities; a modality that is
not coupled counts as 1 in the product, and a group the term does not use contributes 0.

A modality with an encoder has, for its ridge, what its encoder's parameters cost: see
:mod:`.encoders.encoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from hyperlearn_dask.backend import Array, array_module, beside
from hyperlearn_dask.config import EncoderSpec
from hyperlearn_dask.config.section import unknown
from hyperlearn_dask.errors import InputError

# What an absent entry of a relation can mean.
READINGS = ("zero", "unknown", "context")


@dataclass(frozen=True)
class TermSettings:
    """How a relation enters the objective: see :class:`hyperlearn_dask.config.RelationSpec`."""

    absent: str = "zero"
    weight: float = 1.0
    interactions: Mapping[str, tuple[str, ...]] | None = None
    offset: float | Literal["mean"] = 0.0
    target: str | None = None
    absent_weight: float = 1.0
    evidence: bool = False
    noise: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Term:
    """One relation's part of F.

    ``used``: bool (rank,), the columns the term has; ``coupled``: bool (order, rank), true where the
    mode's own entries are in the product and false where they count as 1. ``background``: w0, the
    weight of absent entries (0 for ``unknown``); ``target_mode``: of ``context``, else -1; ``noise``: the
    modalities whose entities differ in their noise, among posterior draws.
    """

    name: str
    modalities: tuple[str, ...]
    absent: str
    weight: float
    offset: float
    used: np.ndarray
    coupled: np.ndarray
    background: float = 0.0
    target_mode: int = -1
    noise: tuple[str, ...] = ()

    @property
    def context_modes(self) -> list[int]:
        """The modes that make a context: all but the target's."""
        return [mode for mode in range(len(self.modalities)) if mode != self.target_mode]

    def mode(self, modality: str) -> int:
        """The mode of a modality in this term's tensor."""
        return self.modalities.index(modality)

    @cached_property
    def columns(self) -> np.ndarray:
        """Indices of the columns the term uses."""
        return np.flatnonzero(self.used)

    def free(self, mode: int) -> np.ndarray:
        """Positions, within :attr:`columns`, of the columns in which a mode has entries of its own."""
        return np.flatnonzero(self.coupled[mode][self.columns])

    def fixed(self, mode: int) -> np.ndarray:
        """Positions, within :attr:`columns`, of the columns in which a mode counts as 1."""
        return np.flatnonzero(~self.coupled[mode][self.columns])

    def effective(self, mode: int, factor: Array, fill: float = 1.0) -> Array:
        """The matrix (entities x used columns) that enters the product for a mode.

        The factor itself where nothing is fixed, else a copy with ``fill`` in the fixed columns: 1
        for a factor, 0 for a direction.
        """
        if self.used.all() and self.coupled[mode].all():
            return factor
        xp = array_module(factor)
        matrix = xp.ascontiguousarray(factor[:, beside(self.columns, factor)])
        matrix[:, beside(self.fixed(mode), matrix)] = fill
        return matrix


@dataclass(frozen=True, eq=False)
class Problem:
    """The objective without its data: sizes, column groups, terms, graph weights and ridge."""

    sizes: dict[str, int]
    groups: dict[str, int]
    terms: dict[str, Term]
    graph_weights: dict[str, float]  # mu_m of the modalities that have a graph
    ridge: float
    encoders: Mapping[str, EncoderSpec] = field(default_factory=dict)  # of the modalities that are encoded

    @property
    def rank(self) -> int:
        """The number of columns of every factor matrix, over all groups."""
        return sum(self.groups.values())

    def columns_of(self, group: str) -> slice:
        """The columns of a group."""
        start = 0
        for name, width in self.groups.items():
            if name == group:
                return slice(start, start + width)
            start += width
        raise KeyError(group)

    def terms_of(self, modality: str) -> list[Term]:
        """The terms a modality takes part in."""
        return [term for term in self.terms.values() if modality in term.modalities]

    def free_columns(self, modality: str) -> np.ndarray:
        """Indices of the columns in which a modality is coupled by some term: the ones to be solved for."""
        free = np.zeros(self.rank, dtype=bool)
        for term in self.terms_of(modality):
            free |= term.coupled[term.mode(modality)]
        return np.flatnonzero(free)

    def ridge_of(self, modality: str) -> float:
        """What F's ridge weighs a modality's rows with: an encoder's parameters have it instead of them."""
        return 0.0 if modality in self.encoders else self.ridge

    def uses_graph(self, modality: str) -> bool:
        """Whether anything of a modality depends on its graph."""
        convolved = modality in self.encoders and self.encoders[modality].degree > 0
        return convolved or self.graph_weights.get(modality, 0.0) > 0

    def resting_value(self, modality: str) -> np.ndarray:
        """The value (rank,) of a modality's columns that no term couples: 1 where used, 0 elsewhere."""
        used = np.zeros(self.rank, dtype=bool)
        for term in self.terms_of(modality):
            used |= term.used
        return used.astype(np.float64)


def build_problem(
    sizes: Mapping[str, int],
    relations: Mapping[str, tuple[str, ...]],
    settings: Mapping[str, TermSettings],
    groups: Mapping[str, int],
    graph_weights: Mapping[str, float],
    ridge: float,
    encoders: Mapping[str, EncoderSpec] | None = None,
) -> Problem:
    """Lay out the columns and the terms.

    Parameters
    ----------
    sizes
        Entities per modality.
    relations
        The modalities of each relation, in the order of its tensor's modes.
    settings
        How each relation enters the objective; a relation left out has the default settings.
    groups
        Columns per group, in order.
    graph_weights
        mu_m per modality that has a graph.
    ridge
        eps.
    encoders
        Of the modalities whose rows are made by one.
    """
    rank = sum(groups.values())
    bounds = np.cumsum([0, *groups.values()])
    where = {name: slice(bounds[g], bounds[g + 1]) for g, name in enumerate(groups)}
    terms = {}
    for name, modalities in relations.items():
        setting = settings.get(name, TermSettings())
        _check(name, setting)
        interactions = setting.interactions
        if interactions is None:
            interactions = dict.fromkeys(groups, modalities)
        used = np.zeros(rank, dtype=bool)
        coupled = np.zeros((len(modalities), rank), dtype=bool)
        for group, members in interactions.items():
            if group not in where:
                raise InputError(
                    f"unknown column group '{group}' (expected one of {', '.join(groups)})",
                    key=f"relations.{name}.interactions",
                )
            used[where[group]] = True
            for member in members:
                if member not in modalities:
                    raise InputError(
                        f"group '{group}' couples '{member}', which is no modality of the relation "
                        f"(expected some of {', '.join(modalities)})",
                        key=f"relations.{name}.interactions",
                    )
                coupled[modalities.index(member), where[group]] = True
        if not used.any():
            raise InputError("uses no column group at all", key=f"relations.{name}.interactions")
        assert not isinstance(setting.offset, str), "an offset of 'mean' is to be resolved before"
        for member in setting.noise:
            if member not in modalities:
                raise InputError(
                    f"'{member}' is no modality of the relation (expected some of {', '.join(modalities)})",
                    key=f"relations.{name}.noise",
                )
        if setting.target is not None and setting.target not in modalities:
            raise InputError(
                unknown(f"no modality '{setting.target}' in this relation", setting.target, modalities),
                key=f"relations.{name}.target",
            )
        target_mode = -1
        if setting.absent == "context":
            if setting.target is None:
                raise InputError(
                    f"absent = 'context' needs a target (one of {', '.join(modalities)})",
                    key=f"relations.{name}.target",
                )
            target_mode = modalities.index(setting.target)
        terms[name] = Term(
            name,
            tuple(modalities),
            setting.absent,
            setting.weight,
            setting.offset,
            used,
            coupled,
            0.0 if setting.absent == "unknown" else setting.absent_weight,
            target_mode,
            tuple(setting.noise),
        )
    return Problem(dict(sizes), dict(groups), terms, dict(graph_weights), ridge, dict(encoders or {}))


def _check(name: str, setting: TermSettings) -> None:
    """Refuse settings that make no loss."""
    if setting.absent not in READINGS:
        raise InputError(
            f"'{setting.absent}' is not a choice (expected one of {', '.join(READINGS)})",
            key=f"relations.{name}.absent",
        )
    if not setting.weight >= 0:
        raise InputError(
            f"expected a number of at least 0, got {setting.weight}", key=f"relations.{name}.weight"
        )
    if not setting.absent_weight > 0:
        raise InputError(
            f"expected a number above 0, got {setting.absent_weight}", key=f"relations.{name}.absent_weight"
        )
    if isinstance(setting.noise, str):
        raise InputError("expected names of modalities, got one text", key=f"relations.{name}.noise")
    if setting.noise and setting.absent != "unknown":
        raise InputError('has a meaning with absent = "unknown" only', key=f"relations.{name}.noise")
    if setting.offset != 0 and setting.absent != "unknown":
        raise InputError('has a meaning with absent = "unknown" only', key=f"relations.{name}.offset")
