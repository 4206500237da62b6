"""Coordinates in the order a store keeps them: unique, and sorted by the longest mode first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hyperlearn_dask.hypergraph.tensor import SparseTensor, narrowest


@dataclass(frozen=True)
class Repeat:
    """The first entry (in the order given) that repeats an earlier one; both are positions."""

    first: int
    second: int


def in_order(
    coords: tuple[np.ndarray, ...],
    values: np.ndarray,
    shape: tuple[int, ...],
    duplicates: Literal["sum", "last", "error"] = "sum",
) -> tuple[SparseTensor, int] | Repeat:
    """Sort entries and apply the rule for duplicates.

    Parameters
    ----------
    coords, values, shape
        The entries in the order they were given.
    duplicates
        ``sum`` adds the values of equal entries, ``last`` keeps the one given last.

    Returns
    -------
    (tensor, merged) or Repeat
        The tensor and how many entries were merged into others; with ``error``, where the first
        repetition is if there is one.
    """
    # Numba is heavy, and what only reads a store does without it.
    from hyperlearn_dask.hypergraph.sorting import stable_order, sum_groups, take

    longest = int(np.argmax(shape))
    modes = [longest, *(mode for mode in range(len(shape)) if mode != longest)]
    order, new = stable_order([coords[mode] for mode in modes], [shape[mode] for mode in modes])
    starts = np.flatnonzero(new)
    merged = len(values) - len(starts)
    if merged and duplicates == "error":
        return _first_repeat(order, starts)
    if merged and duplicates == "last":
        # Equals are in the order given.
        kept = order[np.append(starts[1:], len(order)) - 1]
    else:
        kept = order[starts] if merged else order
    values = sum_groups(values, order, starts) if merged and duplicates == "sum" else take(values, kept)
    narrow = tuple(take(coord, kept, narrowest(size)) for coord, size in zip(coords, shape))
    return SparseTensor(narrow, values, shape), merged


def get_ready() -> None:
    """Load what :func:`in_order` needs, so that it need not: Numba takes a second."""
    in_order((np.zeros(1, dtype=np.int32),), np.ones(1), (1,))


def _first_repeat(order: np.ndarray, starts: np.ndarray) -> Repeat:
    sizes = np.diff(starts, append=len(order))
    repeated = starts[sizes > 1]
    # Equals are in the order given, so the second of each group is the first that repeats another.
    earliest = repeated[np.argmin(order[repeated + 1])]
    return Repeat(int(order[earliest]), int(order[earliest + 1]))
