"""Artefacts on disk: Zarr v3 stores that are written whole or not at all and read with suspicion.

Zarr on its own reads a flipped byte as wrong values and a missing chunk file as zeros, both in
silence. Here every chunk carries a CRC-32C checksum and every chunk file is expected to exist.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from hyperlearn_dask.errors import InputError

VERSION = 1

_CHUNK = 1 << 20  # entries
_STRINGS = np.dtypes.StringDType()

# What goes wrong with a disk rather than with a program.
_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "a file grew larger than allowed",
    errno.EIO: "the device failed",
    errno.ENOTDIR: "a file is in the way of a folder",
    errno.EEXIST: "a file is in the way of a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many open files",
}


@dataclass(frozen=True)
class UnitReport:
    """What became of one unit of an artefact: ``unit`` like "relations/made", in ``seconds``."""

    unit: str
    action: Literal["made", "kept"]
    detail: str
    seconds: float


Progress = Callable[[str], None]


# Written whole or not at all.


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or folder next to ``path``, which takes its place only once it is complete.

    Yields
    ------
    Path
        A name where nothing is yet. When the block raises, what was written there is deleted and
        ``path`` stays as it was.

    Raises
    ------
    InputError
        When the disk is full or ``path`` may not be written.
    """
    staging = _beside(path, "partial")
    made: list[Path] = []
    try:
        made = _make_parents(path)
        recover(path)
        yield staging
        _flush(staging)
        _swap(staging, path)
    except BaseException as error:
        remove(staging)
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: somebody else uses it by now
                folder.rmdir()
        if isinstance(error, FileNotFoundError) and error.filename == str(staging):
            raise InputError("no file can be made there", file=path) from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            problem = f"{_DISK_ERRORS[error.errno]} while writing {path}"
            raise InputError(f"{problem} (nothing was changed there)") from error
        raise


def recover(path: Path) -> None:
    """Mend what an interrupted :func:`replacing` of ``path`` left behind.

    An old artefact that had been moved aside and not yet replaced comes back; parts of a new one
    are deleted. What belongs to a process that still runs is left alone.
    """
    for leftover in _leftovers(path, "old"):
        if not path.exists():
            leftover.rename(path)
        else:
            remove(leftover)
    for leftover in _leftovers(path, "partial"):
        remove(leftover)


def _beside(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}-{os.getpid()}")


def _leftovers(path: Path, role: str) -> list[Path]:
    prefix = f".{path.name}.{role}-"
    if not path.parent.is_dir():
        return []
    found = [entry for entry in path.parent.iterdir() if entry.name.startswith(prefix)]
    return sorted(entry for entry in found if not _runs(entry.name.removeprefix(prefix)))


def _runs(process: str) -> bool:
    """Whether another process with this id is alive; this one replaces one thing at a time."""
    if not process.isdigit() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _make_parents(path: Path) -> list[Path]:
    """Make the folders above a path; which ones were missing, outermost first."""
    missing = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _flush(path: Path) -> None:
    """Have the disk itself hold what was written, before it replaces anything."""
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    with ThreadPoolExecutor(8) as threads:  # the disk commits what waits together at once
        list(threads.map(_sync, entries))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(staging: Path, path: Path) -> None:
    # A folder cannot be renamed over a folder that is not empty: move the old one aside first.
    old = _beside(path, "old")
    if path.is_dir():
        path.rename(old)
    try:
        staging.replace(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    _sync(path.parent)
    remove(old)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there and can be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # cleaning up must not hide what went wrong
            path.unlink()


# Artefacts, their units and arrays.


def create_artefact(path: Path, format: str) -> zarr.Group:
    """A new store that says what it is; ``path`` comes from :func:`replacing`."""
    attributes = {"format": format, "version": VERSION}
    return zarr.create_group(store=str(path), zarr_format=3, attributes=attributes)


def open_artefact(path: Path, format: str) -> zarr.Group:
    """Open a store for reading.

    Raises
    ------
    InputError
        When there is none, or it is another kind of thing, or from a newer version.
    """
    wanted = f"expected a {format} store"
    try:
        if not path.exists():
            recover(path)
        if not path.exists():
            raise InputError(f"does not exist; {wanted}", file=path)
        if not (path / "zarr.json").is_file():
            problem = "is a folder without zarr.json" if path.is_dir() else "is a file and no folder"
            raise InputError(f"{problem}; {wanted}", file=path)
        root = zarr.open_group(store=str(path), mode="r", zarr_format=3)
        found, version = root.attrs.get("format"), root.attrs.get("version")
    except OSError as error:
        reason = _DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))
        raise InputError(f"cannot be read ({reason})", file=path) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what zarr raises for bad metadata
        raise InputError(f"is no readable Zarr group; {wanted}", file=path) from error
    if found != format:
        came = f"a {found} store" if isinstance(found, str) else "a Zarr store from elsewhere"
        raise InputError(f"is {came}; {wanted}", file=path)
    if version != VERSION:
        raise InputError(
            f"has format version {version}, this program reads version {VERSION}; make it again", file=path
        )
    return root


