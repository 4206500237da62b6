"""Compiled passes over a tensor's entries, row by row of its sort mode.

Matrices come with the sort mode's first and the others after it; so do coordinates. Helpers that
take tuples, one item per mode, are unrolled when they are compiled: a pass is straight-line code for
its order, its number of columns and what it is to give.

A thread has an even run of the entries, heavy rows split. It *owns* the rows that begin in its run;
what its run has of a row begun before goes to its line of ``edges``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numba
from numba.extending import overload

from hyperlearn_dask.factorization.kernels.columns import add_to, item, load, no_columns, prefetch, store

# Entries ahead of the present one whose rows are asked for.
AHEAD = 16


@lru_cache
def mttkrp_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass that forms MTTKRPs for so many columns; see :func:`..cpu.mttkrp`.

    Its ``out`` is None where the sort mode is not wanted; ``owns`` has the private outputs
    (threads x rows x columns) of the wanted modes, the first ones after the sort mode.
    """
    is_full = int(full)

    @numba.njit(parallel=True, cache=True)
    def run(starts, coords, values, first, others, out, edges, owns, cuts, rows, column, count):  # type: ignore[no-untyped-def]
        for thread in numba.prange(len(cuts) - 1):
            none = no_columns(first, width, is_full)
            own = _of_thread(owns, thread)
            for row in range(rows[thread] - 1, rows[thread + 1]):
                begun_before = row < rows[thread]
                begin = cuts[thread] if begun_before else starts[row]
                end = min(starts[row + 1], cuts[thread + 1])
                total = none
                a = load(first, row, column, none, count) if begin < end else none
                for e in range(begin, end):
                    ahead = min(e + AHEAD, cuts[thread + 1] - 1)
                    _ask_for(others, coords, ahead, column, none)
                    _ask_for(own, coords, ahead, column, none)
                    factors = _gather(others, coords, e, column, none, count)
                    x = item(values, e)
                    # sort mode: x prod_others; another mode m: x a prod_{others but m}
                    if out is not None:
                        total = total + x * _product(factors)
                    _scatter(own, _all_but_one(factors, x * a), coords, e, column, count)
                if out is not None and begun_before:
                    store(edges, thread, column, total, count)
                if out is not None and not begun_before:
                    store(out, row, column, total, count)

    return run


@lru_cache
def inner_line_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass that sums, column by column, the coefficients of <X, [[A + alpha D]]>.

    ``totals``: (threads, order + 1, width) float64, added to.
    """
    is_full = int(full)

    @numba.njit(parallel=True, cache=True)
    def run(starts, coords, values, first, others, along, others_along, cuts, rows, column, count, totals):  # type: ignore[no-untyped-def]
        for thread in numba.prange(len(cuts) - 1):
            none = no_columns(first, width, is_full)
            for row in range(rows[thread] - 1, rows[thread + 1]):
                begin = cuts[thread] if row < rows[thread] else starts[row]
                end = min(starts[row + 1], cuts[thread + 1])
                if begin >= end:
                    continue
                sums = _as_many((none,), others, none)
                for e in range(begin, end):
                    ahead = min(e + AHEAD, cuts[thread + 1] - 1)
                    _ask_for(others, coords, ahead, column, none)
                    _ask_for(others_along, coords, ahead, column, none)
                    a = _gather(others, coords, e, column, none, count)
                    d = _gather(others_along, coords, e, column, none, count)
                    # sums_k += x [alpha^k] prod_others (a + alpha d)
                    sums = _add_scaled(sums, item(values, e), _multiply_out((a[0], d[0]), a[1:], d[1:]))
                a = load(first, row, column, none, count)
                d = load(along, row, column, none, count)
                _add_all(totals[thread], 0, _times_linear(sums, a, d))

    return run


# Tuples, one item per mode: unrolled by recursion over their types.


def _unrolled(stub: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``stub`` callable in kernels; the decorated function chooses its body by types."""
    return overload(stub, inline="never")


def _of_thread(arrays, thread): ...  # type: ignore[no-untyped-def]
def _ask_for(matrices, coords, e, column, like): ...  # type: ignore[no-untyped-def]
def _gather(matrices, coords, e, column, like, count): ...  # type: ignore[no-untyped-def]
def _scatter(matrices, values, coords, e, column, count): ...  # type: ignore[no-untyped-def]
def _product(values): ...  # type: ignore[no-untyped-def]
def _all_but_one(values, left): ...  # type: ignore[no-untyped-def]
def _as_many(values, others, none): ...  # type: ignore[no-untyped-def]
def _add_scaled(sums, x, values): ...  # type: ignore[no-untyped-def]
def _multiply_out(p, a, d): ...  # type: ignore[no-untyped-def]
def _times_linear(p, a, d): ...  # type: ignore[no-untyped-def]
def _shifted(p, low, a, d): ...  # type: ignore[no-untyped-def]
def _add_all(totals, at, values): ...  # type: ignore[no-untyped-def]


