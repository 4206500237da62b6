"""A stored relation as a Dask array of ``sparse.COO`` chunks."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.store import read_indptr, read_relation, relation_shape

if TYPE_CHECKING:
    import dask.array
    import sparse

_ENTRIES = 1 << 20  # per block, where chunks are not given


def as_dask_array(path: str | Path, relation: str, chunks: int | None = None) -> dask.array.Array:
    """A relation's tensor, cut along its longest mode; blocks are read when they are computed.

    Parameters
    ----------
    path, relation
        The stored hypergraph and the name of a relation.
    chunks
        Rows of the longest mode per block; left out, about a million entries per block.

    Returns
    -------
    dask.array.Array
        Of ``sparse.COO`` blocks, float64. Absent entries are zeros.

    Raises
    ------
    InputError
        When the tensor has more cells than ``sparse`` can number (2^63), or is not there.
    """
    import dask
    import dask.array as da
    import sparse

    path = Path(path).absolute()  # workers have their own folders
    shape = relation_shape(path, relation)
    if math.prod(shape) > np.iinfo(np.int64).max:
        sizes = " x ".join(f"{size:,}" for size in shape)
        raise InputError(
            f"'{relation}' has {sizes} cells, more than the 2^63 that sparse arrays can number; "
            "read its coordinates instead",
            file=path,
        )
    if chunks is not None and chunks < 1:
        raise InputError(f"expected at least 1 row per block, got {chunks}", key="chunks")
    mode = int(np.argmax(shape))
    indptr = read_indptr(path, relation)
    bounds = _bounds(indptr, chunks)
    meta = sparse.COO(np.empty((len(shape), 0), dtype=np.int64), np.empty(0), shape=(0,) * len(shape))
    read = dask.delayed(_read_block, pure=False)
    blocks = []
    for first, last in pairwise(bounds):
        extent = (*shape[:mode], last - first, *shape[mode + 1 :])
        entries = int(indptr[first]), int(indptr[last])
        block = read(str(path), relation, mode, first, extent, *entries)
        blocks.append(da.from_delayed(block, shape=extent, dtype=np.float64, meta=meta))
    return da.concatenate(blocks, axis=mode)


def _bounds(indptr: np.ndarray, chunks: int | None) -> list[int]:
    """Where blocks of rows begin, and where the last one ends."""
    rows = len(indptr) - 1
    if chunks is not None:
        return [*range(0, rows, chunks), rows]
    blocks = max(1, round(int(indptr[-1]) / _ENTRIES))
    targets = np.linspace(0, indptr[-1], blocks + 1)[1:-1]
    return [0, *np.unique(np.clip(np.searchsorted(indptr, targets), 1, rows - 1)).tolist(), rows]


def _read_block(
    path: str, relation: str, mode: int, first: int, extent: tuple[int, ...], start: int, stop: int
) -> sparse.COO:
    import sparse

    tensor = read_relation(path, relation, start, stop)
    coords = np.stack([c.astype(np.int64) for c in tensor.coords])
    coords[mode] -= first
    return sparse.COO(coords, tensor.values, shape=extent, has_duplicates=False)
