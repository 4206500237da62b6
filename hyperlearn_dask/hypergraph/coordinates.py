"""Coordinates in the order a store keeps them: unique, and sorted by the longest mode first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hyperlearn_dask.hypergraph.tensor import SparseTensor


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
    order, starts = _groups(coords, shape)
    merged = len(values) - len(starts)
    if merged == 0:
        return SparseTensor(_narrow(coords, order, shape), values[order], shape), 0
    if duplicates == "error":
        return _first_repeat(order, starts)
    if duplicates == "sum":
        # Added up in the order given, so that the sum does not depend on how the sort treats equals.
        group = np.empty(len(values), dtype=np.int64)
        group[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
        kept, values = order[starts], np.bincount(group, weights=values, minlength=len(starts))
    else:
        kept = np.maximum.reduceat(order, starts)
        values = values[kept]
    return SparseTensor(_narrow(coords, kept, shape), values, shape), merged


def row_starts(tensor: SparseTensor) -> np.ndarray:
    """Where each row of the sort mode begins in the entries, and where the last one ends."""
    mode = tensor.sort_mode
    return np.searchsorted(tensor.coords[mode], np.arange(tensor.shape[mode] + 1)).astype(np.int64)


def _groups(coords: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A sorting order, and the positions in it where a new group of equal entries begins."""
    longest = int(np.argmax(shape))
    modes = [longest, *(mode for mode in range(len(shape)) if mode != longest)]
    if math.prod(shape) <= np.iinfo(np.int64).max:
        # One key that orders entries: their place in the dense tensor, longest mode outermost.
        key = np.zeros(len(coords[0]), dtype=np.int64)
        for mode in modes:
            key = key * shape[mode] + coords[mode]
        order = np.argsort(key)
        keys: tuple[np.ndarray, ...] = (key[order],)
    else:
        order = np.lexsort(tuple(coords[mode] for mode in reversed(modes)))
        keys = tuple(coords[mode][order] for mode in modes)
    new = np.ones(len(order), dtype=bool)
    if len(order):
        new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return order, np.flatnonzero(new)


def _first_repeat(order: np.ndarray, starts: np.ndarray) -> Repeat:
    best: Repeat | None = None
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1]):
        first, second, *_ = np.sort(order[start : start + size]).tolist()
        if best is None or second < best.second:
            best = Repeat(first, second)
    assert best is not None
    return best


def _narrow(
    coords: tuple[np.ndarray, ...], entries: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, ...]:
    """The coordinates of some entries in 32 bits, where a mode does not need more."""
    limit = np.iinfo(np.int32).max
    return tuple(
        coord[entries].astype(np.int32 if size <= limit else np.int64) for coord, size in zip(coords, shape)
    )
