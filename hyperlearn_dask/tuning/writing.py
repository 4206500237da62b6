"""Found settings as TOML: by themselves, or in the text of the ``dataset.toml`` they are for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

from hyperlearn_dask.config.lines import key_lines, value_spans
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.tuning.ledger import Trial
from hyperlearn_dask.tuning.search import Search
from hyperlearn_dask.tuning.space import key_of

Found = dict[tuple[str, ...], float]  # values by the keys of settings


def found_values(trial: Trial) -> Found:
    """The settings of a trial, and the sweeps after which it was best."""
    values = {key_of(name): value for name, value in trial.settings.items()}
    return {**values, ("training", "sweeps"): trial.outcome.sweep}


def snippet(search: Search, share: float) -> str:
    """The best settings as TOML, with a comment that says how good they are. ``share``: held out."""
    best = search.ranked[0]
    lines = [
        f"# hyperlearn tune: trial {best.number} of {len(search.trials)}, {search.metric} "
        f"{best.outcome.figure:.4f} on {share:.0%} of the",
        f"# training hyperedges of '{search.relation}', put aside. `sweeps` is the best of that trial.",
    ]
    if (usual := next((t for t in search.trials if t.number == 0), None)) and usual.outcome.figure:
        lines.append(f"# The settings as they were (trial 0): {usual.outcome.figure:.4f}.")
    tables: dict[tuple[str, ...], list[str]] = {}
    for (*table, key), value in found_values(best).items():
        tables.setdefault(tuple(table), []).append(f"{_quoted(key)} = {_number(value)}")
    for path, pairs in tables.items():
        lines += ["", f"[{'.'.join(map(_quoted, path))}]", *pairs]
    return "\n".join(lines) + "\n"


def written_into(text: str, values: Found) -> str:
    """The text of a ``dataset.toml`` with other values, all else, comments too, as it was.

    Raises
    ------
    InputError
        When a value has no place in a text that is written like this one.
    """
    spans, lines = value_spans(text), key_lines(text)
    ends = [i for i, letter in enumerate(text) if letter == "\n"] + [len(text)]
    edits: list[tuple[int, int, str]] = []
    new_tables: dict[tuple[str, ...], list[str]] = {}
    for path, value in values.items():
        *table, key = path
        pair = f"{_quoted(key)} = {_number(value)}"
        if path in spans:
            edits.append((*spans[path], _number(value)))
        elif tuple(table) in spans:  # an inline table
            begin, end = spans[tuple(table)]
            end = len(text[begin : end - 1].rstrip()) + begin
            edits.append((end, end, f" {pair}" if end == begin + 1 else f", {pair}"))
        elif tuple(table) in lines:  # below its header
            end = ends[lines[tuple(table)] - 1]
            edits.append((end, end, f"\n{pair}"))
        else:
            new_tables.setdefault(tuple(table), []).append(pair)
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    for path, pairs in new_tables.items():
        text = text.rstrip("\n") + f"\n\n[{'.'.join(map(_quoted, path))}]\n" + "\n".join(pairs) + "\n"
    if not _holds(text, values):
        raise InputError("the settings cannot be written into a file like this one; copy them by hand")
    return text


def _holds(text: str, values: Found) -> bool:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return all(_at(found, path) == value for path, value in values.items())


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: float) -> str:
    return repr(value)


def _quoted(key: str | int) -> str:
    text = str(key)
    plain = text.replace("-", "").replace("_", "").isalnum() and text.isascii()
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
