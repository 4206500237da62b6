"""NumPy or CuPy: the only file that knows which, besides the kernels. Everything else asks here.

CuPy is imported when a device is asked for, never before.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np

from hyperlearn_dask.errors import InputError

Array = Any  # a NumPy or a CuPy array
Device = Literal["cpu", "cuda"]


def array_module(*arrays: Array) -> ModuleType:
    """The module (``numpy`` or ``cupy``) that the given arrays belong to."""
    cupy = sys.modules.get("cupy")  # a CuPy array cannot exist before CuPy was imported
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np


def check_device(device: str, on_cluster: bool = False) -> None:
    """Refuse a device that is none or that is not there, in one line."""
    if device == "cpu":
        return
    if device != "cuda":
        raise InputError(f"'{device}' is not a device (expected cpu or cuda)", key="device")
    if on_cluster:
        raise InputError("'cuda' is for training in this process; workers compute on the CPU", key="device")
    try:
        import cupy
    except ImportError:
        raise InputError("CuPy is not installed (pip install 'hyperlearn-dask[gpu]')", key="device") from None
    if not cupy.cuda.is_available():
        raise InputError("CuPy finds no CUDA device, or a driver too old for its CUDA", key="device")


@dataclass(frozen=True, eq=False)
class DeviceCsr:
    """A sparse matrix in CSR on a device, for our own kernels."""

    data: Array
    indices: Array
    indptr: Array
    shape: tuple[int, int]
    _diagonal: Array

    def diagonal(self) -> Array:
        return self._diagonal


def to_device(value: Any, device: Device) -> Any:
    """An array, or a SciPy CSR array, where kernels of a device can work on it; None stays None.

    What is there already is not copied.
    """
    if device == "cpu" or value is None:
        return value
    import cupy

    if hasattr(value, "indptr"):
        data, indices, indptr, diagonal = map(
            cupy.asarray, (value.data, value.indices, value.indptr, value.diagonal())
        )
        return DeviceCsr(data, indices, indptr, value.shape, diagonal)
    return cupy.asarray(value)


def to_host(array: Array) -> np.ndarray:
    """An array in NumPy's memory; without a copy where it is there already."""
    return array.get() if array_module(array) is not np else np.asarray(array)


def beside(index: np.ndarray, array: Array) -> Array:
    """An index array where the array is that it indexes."""
    return array_module(array).asarray(index)
