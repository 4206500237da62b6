"""Sorting entries by their coordinates: a parallel radix sort, compiled by Numba.

Coordinates are packed into keys of at most 63 bits, and sorted by a key's lowest digit first, a digit of
at most 11 bits a pass. Each pass is a counting sort: every run of entries counts its digits, a running
sum over digits and runs says where each entry goes, and every run moves its own. A pass keeps the order
of equals, so the result depends neither on the number of threads nor on how coordinates are packed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from hyperlearn_dask.compiling.in_runs import in_runs

DIGIT_BITS = 11  # 2048 counters a run stay in the nearest cache
KEY_LIMIT = np.iinfo(np.int64).max


def stable_order(coords: Sequence[np.ndarray], sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts entries by the first coordinate, then the second and so on.

    Parameters
    ----------
    coords
        Integer arrays of one length n, each from 0 to below its size.
    sizes
        Their number of values; the product may exceed 64 bits.

    Returns
    -------
    order, new
        (n,) integers: entry ``order[k]`` comes k-th, equal ones as they were given; (n,) bool: whether
        the k-th differs from the one before it.
    """
    count = len(coords[0])
    order = np.arange(count, dtype=np.int32 if count <= np.iinfo(np.int32).max else np.int64)
    keys = []
    for members, limit in _groups(sizes):
        key = np.zeros(count, dtype=np.int64)
        for at in members:
            _append(count, key, coords[at], sizes[at])
        keys.append((key, limit))
    for key, limit in reversed(keys):
        order, in_order = _sort(key if len(keys) == 1 else take(key, order), order, limit)
    new = np.zeros(count, dtype=np.bool_)
    for key, _ in keys:
        _mark_changes(count, in_order if len(keys) == 1 else take(key, order), new)
    return order, new


def take(source: np.ndarray, entries: np.ndarray, dtype: np.dtype | type | None = None) -> np.ndarray:
    """``source[entries]`` as ``dtype``, by all threads."""
    taken = np.empty(len(entries), dtype=dtype or source.dtype)
    _take(len(entries), source, entries, taken)
    return taken


def sum_groups(values: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The float64 sum of each group ``values[order[starts[g]:starts[g + 1]]]``, one after the other."""
    total = take(values, take(order, starts), np.float64)
    sizes = np.diff(starts, append=len(order))
    several = np.flatnonzero(sizes > 1)  # few, as a rule
    _add_others(len(several), values, order, starts[several], sizes[several], several, total)
    return total


def _groups(sizes: Sequence[int]) -> list[tuple[list[int], int]]:
    """Consecutive coordinates that fit one key together, and how many keys there can be."""
    groups: list[tuple[list[int], int]] = []
    for at, size in enumerate(sizes):
        if groups and groups[-1][1] * size <= KEY_LIMIT:
            members, limit = groups.pop()
            groups.append(([*members, at], limit * size))
        else:
            groups.append(([at], size))
    return groups


def _sort(key: np.ndarray, order: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The entries of ``order``, and their ``key``, sorted by the key, which is below ``limit``."""
    bits = max(1, (limit - 1).bit_length())
    passes = -(-bits // DIGIT_BITS)
    digit = -(-bits // passes)
    bounds = np.linspace(0, len(key), numba.get_num_threads() + 1).astype(np.int64)
    spare = (np.empty_like(key), np.empty_like(key))
    spare_order = (np.empty_like(order), np.empty_like(order))
    for number in range(passes):
        to, to_order = spare[number % 2], spare_order[number % 2]
        runs, shift, mask = len(bounds) - 1, number * digit, (1 << digit) - 1
        counts = np.zeros((runs, mask + 1), dtype=np.int64)
        _count_digits(runs, key, shift, mask, bounds, counts)
        # where each run's next one of a digit goes: after those of lower digits, and of the runs before it
        places = (np.cumsum(counts.T) - counts.T.ravel()).reshape(mask + 1, runs).T.copy()
        _move_by_digit(runs, key, order, shift, mask, bounds, places, to, to_order)
        key, order = to, to_order
    return order, key


@in_runs()
def _count_digits(begin, end, key, shift, mask, bounds, counts):  # type: ignore[no-untyped-def]
    for run in range(begin, end):
        own = counts[run]
        for e in range(bounds[run], bounds[run + 1]):
            own[(key[e] >> shift) & mask] += 1


@in_runs()
def _move_by_digit(begin, end, key, order, shift, mask, bounds, places, to, to_order):  # type: ignore[no-untyped-def]
    for run in range(begin, end):
        own = places[run]
        for e in range(bounds[run], bounds[run + 1]):
            digit = (key[e] >> shift) & mask
            at = own[digit]
            own[digit] = at + 1
            to[at] = key[e]
            to_order[at] = order[e]


@in_runs()
def _append(begin, end, key, coord, size):  # type: ignore[no-untyped-def]
    for e in range(begin, end):
        key[e] = key[e] * size + coord[e]


@in_runs()
def _mark_changes(begin, end, key, new):  # type: ignore[no-untyped-def]
    for k in range(begin, end):
        new[k] |= k == 0 or key[k] != key[k - 1]


@in_runs()
def _take(begin, end, source, entries, taken):  # type: ignore[no-untyped-def]
    for k in range(begin, end):
        taken[k] = source[entries[k]]


@in_runs()
def _add_others(begin, end, values, order, starts, sizes, groups, total):  # type: ignore[no-untyped-def]
    for one in range(begin, end):
        for k in range(starts[one] + 1, starts[one] + sizes[one]):
            total[groups[one]] += values[order[k]]
