"""The rows of a stored array, its chunks decoded to where they are wanted.

Zarr's own way to an array copies every chunk several times, each time to new memory: it takes two to three
times as long as to read, check and decode, and leaves some tens of MiB with the C library. What we write is
plain, every chunk a file of Blosc's with a CRC-32C behind it, and the libraries that Zarr has for the two are
asked here directly.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.blosc import decompress
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

CHECKSUM = 4  # bytes
SIZE = slice(4, 8)  # of Blosc's header: how many bytes come out


class Chunks:
    """An array's chunks, which cut it along rows only, in files below ``folder``."""

    def __init__(self, array: zarr.Array, folder: Path) -> None:
        self._array = array
        self._folder = folder
        self._number = -1
        self._kept = np.empty(0)

    @staticmethod
    def are_plain(array: zarr.Array) -> bool:
        """Whether chunks are as we write those of numbers, and numbers as this machine has them."""
        codecs: Any = array.metadata.codecs if array.metadata.zarr_format == 3 else ()
        if [type(codec) for codec in codecs] != [BytesCodec, BloscCodec, Crc32cCodec]:
            return False
        endian = codecs[0].endian
        return array.chunks[1:] == array.shape[1:] and (endian is None or endian.value == sys.byteorder)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """The rows from ``start`` to ``stop``.

        A chunk of which only some are wanted is kept until the next one is: rows that follow may begin in it.

        Raises
        ------
        ValueError, RuntimeError, OSError
            When a chunk is damaged or missing.
        """
        length = self._array.chunks[0]
        found = np.empty((stop - start, *self._array.shape[1:]), self._array.dtype)
        for number in range(start // length, -(-stop // length)):
            first = number * length
            begin, end = max(start, first), min(stop, first + length)
            part = found[begin - start : end - start]
            if len(part) == length:
                self._decode(number, part)
            else:
                part[:] = self._chunk(number)[begin - first : end - first]
        return found

    def _chunk(self, number: int) -> np.ndarray:
        if number != self._number:
            self._number = -1
            if self._kept.shape != self._array.chunks:
                self._kept = np.empty(self._array.chunks, self._array.dtype)
            self._decode(number, self._kept)
            self._number = number
        return self._kept

    def _decode(self, number: int, into: np.ndarray) -> None:
        key = self._array.metadata.encode_chunk_key((number, *(0 for _ in into.shape[1:])))
        data = (self._folder / key).read_bytes()
        body, checksum = data[:-CHECKSUM], data[-CHECKSUM:]
        if int.from_bytes(checksum, "little") != google_crc32c.value(body):
            raise ValueError("the checksum differs")
        if int.from_bytes(body[SIZE], "little") != into.nbytes:
            raise ValueError("a chunk is of another size")
        decompress(body, into)
