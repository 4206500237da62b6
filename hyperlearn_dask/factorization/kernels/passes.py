"""Compiled passes over a tensor's entries, row by row of its sort mode.

Matrices come with the sort mode's first and the others after it; so do coordinates. Helpers that
take tuples, one item per mode, are unrolled when they are compiled: a pass is straight-line code for
its order, its number of columns and what it is to give.

A thread has an even run of the entries, heavy rows split. It *owns* the rows that begin in its run;
what its run has of a row begun before goes to its line of ``edges``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, reduce
from itertools import accumulate, pairwise
from operator import mul

from numba import types

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels.columns import (
    add_to,
    item,
    load,
    no_columns,
    prefetch,
    store,
)
from hyperlearn_dask.factorization.kernels.symbols import in_kernels

# Entries ahead of the present one whose rows are asked for.
AHEAD = 16


@lru_cache
def mttkrp_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass that forms MTTKRPs for so many columns; see :func:`..cpu.mttkrp`.

    Its ``out`` is None where the sort mode is not wanted; ``owns`` has the private outputs
    (threads x rows x columns) of the wanted modes, the first ones after the sort mode.
    """
    is_full = int(full)

    @in_runs()
    def run(begin, end, starts, coords, values, first, others, out, edges, owns, cuts, rows, column, count):  # type: ignore[no-untyped-def]
        for thread in range(begin, end):
            none = no_columns(first, width, is_full)
            for row in range(rows[thread] - 1, rows[thread + 1]):
                begun_before = row < rows[thread]
                start = cuts[thread] if begun_before else starts[row]
                stop = min(starts[row + 1], cuts[thread + 1])
                total = none
                a = load(first, row, column, none, count) if start < stop else none
                for e in range(start, stop):
                    ahead = min(e + AHEAD, cuts[thread + 1] - 1)
                    _ask_for(others, coords, ahead, column, none)
                    _ask_for_own(owns, thread, coords, ahead, column, none)
                    factors = _gather(others, coords, e, column, none, count)
                    x = item(values, e)
                    # sort mode: x prod_others; another mode m: x a prod_{others but m}
                    if out is not None:
                        total = total + x * _product(factors)
                    _scatter(owns, thread, _all_but_one(factors, x * a), coords, e, column, count)
                if out is not None and begun_before:
                    store(edges, thread, column, total, count)
                if out is not None and not begun_before:
                    store(out, row, column, total, count)

    return run


@lru_cache
def inner_line_pass(width: int, full: bool) -> Callable[..., None]:
    """The pass that sums, column by column, the coefficients of <X, [[A + alpha D]]>.

    ``totals``: (threads, order + 1, width) float64, added to. ``firsts``: the sort mode's A and D; ``ways``:
    the others' D.
    """
    is_full = int(full)

    @in_runs()
    def run(begin, end, starts, coords, values, firsts, others, ways, cuts, rows, column, count, totals):  # type: ignore[no-untyped-def]
        first, along = firsts
        for thread in range(begin, end):
            none = no_columns(first, width, is_full)
            for row in range(rows[thread] - 1, rows[thread + 1]):
                start = cuts[thread] if row < rows[thread] else starts[row]
                stop = min(starts[row + 1], cuts[thread + 1])
                if start >= stop:
                    continue
                sums = _zeros(none, others)
                for e in range(start, stop):
                    ahead = min(e + AHEAD, cuts[thread + 1] - 1)
                    _ask_for(others, coords, ahead, column, none)
                    _ask_for(ways, coords, ahead, column, none)
                    a = _gather(others, coords, e, column, none, count)
                    d = _gather(ways, coords, e, column, none, count)
                    # sums_k += x [alpha^k] prod_others (a + alpha d)
                    sums = _add_scaled(sums, item(values, e), _multiply_out(a, d))
                a = load(first, row, column, none, count)
                d = load(along, row, column, none, count)
                _add_all(totals, thread, _times_linear(sums, a, d))

    return run


# Tuples, one item per mode, of symbols.


@in_kernels()
def _ask_for(matrices, coords, e, column, like):  # type: ignore[no-untyped-def]
    """The rows that entry e needs are to be read soon."""
    for matrix, index in zip(matrices, coords):
        prefetch(matrix, item(index, e), column, like)


@in_kernels()
def _ask_for_own(owns, thread, coords, e, column, like):  # type: ignore[no-untyped-def]
    _ask_for([own[thread] for own in owns], coords, e, column, like)


@in_kernels(lambda matrices, coords, e, column, like, count: types.UniTuple(like, len(matrices)))
def _gather(matrices, coords, e, column, like, count):  # type: ignore[no-untyped-def]
    """The rows of entry e."""
    return [load(matrix, item(index, e), column, like, count) for matrix, index in zip(matrices, coords)]


@in_kernels()
def _scatter(owns, thread, values, coords, e, column, count):  # type: ignore[no-untyped-def]
    """Add to the rows of entry e."""
    for own, value, index in zip(owns, values, coords):
        matrix, i = own[thread], item(index, e)
        store(matrix, i, column, load(matrix, i, column, value, count) + value, count)


@in_kernels(lambda values: values[0])
def _product(values):  # type: ignore[no-untyped-def]
    return reduce(mul, values)


@in_kernels(lambda values, left: values)
def _all_but_one(values, left):  # type: ignore[no-untyped-def]
    """left times the product of all values but one, for each of them."""
    before = accumulate(values[:-1], mul, initial=left)
    return [reduce(mul, values[k + 1 :], product) for k, product in enumerate(before)]


@in_kernels(lambda none, others: types.UniTuple(none, len(others) + 1))
def _zeros(none, others):  # type: ignore[no-untyped-def]
    """The sums of the coefficients of a product over the other modes, before the first."""
    return [none] * (len(others) + 1)


@in_kernels(lambda sums, x, values: sums)
def _add_scaled(sums, x, values):  # type: ignore[no-untyped-def]
    return [total + x * value for total, value in zip(sums, values)]


@in_kernels(lambda a, d: types.UniTuple(a[0], len(a) + 1))
def _multiply_out(a, d):  # type: ignore[no-untyped-def]
    """The coefficients of prod (a + alpha d)."""
    return reduce(lambda p, factor: _times_linear(p, *factor), zip(a[1:], d[1:]), (a[0], d[0]))


@in_kernels(lambda p, a, d: types.UniTuple(a, len(p) + 1))
def _times_linear(p, a, d):  # type: ignore[no-untyped-def]
    """The coefficients of p (a + alpha d)."""
    return (p[0] * a, *(high * a + low * d for low, high in pairwise(p)), p[-1] * d)


@in_kernels()
def _add_all(totals, thread, values):  # type: ignore[no-untyped-def]
    """totals[thread, k] += values[k], in float64."""
    for k, value in enumerate(values):
        add_to(totals[thread], k, value)