@_unrolled(_of_thread)
def _of_thread_(arrays, thread):  # type: ignore[no-untyped-def]
    if len(arrays) == 0:
        return lambda arrays, thread: ()
    return lambda arrays, thread: (arrays[0][thread], *_of_thread(arrays[1:], thread))


@_unrolled(_ask_for)
def _ask_for_(matrices, coords, e, column, like):  # type: ignore[no-untyped-def]
    if len(matrices) == 0:
        return lambda matrices, coords, e, column, like: None

    def body(matrices, coords, e, column, like):  # type: ignore[no-untyped-def]
        prefetch(matrices[0], item(coords[0], e), column, like)
        _ask_for(matrices[1:], coords[1:], e, column, like)

    return body


@_unrolled(_gather)
def _gather_(matrices, coords, e, column, like, count):  # type: ignore[no-untyped-def]
    if len(matrices) == 0:
        return lambda matrices, coords, e, column, like, count: ()
    return lambda matrices, coords, e, column, like, count: (
        load(matrices[0], item(coords[0], e), column, like, count),
        *_gather(matrices[1:], coords[1:], e, column, like, count),
    )


@_unrolled(_scatter)
def _scatter_(matrices, values, coords, e, column, count):  # type: ignore[no-untyped-def]
    if len(matrices) == 0:
        return lambda matrices, values, coords, e, column, count: None

    def body(matrices, values, coords, e, column, count):  # type: ignore[no-untyped-def]
        i = item(coords[0], e)
        store(matrices[0], i, column, load(matrices[0], i, column, values[0], count) + values[0], count)
        _scatter(matrices[1:], values[1:], coords[1:], e, column, count)

    return body


@_unrolled(_product)
def _product_(values):  # type: ignore[no-untyped-def]
    if len(values) == 1:
        return lambda values: values[0]
    return lambda values: values[0] * _product(values[1:])


@_unrolled(_all_but_one)
def _all_but_one_(values, left):  # type: ignore[no-untyped-def]
    """left times the product of all values but one, for each of them."""
    if len(values) == 1:
        return lambda values, left: (left,)
    return lambda values, left: (
        left * _product(values[1:]),
        *_all_but_one(values[1:], left * values[0]),
    )


@_unrolled(_as_many)
def _as_many_(values, others, none):  # type: ignore[no-untyped-def]
    if len(others) == 0:
        return lambda values, others, none: values
    return lambda values, others, none: _as_many((*values, none), others[1:], none)


@_unrolled(_add_scaled)
def _add_scaled_(sums, x, values):  # type: ignore[no-untyped-def]
    if len(sums) == 0:
        return lambda sums, x, values: ()
    return lambda sums, x, values: (sums[0] + x * values[0], *_add_scaled(sums[1:], x, values[1:]))


@_unrolled(_multiply_out)
def _multiply_out_(p, a, d):  # type: ignore[no-untyped-def]
    """The coefficients of p prod (a + alpha d)."""
    if len(a) == 0:
        return lambda p, a, d: p
    return lambda p, a, d: _multiply_out(_times_linear(p, a[0], d[0]), a[1:], d[1:])


@_unrolled(_times_linear)
def _times_linear_(p, a, d):  # type: ignore[no-untyped-def]
    """The coefficients of p (a + alpha d)."""
    return lambda p, a, d: (p[0] * a, *_shifted(p[1:], p[0], a, d))


@_unrolled(_shifted)
def _shifted_(p, low, a, d):  # type: ignore[no-untyped-def]
    if len(p) == 0:
        return lambda p, low, a, d: (low * d,)
    return lambda p, low, a, d: (p[0] * a + low * d, *_shifted(p[1:], p[0], a, d))


@_unrolled(_add_all)
def _add_all_(totals, at, values):  # type: ignore[no-untyped-def]
    if len(values) == 0:
        return lambda totals, at, values: None

    def body(totals, at, values):  # type: ignore[no-untyped-def]
        add_to(totals, at, values[0])
        _add_all(totals, at + 1, values[1:])

    return body
