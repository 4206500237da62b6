"""NumPy or CuPy: the only file that knows which. Everything else asks here for the array module."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # a NumPy or a CuPy array


def array_module(*arrays: Array) -> ModuleType:
    """The module (``numpy`` or ``cupy``) that the given arrays belong to."""
    cupy = sys.modules.get("cupy")  # a CuPy array cannot exist before CuPy was imported
    if cupy is not None and any(isinstance(a, cupy.ndarray) for a in arrays):
        return cupy
    return np
