"""Arrays for the kernels: they begin at a cache line, and on memory that was used before.

A row of 16 numbers fills a cache line where the matrix begins at one, and else touches two: kernels that
gather rows are half as slow again. New memory comes page by page, filled with zeros by the system; a sweep
makes the same arrays as the one before, so what is no longer used is kept for the next.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes
# Arrays from so many bytes on are worth keeping memory for, and for so many of them it is kept.
LARGE = 1 << 20
KEPT = 8


@dataclass(frozen=True, eq=False)
class _Memory:
    """So many bytes from a cache line on."""

    size: int
    held: np.ndarray

    @classmethod
    def of(cls, size: int) -> _Memory:
        room = np.empty(size + LINE, dtype=np.uint8)
        start = -room.ctypes.data % LINE
        return cls(size, room[start : start + size])


class _Lease:
    """What arrays on a memory refer to; the memory is spare again when the last of them is gone."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory
        self.__array_interface__ = memory.held.__array_interface__

    def __del__(self) -> None:
        _spare.append(self._memory)
        del _spare[:-KEPT]


# Arrays end in any thread: no more than one atomic operation at a time on this.
_spare: list[_Memory] = []


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """A C-ordered array that begins at a cache line; what is in it is left to chance."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.asarray(_Lease(_taken(size))) if size >= LARGE else _Memory.of(size).held
    return memory.view(dtype).reshape(shape)


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """The same, filled with zeros."""
    found = empty(shape, dtype)
    found.fill(0)
    return found


def aligned(matrix: np.ndarray) -> np.ndarray:
    """A matrix in C order that begins at a cache line: itself, or a copy."""
    if matrix.flags.c_contiguous and matrix.ctypes.data % LINE == 0:
        return matrix
    copy = empty(matrix.shape, matrix.dtype)
    np.copyto(copy, matrix)
    return copy


def forget() -> None:
    """Give the memory back that is kept, here and, where it can be told so, by the C library."""
    _spare.clear()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _taken(size: int) -> _Memory:
    """Memory for so many bytes: spare, or new."""
    for memory in _spare[:]:
        if memory.size == size:
            try:
                _spare.remove(memory)
            except ValueError:  # another thread was faster
                continue
            return memory
    return _Memory.of(size)
