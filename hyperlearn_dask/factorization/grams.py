"""Gram matrices from which every term takes the part it needs."""

from __future__ import annotations

import numpy as np

from hyperlearn_dask.backend import Array
from hyperlearn_dask.factorization.problem import Term


def augmented_gram(left: Array, right: Array | None = None) -> np.ndarray:
    """[A 1]'[A 1], or with a direction D, whose fixed columns are 0, [A 1]'[D 0].

    float64 on the host, (rank + 1, rank + 1); the last row and column belong to fixed columns.
    """
    rank = left.shape[1]
    gram = np.zeros((rank + 1, rank + 1))
    if right is None:
        gram[:rank, :rank] = _host(left.T @ left)
        gram[rank, :rank] = gram[:rank, rank] = _host(left.sum(axis=0, dtype=np.float64))
        gram[rank, rank] = len(left)
    else:
        gram[:rank, :rank] = _host(left.T @ right)
        gram[rank, :rank] = _host(right.sum(axis=0, dtype=np.float64))
    return gram


def term_gram(term: Term, mode: int, gram: np.ndarray) -> np.ndarray:
    """The Gram of a mode's effective matrix (used x used), taken out of an augmented Gram."""
    last = len(gram) - 1
    columns = np.where(term.coupled[mode], np.arange(last), last)[term.columns]
    return gram[np.ix_(columns, columns)]


def _host(array: Array) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array
