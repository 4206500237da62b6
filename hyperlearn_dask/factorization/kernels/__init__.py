"""Products over the entries of a sparse tensor: one implementation per array module.

Every function takes effective matrices (entities x columns, one per mode, C-ordered, one dtype) and
the coordinates and values of a shard, and returns plain arrays. See ``cpu.py`` for the contracts.
"""

from __future__ import annotations

from hyperlearn_dask.factorization.kernels.cpu import (
    context_equations,
    group_by_row,
    limit_threads,
    line,
    mttkrp,
    normal_equations,
    solve_rows,
)

__all__ = [
    "context_equations",
    "group_by_row",
    "limit_threads",
    "line",
    "mttkrp",
    "normal_equations",
    "solve_rows",
]
