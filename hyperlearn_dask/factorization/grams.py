"""Gram matrices, from which every term takes the part it needs, and the rest of the algebra of factors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

from hyperlearn_dask.backend import Array, array_module, to_host
from hyperlearn_dask.factorization.kernels import dense
from hyperlearn_dask.factorization.problem import Term

ROWS_AT_ONCE = 1 << 20  # of a factor on a device, copied to float64


def augmented_gram(factor: Array) -> np.ndarray:
    """[A 1]'[A 1], (rank + 1, rank + 1) in float64 on the host; the last row and column: fixed columns."""
    return _augmented(factor, _products([(factor, factor)])[0])


def augmented_grams(factor: Array, direction: Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The augmented Grams of A'A, A'D + D'A and D'D, with a direction D whose fixed columns are 0."""
    pairs = [(factor, factor), (factor, direction), (direction, direction)]
    aa, ad, dd = (_augmented(factor, product) for product in _products(pairs))
    # of [A 1]'[D 0] and [D 0]'[D 0]
    ad[:, -1] = 0
    dd[-1, :] = dd[:, -1] = 0
    return aa, ad + ad.T, dd


def _augmented(factor: Array, product: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """[left 1]'[right 1] out of left' right and 1' right."""
    rank = factor.shape[1]
    gram = np.empty((rank + 1, rank + 1))
    gram[:rank, :rank], gram[rank, :rank] = product
    gram[:rank, rank] = gram[rank, :rank]
    gram[rank, rank] = len(factor)
    return gram


def _products(pairs: Sequence[tuple[Array, Array]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """left' right and 1' right, of pairs."""
    if array_module(pairs[0][0]) is np:
        return dense.grams(tuple(pairs))
    return [_products_on_device(left, right) for left, right in pairs]


def _products_on_device(left: Array, right: Array) -> tuple[np.ndarray, np.ndarray]:
    xp = array_module(left)
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


def spectrum(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """w, ascending, and Q of a symmetric H = Q diag(w) Q'."""
    # LAPACK's own threads would wait for a core on which the kernels' threads still spin: of 512 columns for
    # 3.8 s, where one thread takes 0.08.
    with _libraries().limit(limits=1, user_api="blas"):
        w, q = np.linalg.eigh(gram)
    return w, q


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def inner(a: Array, b: Array) -> float:
    """<A, B>, added up in float64."""
    return float((a * b).sum(dtype=np.float64))


def moved(start: Array, step: float, direction: Array, *, spent: bool = False) -> Array:
    """A + alpha D, in A's dtype; in D's place if it is ``spent``."""
    if array_module(start) is np and start.flags.c_contiguous and direction.flags.c_contiguous:
        return dense.moved(start, step, direction, direction if spent else None)
    if not spent:
        return start + start.dtype.type(step) * direction
    direction *= start.dtype.type(step)
    direction += start
    return direction


def scaled(matrix: Array, number: float) -> Array:
    """A matrix times a number, in its dtype and in C order; in its place where it can be written there."""
    xp = array_module(matrix)
    if xp is np:
        own = matrix if matrix.flags.c_contiguous and matrix.flags.writeable else matrix.copy()
        dense.scale(own, number)
        return own
    return xp.ascontiguousarray(matrix) * matrix.dtype.type(number)


def add_scaled(total: Array, number: float, matrix: Array) -> None:
    """total += number * matrix, in the place and the dtype of total."""
    alike = total.shape == matrix.shape and total.dtype == matrix.dtype
    if array_module(total) is np and alike and total.flags.c_contiguous and matrix.flags.c_contiguous:
        dense.add(total, number, matrix)
    else:
        total += number * matrix
