"""The ``tune`` table of a ``dataset.toml``: which settings are searched, and where.

It mirrors the file: ``training.ridge = [0.1, 10]`` in it is about ``ridge`` in ``[training]``. Two numbers
are the ends of a range, three or more are all there is to choose from.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from hyperlearn_dask.config.lines import KeyPath
from hyperlearn_dask.config.section import Section, is_number, shown, unknown
from hyperlearn_dask.config.specs import ModalitySpec, Range, RelationSpec, TrainingSpec

Space = dict[KeyPath, Range]


def read_tune(
    section: Section,
    training: TrainingSpec,
    relations: Mapping[str, RelationSpec],
    modalities: Mapping[str, ModalitySpec],
) -> Space:
    """Read and check the table; keys are those of the settings, without ``tune``."""
    space: Space = {}
    if below := section.table("training"):
        if list(training.groups) == ["all"]:
            _take(space, below, "rank", whole=True)
        else:
            below.refuse("the data set's columns come in groups; name those: groups.NAME", "rank")
        if groups := below.table("groups"):
            for group in groups.values:
                if group not in training.groups:
                    problem = unknown(f"training has no group '{group}'", group, training.groups)
                    groups.wrong(problem, group, at_odds=True)
                _take(space, groups, group, whole=True)
        _take(space, below, "ridge")
        below.close()
    for name, relation in _named(section, "relations", relations):
        _take(space, relation, "weight")
        if relations[name].absent == "unknown":
            relation.refuse('has no meaning with absent = "unknown"', "absent_weight")
        else:
            _take(space, relation, "absent_weight", above=True)
        relation.close()
    for name, modality in _named(section, "modalities", modalities):
        graph, spec = modality.table("graph"), modalities[name].graph
        modality.close()
        if graph is None:
            continue
        if spec is None:
            graph.wrong(f"the modality '{name}' has no graph", at_odds=True)
            continue
        _take(space, graph, "weight")
        if spec.features:
            _take(space, graph, "k", whole=True)
        else:
            graph.refuse("is for graphs made from features, and this one has edges", "k")
        graph.close()
    section.close()
    if not space and not section.mistakes.below(section.path):
        section.wrong("names no setting to search; leave the table out for the usual ones")
    return space


def _named(section: Section, key: str, known: Mapping[str, object]) -> list[tuple[str, Section]]:
    """The tables below ``key`` whose names are known."""
    group = section.table(key)
    found = []
    for name in group.values if group else ():
        assert group is not None
        if name not in known:
            group.wrong(unknown(f"no such name among {key}: '{name}'", name, known), name, at_odds=True)
        elif below := group.table(name):
            found.append((name, below))
    return found


def _take(space: Space, section: Section, key: str, *, whole: bool = False, above: bool = False) -> None:
    """Add a key's range, if it is there: of ``whole`` numbers from 1, or of numbers from (``above``) 0."""
    value = section.take(key)
    if value is None:
        return
    numbers = value if isinstance(value, list) else []
    kind = "whole numbers from 1" if whole else "numbers above 0" if above else "numbers of at least 0"

    def right(number: object) -> bool:
        if whole:
            return isinstance(number, int) and not isinstance(number, bool) and 1 <= number < 1 << 31
        return is_number(number) and (number > 0 if above else number >= 0)  # type: ignore[operator]

    rising = all(map(right, numbers)) and all(a < b for a, b in itertools.pairwise(numbers))
    if len(numbers) < 2 or not rising:
        got = f"[{', '.join(map(shown, numbers))}]" if numbers else shown(value)
        section.wrong(
            f"expected {kind}, rising: [low, high], or three and more to choose from; got {got}", key
        )
        return
    typed = tuple(int(n) if whole else float(n) for n in numbers)
    choices = typed if len(typed) > 2 else ()
    space[(*section.path[1:], key)] = Range(typed[0], typed[-1], whole, choices)
