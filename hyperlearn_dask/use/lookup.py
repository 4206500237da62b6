"""From what a person types to the entity they mean."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.tensor import Modality

_SUGGESTIONS = 5


def find(modality: Modality, text: str | int) -> int:
    """The index of the entity called ``text``, a number by its digits.

    An id wins over a label, a label over one that differs only in case, accents or spacing.

    Raises
    ------
    InputError
        When no entity is called so (the closest names are listed), or several are (their ids are).
    """
    text = str(text)
    candidates = np.flatnonzero(modality.ids == text)
    if not len(candidates) and modality.labels is not None:
        candidates = np.flatnonzero(modality.labels == text) if text else candidates
        if not len(candidates):
            folded = fold(text)
            candidates = np.array(
                [i for i, label in enumerate(modality.labels) if label and fold(label) == folded]
            )
    if len(candidates) == 1:
        return int(candidates[0])
    if len(candidates):
        raise InputError(
            f"'{text}' is the name of {len(candidates)} entities of modality '{modality.name}' "
            f"(say which by its id: {_some([str(modality.ids[i]) for i in candidates])})"
        )
    closest = _closest(modality, text)
    hint = f"closest: {_some([repr(name) for name in closest])}" if closest else "nothing is close to it"
    raise InputError(f"no entity of modality '{modality.name}' is called '{text}' ({hint})")


def fold(text: str) -> str:
    """A name without its case, accents and extra spaces."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join(c for c in decomposed if not unicodedata.combining(c)).split())


def _closest(modality: Modality, text: str) -> list[str]:
    """Names that contain the text, or else resemble it."""
    names = {fold(label): label for label in map(modality.label, range(len(modality)))}
    wanted = fold(text)
    if not wanted:
        return []
    close = sorted((name for name in names if wanted in name), key=len)[:_SUGGESTIONS]
    close = close or difflib.get_close_matches(wanted, names, n=_SUGGESTIONS, cutoff=0.5)
    return [names[name] for name in close]


def _some(names: Sequence[str], limit: int = 10) -> str:
    """The first few of a list, as text."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
