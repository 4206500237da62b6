"""A CuPy for machines without a GPU, stricter than the real one: for tests.

Its arrays live in host memory but are no NumPy arrays: the two do not mix, and none becomes the other but by
``asarray`` and ``get``. Functions are NumPy's, those only that CuPy has. ``RawModule`` compiles CUDA source
with g++ and runs it thread by thread (``on_host.h``); a launch is refused whose arguments are not what the
kernel's parameters say.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
_one_at_a_time = threading.Lock()  # a kernel's threads share what is static in it
_SCALARS = (bool, int, float, complex, np.generic, str, type(None))


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array "on the device"."""

    __array_priority__ = 100

    def __init__(self, host: np.ndarray) -> None:
        self._host = host

    # What is known of it without reading it
    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: ndarray(self._host.T))
    data = property(lambda self: types.SimpleNamespace(ptr=self._host.ctypes.data))

    def __len__(self) -> int:
        return len(self._host)

    # To the host: only where it is said
    def get(self) -> np.ndarray:
        return self._host.copy()

    def item(self) -> Any:
        return self._host.item()

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(self._host)

    def __iter__(self) -> Any:
        return (ndarray(np.asarray(part)) for part in self._host)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    # Not to be pickled by accident either
    def __reduce__(self) -> Any:
        raise TypeError("a device array is not to be pickled here")

    def __getitem__(self, index: Any) -> ndarray:
        return _given(self._host[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._host[_index(index)] = _taken(value)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **keywords: Any
    ) -> Any:
        keywords = _taken(keywords)
        if out is not None:
            keywords["out"] = _taken(out)
        result = getattr(ufunc, method)(*map(_taken, inputs), **keywords)
        if out is not None:
            return out[0]
        return _given(result)

    def __array_function__(self, function: Any, _: Any, args: Any, keywords: Any) -> Any:
        if function.__name__ not in _FUNCTIONS:
            raise TypeError(f"CuPy has no '{function.__name__}', or none that we have looked at")
        return _function(function)(*args, **keywords)


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **keywords: Any) -> Any:
        return _given(getattr(self._host, name)(*_taken(list(args)), **_taken(keywords)))

    return method


for _name in (
    "sum", "max", "min", "mean", "var", "all", "any", "cumsum", "argmax", "argmin", "copy", "astype",
    "reshape", "ravel", "transpose", "dot", "fill", "diagonal", "nonzero", "argsort", "squeeze",
):  # fmt: skip
    setattr(ndarray, _name, _method(_name))


def _given(result: Any) -> Any:
    """What NumPy has computed, as arrays of ours; CuPy has no scalars, only arrays without dimensions."""
    if isinstance(result, tuple):
        return (
            type(result)(*map(_given, result)) if hasattr(result, "_fields") else tuple(map(_given, result))
        )
    return ndarray(np.asarray(result)) if isinstance(result, np.ndarray | np.generic) else result


def _taken(value: Any) -> Any:
    """NumPy's view of what is on the device, for NumPy to compute with; arrays on the host are refused."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, dict):
        return {name: _taken(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_taken, value))
    assert isinstance(value, (*_SCALARS, slice, np.dtype, type, types.EllipsisType)), type(value)
    return value


def _index(index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if not isinstance(part, ndarray | slice | int | np.integer | types.EllipsisType | None):
            raise IndexError(f"an index of {type(part)} on the device")
    return _taken(index)


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """To the device: what is there already is not copied."""
    if isinstance(value, ndarray):
        return value if dtype is None or value.dtype == dtype else value.astype(dtype)
    return ndarray(np.array(value, dtype=dtype))


def array(value: Any, dtype: Any = None) -> ndarray:
    return asarray(value, dtype).copy()


def ascontiguousarray(value: ndarray, dtype: Any = None) -> ndarray:
    host = np.ascontiguousarray(_taken(value), dtype=dtype)
    return value if host is value._host else ndarray(host)


def asnumpy(value: ndarray) -> np.ndarray:
    return value.get()


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """Not zeros: whoever reads what he has not written shall know."""
    host = np.empty(shape, dtype=dtype)
    host.fill(np.nan if host.dtype.kind == "f" else -7 if host.dtype.kind == "i" else 1)
    return ndarray(host)


def empty_like(value: ndarray, dtype: Any = None) -> ndarray:
    return empty(value.shape, value.dtype if dtype is None else dtype)


def lexsort(keys: ndarray) -> ndarray:
    """Of an array of keys: CuPy takes no tuple."""
    assert isinstance(keys, ndarray)
    assert keys.ndim == 2
    return ndarray(np.lexsort(keys._host))


def _function(function: Any) -> Any:
    def call(*args: Any, **keywords: Any) -> Any:
        return _given(function(*_taken(list(args)), **_taken(keywords)))

    return call


# Functions of CuPy 14 with the meaning and the arguments that NumPy's have, as far as we use them.
_FUNCTIONS = {
    "abs", "all", "any", "arange", "argmin", "argsort", "bincount", "broadcast_to", "concatenate", "cumsum",
    "einsum", "eye", "exp", "flatnonzero", "full", "divmod", "isfinite", "matmul", "maximum", "minimum",
    "nonzero", "ones", "partition", "searchsorted", "sqrt", "square", "stack", "sum", "take_along_axis",
    "unique", "where", "zeros", "zeros_like", "ones_like", "dot", "vdot", "array_equal", "multiply",
    "inv", "cholesky", "eigh", "solve",
}  # fmt: skip


class RawModule:
    """A module of kernels compiled from CUDA source, on the host."""

    def __init__(self, *, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
        assert options == ("--std=c++17",)
        self._code, self._names = code, name_expressions

    def get_function(self, name: str) -> Any:
        assert name in self._names
        return _Kernel(_compiled(self._code, name))


class _Kernel:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.signature.restype = ctypes.c_char_p
        self._parameters = library.signature().decode().split()

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        grid = (*grid, 1, 1)[:3]
        assert all(0 < g < limit for g, limit in zip(grid, (2**31, 2**16, 2**16))), f"a grid of {grid}"
        assert len(block) == 1
        assert 0 < block[0] <= 1024
        assert shared_mem <= 48 * 1024
        assert len(arguments) == len(self._parameters), (len(arguments), self._parameters)
        places = [_argument(given, wanted) for given, wanted in zip(arguments, self._parameters)]
        pointers = (ctypes.c_void_p * len(places))(*(place.ctypes.data for place in places))
        with _one_at_a_time:
            status = self._library.launch(
                (ctypes.c_uint * 3)(*grid), ctypes.c_uint(block[0]), ctypes.c_size_t(shared_mem), pointers
            )
        assert status == 0, {1: "threads wait for ever", 2: "shared memory was overrun"}[status]


def _argument(given: Any, wanted: str) -> np.ndarray:
    """The place in memory that holds an argument, which must be of the kernel's type."""
    if not wanted.startswith("*"):
        assert isinstance(given, np.generic), f"{type(given)} for a {wanted}"
        assert given.dtype.str[1:] == wanted, f"{given.dtype} for a {wanted}"
        return np.array(given)
    if isinstance(given, np.uint64):
        assert given == 0
        return np.array(given)
    assert isinstance(given, ndarray), f"{type(given)} for a {wanted}"
    assert given.dtype.str[1:] == wanted[1:], f"{given.dtype} for a {wanted}"
    assert given.flags.c_contiguous
    return np.array(given.data.ptr, dtype=np.uint64)


