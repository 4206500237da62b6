"""Arrays of an artefact, read with suspicion.

Zarr on its own reads a flipped byte as wrong values and a missing chunk file as zeros, both in
silence. Here every chunk carries a CRC-32C checksum and every chunk file is expected to exist.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from hyperlearn_dask.storage.artefacts import damaged, folder_of
from hyperlearn_dask.storage.chunks import Chunks

_CHUNK = 1 << 20  # entries
_STRINGS = np.dtypes.StringDType()


def write_array(group: zarr.Group, name: str, data: np.ndarray) -> None:
    """Write a numeric array (1-D or 2-D) or a 1-D array of str, in chunks of about a million entries."""
    text = data.dtype.kind in "UTO"
    rows = max(1, min(len(data), _CHUNK // max(1, *data.shape[1:], 1)))
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=str if text else data.dtype,
        chunks=(rows, *(max(1, size) for size in data.shape[1:])),
        compressors=(BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()),
        # A chunk of zeros is written as well, so that a file that is not there is a lost one.
        config={"write_empty_chunks": True},
    )
    if data.size:
        array[:] = data.astype(_STRINGS) if text else data


def read_array(group: zarr.Group, name: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
    """Read an array, or its rows from ``start`` to ``stop``; text comes as NumPy's ``StringDType``.

    Raises
    ------
    InputError
        When the array or one of its chunks is missing or damaged.
    """
    with _suspicion(group, name):
        array = _array(group, name)
        start, stop, _ = slice(start, stop).indices(array.shape[0])
        return next(_rows_between(group, name, array, (start, max(start, stop))))


def read_runs(group: zarr.Group, name: str, bounds: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows of an array between successive bounds, run after run; no chunk of numbers is decoded twice.

    Besides a run, the chunk that it ends in is held.

    Raises
    ------
    InputError
        When the array or one of its chunks is missing or damaged.
    """
    with _suspicion(group, name):
        yield from _rows_between(group, name, _array(group, name), bounds)


def _rows_between(
    group: zarr.Group, name: str, array: zarr.Array, bounds: Sequence[int]
) -> Iterator[np.ndarray]:
    chunks = Chunks(array, folder_of(group) / name) if Chunks.are_plain(array) else None
    for start, stop in pairwise(bounds):
        _require_chunks(group, array, slice(start, stop), name)
        yield chunks.rows(start, stop) if chunks else np.asarray(array[start:stop])


@contextlib.contextmanager
def _suspicion(group: zarr.Group, name: str) -> Iterator[None]:
    """What goes wrong while an array is read is damage."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = "is damaged (its checksum differs)" if "checksum" in str(error) else "is missing or damaged"
        raise damaged(group, name, reason) from error


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise damaged(group, name, "is no array")
    return array


def _require_chunks(group: zarr.Group, array: zarr.Array, rows: slice, name: str) -> None:
    if not array.size or rows.start >= rows.stop:
        return
    first, last = rows.start // array.chunks[0], (rows.stop - 1) // array.chunks[0]
    others = (range(-(-size // chunk)) for size, chunk in zip(array.shape[1:], array.chunks[1:]))
    folder = folder_of(group) / name
    for chunk in product(range(first, last + 1), *others):
        if not (folder / array.metadata.encode_chunk_key(chunk)).is_file():
            raise damaged(group, name, f"lacks its chunk {'/'.join(map(str, chunk))}")
