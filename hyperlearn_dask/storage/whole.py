"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hyperlearn_dask.errors import InputError

# What goes wrong with a disk rather than with a program.
DISK_ERRORS = {
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
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            problem = f"{DISK_ERRORS[error.errno]} while writing {path}"
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
