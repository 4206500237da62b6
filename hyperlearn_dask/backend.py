"""NumPy or CuPy: the only file that knows which, besides the kernels. Everything else asks here.

CuPy is imported when a device is asked for, never before.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
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


def check_device(device: str) -> None:
    """Refuse a device that is none, or that cannot be used here, in one line that says why."""
    if device == "cpu":
        return
    if device != "cuda":
        raise InputError(f"'{device}' is not a device (expected cpu or cuda)", key="device")
    lacks = _what_cuda_lacks()
    if lacks is not None:
        raise InputError(lacks, key="device")


def _what_cuda_lacks() -> str | None:
    """What is missing for CuPy to compute here; asking makes no context on any GPU."""
    try:
        import cupy
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return "CuPy is not installed (pip install 'hyperlearn-dask[gpu]')"
        return f"CuPy cannot be imported ({_one_line(error)}); pip install 'hyperlearn-dask[gpu]'"
    runtime = cupy.cuda.runtime
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "no NVIDIA driver was found (libcuda.so.1 cannot be loaded)"
    if driver // 1000 < built // 1000:  # drivers of one major version take all its runtimes
        older = " or, for CUDA 12, pip install 'hyperlearn-dask[gpu-cu12]'" if driver >= 12000 else ""
        return (
            f"the NVIDIA driver is for CUDA {_version(driver)}, CuPy for {_version(built)}; "
            f"a newer driver is needed{older}"
        )
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError among them
        if "NoDevice" not in str(error):
            return f"CUDA cannot be used here ({_one_line(error)})"
        count = 0
    if count < 1:
        return "the NVIDIA driver shows no GPU" + _visible()
    try:
        cupy.cuda.nvrtc.getVersion()
    except (RuntimeError, OSError) as error:
        return f"CUDA's compiler NVRTC is missing ({_one_line(error)}); pip install 'hyperlearn-dask[gpu]'"
    return None


def _visible() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES is '{visible}')"


def _version(number: int) -> str:
    """CUDA's 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def free_memory() -> int:
    """Bytes on this process's GPU that arrays may take."""
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    if "rmm" in sys.modules:  # its pool has taken memory already, for us
        return int(total)
    return int(free + cupy.get_default_memory_pool().free_bytes())


def synchronize() -> None:
    """Wait until the GPU has done what this thread has asked for, if there is one at work."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.cuda.get_current_stream().synchronize()


@contextlib.contextmanager
def memory_in_one_line() -> Iterator[None]:
    """Say in one line that memory was too little."""
    try:
        yield
    except MemoryError as error:
        raise InputError(f"too little memory ({_one_line(error)})") from error


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
    if device == "cpu" or value is None or isinstance(value, DeviceCsr):
        return value
    import cupy

    if hasattr(value, "indptr"):
        # The kernels take one integer for both.
        index = np.result_type(value.indices, value.indptr)
        parts = (value.data, value.indices.astype(index), value.indptr.astype(index), value.diagonal())
        data, indices, indptr, diagonal = map(cupy.asarray, parts)
        return DeviceCsr(data, indices, indptr, value.shape, diagonal)
    return cupy.asarray(value)


def to_host(array: Array) -> np.ndarray:
    """An array in NumPy's memory; without a copy where it is there already."""
    return array.get() if array_module(array) is not np else np.asarray(array)


def beside(index: np.ndarray, array: Array) -> Array:
    """An index array where the array is that it indexes."""
    return array_module(array).asarray(index)


def each_array(value: Any, put: Callable[[Any], Any]) -> Any:
    """A value with its arrays put elsewhere, in whatever lists, dicts and dataclasses they stand."""
    if isinstance(value, dict):
        return {name: each_array(part, put) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_array(part, put) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: each_array(getattr(value, f.name), put) for f in fields(value)})
    return put(value) if hasattr(value, "dtype") and hasattr(value, "shape") else value
