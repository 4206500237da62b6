"""Artefacts on disk: Zarr v3 stores that say what they are, made of units that others can take over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zarr

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.storage.whole import DISK_ERRORS, recover

VERSION = 1


@dataclass(frozen=True)
class UnitReport:
    """What became of one unit of an artefact: ``unit`` like "relations/made", in ``seconds``."""

    unit: str
    action: Literal["made", "kept"]
    detail: str
    seconds: float


Progress = Callable[[str], None]


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
        reason = DISK_ERRORS.get(error.errno or 0, error.strerror or str(error))
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
        raise damaged(parent, name, "is missing or not readable") from error
    if not isinstance(child, zarr.Group):
        raise damaged(parent, name, "is no group")
    return child


def folder_of(group: zarr.Group) -> Path:
    return Path(getattr(group.store, "root", "")) / group.path


def damaged(group: zarr.Group, name: str, problem: str) -> InputError:
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