_ENTRY = """
extern "C" int launch(const unsigned* grid, unsigned threads, size_t shared, void** arguments) {
    return host::launch(&%(name)s, grid, threads, shared, arguments);
}
extern "C" const char* signature() { return host::signature(&%(name)s); }
"""


_COMPILE = (
    "g++", "-std=c++17", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off", "-fPIC",
)  # fmt: skip


@cache
def _compiled(code: str, name: str) -> ctypes.CDLL:
    source = f'#include "on_host.h"\n{code}\n{_ENTRY % {"name": name}}'
    header = _header()
    path = header.parent / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.so"
    if not path.exists():
        with _beside(path) as passing:
            options = ("-I", str(header.parent), "-shared", "-x", "c++", "-", "-o", str(passing))
            subprocess.run([*_COMPILE, *options], input=source, text=True, check=True)
    return ctypes.CDLL(str(path))


@cache
def _header() -> Path:
    """A copy of ``on_host.h``, compiled: half of the time of a kernel would be its standard headers."""
    text = (HERE / "on_host.h").read_text()
    made_of = hashlib.sha256("\n".join((*_COMPILE, text)).encode()).hexdigest()[:12]
    folder = HERE.parent.parent / ".pytest_cache" / "cuda-on-host" / made_of
    folder.mkdir(parents=True, exist_ok=True)
    header, compiled = folder / "on_host.h", folder / "on_host.h.gch"
    if not compiled.exists():
        with _beside(header) as passing:
            passing.write_text(text)
        with _beside(compiled) as passing:
            subprocess.run([*_COMPILE, "-x", "c++-header", str(header), "-o", str(passing)], check=True)
    return header


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A place to write what is moved to ``path`` then: others may look for it, or make it as well."""
    passing = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield passing
    passing.replace(path)


def module() -> types.ModuleType:
    """The module to stand for ``cupy`` in ``sys.modules``."""
    fake = types.ModuleType("cupy")
    own = (ndarray, asarray, array, ascontiguousarray, asnumpy, empty, empty_like, lexsort, RawModule)
    for thing in own:
        setattr(fake, thing.__name__, thing)
    fake.linalg = types.SimpleNamespace()
    for name in sorted(_FUNCTIONS):
        if hasattr(np, name):
            setattr(fake, name, _function(getattr(np, name)))
        else:
            setattr(fake.linalg, name, _function(getattr(np.linalg, name)))
    fake.cuda = cuda()
    fake.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    return fake


def cuda(
    driver: int = 13000, built: int = 13020, gpus: int = 1, free: int = 1 << 34, nvrtc: bool = True
) -> types.SimpleNamespace:
    """What CuPy says of the machine: versions as CUDA numbers them, GPUs, bytes that are free."""

    def count() -> int:
        if not gpus:
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return gpus

    def compiler() -> tuple[int, int]:
        if not nvrtc:
            raise RuntimeError('Failure finding "libnvrtc.so.13"')
        return built // 1000, 0

    return types.SimpleNamespace(
        is_available=lambda: gpus > 0 and driver > 0,
        runtime=types.SimpleNamespace(
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: built,
            getDeviceCount=count,
            memGetInfo=lambda: (free, 1 << 34),
        ),
        nvrtc=types.SimpleNamespace(getVersion=compiler),
        get_current_stream=lambda: types.SimpleNamespace(synchronize=lambda: None),
        Device=lambda: types.SimpleNamespace(synchronize=lambda: None),
    )


def install(monkeypatch: Any) -> types.ModuleType:
    """Let ``import cupy`` give the fake, and forget what was made with another."""
    fake = module()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.delitem(sys.modules, "hyperlearn_dask.factorization.kernels.cuda", raising=False)
    return fake
