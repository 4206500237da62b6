"""What something was made from, and what it contains, as hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperlearn_dask.errors import InputError


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