def child_group(parent: zarr.Group, name: str) -> zarr.Group:
    """A group below a group.

    Raises
    ------
    InputError
        When it is not there or cannot be read.
    """
    try:
        child = parent[name]
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise _damaged(parent, name, "is missing or not readable") from error
    if not isinstance(child, zarr.Group):
        raise _damaged(parent, name, "is no group")
    return child


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
        return _rows(group, array, name, slice(*slice(start, stop).indices(array.shape[0])))


def read_runs(group: zarr.Group, name: str, bounds: Sequence[int]) -> Iterator[np.ndarray]:
    """The rows of an array between successive bounds, run after run; no chunk is decoded twice.

    Besides a run, what is left of the chunk that it ends in is held.

    Raises
    ------
    InputError
        When the array or one of its chunks is missing or damaged.
    """
    with _suspicion(group, name):
        array = _array(group, name)
        held, first = np.empty((0, *array.shape[1:]), array.dtype), bounds[0]
        for start, stop in pairwise(bounds):
            held, first = held[start - first :], start
            behind = first + len(held)
            if stop > behind:
                whole_chunks = min(-(-stop // array.chunks[0]) * array.chunks[0], array.shape[0])
                more = _rows(group, array, name, slice(behind, whole_chunks))
                held = np.concatenate([held, more]) if len(held) else more
            yield held[: stop - start]


@contextlib.contextmanager
def _suspicion(group: zarr.Group, name: str) -> Iterator[None]:
    """What goes wrong while an array is read is damage."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, OSError) as error:
        reason = "is damaged (its checksum differs)" if "checksum" in str(error) else "is missing or damaged"
        raise _damaged(group, name, reason) from error


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise _damaged(group, name, "is no array")
    return array


def _rows(group: zarr.Group, array: zarr.Array, name: str, rows: slice) -> np.ndarray:
    _require_chunks(group, array, rows, name)
    return np.asarray(array[rows])


def _require_chunks(group: zarr.Group, array: zarr.Array, rows: slice, name: str) -> None:
    if not array.size or rows.start >= rows.stop:
        return
    first, last = rows.start // array.chunks[0], (rows.stop - 1) // array.chunks[0]
    others = (range(-(-size // chunk)) for size, chunk in zip(array.shape[1:], array.chunks[1:]))
    folder = _place(group) / name
    for chunk in product(range(first, last + 1), *others):
        if not (folder / array.metadata.encode_chunk_key(chunk)).is_file():
            raise _damaged(group, name, f"lacks its chunk {'/'.join(map(str, chunk))}")


def _place(group: zarr.Group) -> Path:
    return Path(getattr(group.store, "root", "")) / group.path


def _damaged(group: zarr.Group, name: str, problem: str) -> InputError:
    where = "/".join(part for part in (group.path, name) if part)
    store = getattr(group.store, "root", None)
    return InputError(f"'{where}' {problem}; delete this store and make it again", file=store)


def link_unit(old: Path, new: Path, name: str) -> None:
    """Take over an unchanged unit (a group) from one store into another, by hard links if possible.

    The groups above it in ``new`` exist already.
    """
    shutil.copytree(old / name, new / name, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


# What something was made from, and what it contains.


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", file=path) from error


def hash_of(value: object) -> str:
    """A hash of plain values, tuples, mappings, dataclasses and paths (by their last part)."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_arrays(*arrays: np.ndarray) -> str:
    """A hash of arrays' types, shapes and contents; text counts the same however NumPy holds it."""
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind in "UTO":
            digest.update(f"str{array.shape}".encode())
            digest.update(json.dumps(array.tolist(), ensure_ascii=False).encode())
        else:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _canonical(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if isinstance(value, Mapping):
        # Pairs, since order has a meaning in some settings (the modes of a tensor).
        return [[_canonical(key), _canonical(item)] for key, item in value.items()]
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Sequence):
        return [_canonical(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form")
