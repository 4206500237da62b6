"""Tables of sparse rows found by an entity or by a combination of entities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class Shares:
    """Which targets an entity, or a combination of entities, has: CSR (rows x targets).

    ``keys``: the codes (rows,) of the entities or combinations that have hyperedges, ascending.
    ``sizes``: how many entities there are of each modality; a pair (i, j) has the code i * sizes[1] + j.
    """

    modalities: tuple[str, ...]
    sizes: tuple[int, ...]
    keys: np.ndarray
    table: sp.csr_array

    def codes(self, context: Mapping[str, np.ndarray], length: int) -> np.ndarray:
        """The codes (length,) of a batch of contexts; -1 where something is not given or no entity."""
        if any(m not in context for m in self.modalities):
            return np.full(length, -1)
        return code_of([np.asarray(context[m]) for m in self.modalities], self.sizes)

    def rows(self, context: Mapping[str, np.ndarray], length: int) -> sp.csr_array:
        """The rows (length x targets) of a batch of contexts, empty for what has no hyperedges."""
        code = self.codes(context, length)
        place = np.minimum(np.searchsorted(self.keys, code), len(self.keys) - 1)
        there = np.flatnonzero(self.keys[place] == code)
        return picked(self.table, there, place[there], length)


def shares_of(
    coords: Sequence[np.ndarray], targets: np.ndarray, modalities: tuple[str, ...], shape: tuple[int, ...]
) -> Shares:
    """How often each combination of entities (``coords``, one index array per modality) has each target.

    ``shape``: the sizes of the modalities, and of the target last.
    """
    sizes = shape[:-1]
    keys, row = np.unique(code_of(coords, sizes), return_inverse=True)
    table = sp.csr_array((np.ones(len(targets)), (row, targets)), shape=(len(keys), shape[-1]))
    return Shares(modalities, sizes, keys, table)


def code_of(index: Sequence[np.ndarray], sizes: tuple[int, ...]) -> np.ndarray:
    """One number per combination of entities; -1 where one of them is no entity."""
    assert math.prod(sizes) < 2**63
    code = index[0].astype(np.int64)
    for other, size in zip(index[1:], sizes[1:]):
        code = np.where((code < 0) | (other < 0), -1, code * size + other)
    return code


def picked(table: sp.csr_array, there: np.ndarray, which: np.ndarray, length: int) -> sp.csr_array:
    """``length`` rows: ``table[which]`` at the places ``there``, empty ones elsewhere."""
    pick = sp.csr_array((np.ones(len(there)), (there, which)), shape=(length, table.shape[0]))
    return sp.csr_array(pick @ table)


def rows_to_one(table: sp.csr_array) -> sp.csr_array:
    """Rows divided by their sums; empty ones stay."""
    total = table.sum(axis=1)
    return sp.csr_array(sp.diags_array(1 / np.where(total > 0, total, 1)) @ table)
