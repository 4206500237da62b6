"""Gram matrices, from which every term takes the part it needs, and the rest of the algebra of factors."""

from __future__ import annotations

import numpy as np

from hyperlearn_dask.backend import Array, array_module, to_host
from hyperlearn_dask.factorization.kernels import dense
from hyperlearn_dask.factorization.problem import Term

ROWS_AT_ONCE = 1 << 20  # of a factor on a device, copied to float64


def augmented_gram(left: Array, right: Array | None = None) -> np.ndarray:
    """[A 1]'[A 1], or with a direction D, whose fixed columns are 0, [A 1]'[D 0].

    float64 on the host, (rank + 1, rank + 1); the last row and column belong to fixed columns.
    """
    rank = left.shape[1]
    gram = np.zeros((rank + 1, rank + 1))
    gram[:rank, :rank], gram[rank, :rank] = _products(left, left if right is None else right)
    if right is None:
        gram[:rank, rank] = gram[rank, :rank]
        gram[rank, rank] = len(left)
    return gram


def _products(left: Array, right: Array) -> tuple[np.ndarray, np.ndarray]:
    """left' right and 1' right."""
    xp = array_module(left)
    if xp is np:
        return dense.gram(left, right)
    # Summed in float64, some rows at a time: a copy of a whole factor might not fit.
    total = xp.zeros((left.shape[1] + 1, right.shape[1]))
    for start in range(0, len(left), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = right[rows].astype(np.float64)
        total[:-1] += left[rows].astype(np.float64).T @ part
        total[-1] += part.sum(axis=0)
    gram = to_host(total)
    return gram[:-1], gram[-1]


def term_gram(term: Term, mode: int, gram: np.ndarray) -> np.ndarray:
    """The Gram of a mode's effective matrix (used x used), taken out of an augmented Gram."""
    last = len(gram) - 1
    columns = np.where(term.coupled[mode], np.arange(last), last)[term.columns]
    return gram[np.ix_(columns, columns)]


def inner(a: Array, b: Array) -> float:
    """<A, B>, added up in float64."""
    return float((a * b).sum(dtype=np.float64))


def moved(start: Array, step: float, direction: Array) -> Array:
    """A + alpha D, in A's dtype."""
    if array_module(start) is np and start.flags.c_contiguous and direction.flags.c_contiguous:
        return dense.moved(start, step, direction)
    return start + start.dtype.type(step) * direction
