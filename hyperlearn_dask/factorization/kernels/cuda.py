"""Tensor and graph kernels for the GPU: ``tensor.cu`` and ``dense.cu``, compiled by CuPy when first called.

The contracts are those of ``cpu.py`` and ``graph.py``, with CuPy arrays in the place of NumPy's. Every
kernel is compiled for one pair of dtypes, one order and one width of tiles, and kept in CuPy's cache.
Short modes are summed by atomic additions, so their last digits are not the same every time.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import cupy
import numpy as np

from hyperlearn_dask.backend import Array, DeviceCsr
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Matrices = tuple[Array, ...]

MOST_MODES = 8
MOST_INT = 2**31 - 1  # rows of a mode with indices of 32 bits
THREADS = 128  # of a block
LONGEST_RUN = 128  # entries that a group of threads walks along
SEGMENT = 512  # entries of a row that one block adds up
HEAVY = 256  # neighbours from which a row of a graph is shared by a block
LINE_BLOCKS = 1024
SHARED_BYTES = 48 * 1024  # what a block has without asking for more
SCRATCH_BLOCKS = 2048  # that solve rows at the same time, where each needs memory of its own

_NULL = np.uint64(0)
_C_TYPES = {"f4": "float", "f8": "double", "i4": "int", "i8": "long long"}


def mttkrp(tensor: SparseTensor, matrices: Matrices, modes: tuple[int, ...]) -> dict[int, Array]:
    """See :func:`.cpu.mttkrp`."""
    return _walk(tensor, matrices, modes, tensor.sort_mode, None)


def mttkrp_by_row(tensor: SparseTensor, matrices: Matrices, mode: int, entries: Array) -> Array:
    """MTTKRP (n_m x R) of one mode along its own order, nearly without atomic additions.

    ``entries``: the places of the entries grouped by row, as of :func:`group_by_row`. Against
    :func:`mttkrp` it spares additions to shared rows and pays with scattered reads of entries.
    """
    return _walk(tensor, matrices, (mode,), mode, entries)[mode]


def normal_equations(
    tensor: SparseTensor,
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    fixed: np.ndarray,
    weight: float,
    entries: Array,
    starts: Array,
) -> tuple[Array, Array]:
    """See :func:`.cpu.normal_equations`."""
    return _equations(tensor, matrices, mode, free, fixed, entries, starts, weight, None)


def context_equations(
    contexts: SparseTensor,
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    fixed: np.ndarray,
    target_gram: np.ndarray,
    entries: Array,
    starts: Array,
) -> tuple[Array, Array]:
    """See :func:`.cpu.context_equations`."""
    target = cupy.ascontiguousarray(cupy.asarray(target_gram), dtype=matrices[0].dtype)
    return _equations(contexts, matrices, mode, free, fixed, entries, starts, 1.0, target)


def solve_rows(matrices: Array, right: Array) -> Array:
    """See :func:`.cpu.solve_rows`."""
    matrices, right = cupy.ascontiguousarray(matrices), cupy.ascontiguousarray(right)
    rows, width = right.shape
    solution = cupy.empty_like(right)
    if not right.size:
        return solution
    numbers = width * (width | 1) + width
    blocks, shared = rows, numbers * right.itemsize
    scratch: Any = _NULL
    if shared > SHARED_BYTES:
        blocks, shared = min(rows, SCRATCH_BLOCKS), 0
        scratch = cupy.empty((blocks, numbers), dtype=right.dtype)
    solve = _kernel("dense.cu", "solve_rows", _c_type(right))
    threads = min(THREADS, -(-width // 32) * 32)
    eps = right.dtype.type(np.finfo(right.dtype).eps)
    solve(
        (blocks,),
        (threads,),
        (np.int64(rows), np.int32(width), eps, matrices, right, scratch, solution),
        shared_mem=shared,
    )
    return solution


def line(tensor: SparseTensor, matrices: Matrices, directions: Matrices, weight: float) -> np.ndarray:
    """See :func:`.cpu.line`."""
    indices, values, matrices = _kernel_input(tensor, matrices)
    directions = tuple(cupy.ascontiguousarray(d) for d in directions)
    rank = matrices[0].shape[1]
    blocks = max(1, min(LINE_BLOCKS, -(-tensor.nnz // THREADS)))
    partial = cupy.empty((blocks, 2 * tensor.order + 1), dtype=np.float64)
    kernel = _kernel(
        "tensor.cu", "line", _c_type(values), _c_type(indices[0]), tensor.order, lanes(rank), THREADS
    )
    table = _table(*indices, *matrices, *directions)
    kernel(
        (blocks,),
        (THREADS,),
        (np.int64(tensor.nnz), np.int32(rank), np.float64(weight), values, table, partial),
    )
    return cupy.asnumpy(partial.sum(axis=0))


def group_by_row(tensor: SparseTensor, mode: int) -> tuple[Array, Array]:
    """See :func:`.cpu.group_by_row`."""
    index = tensor.coords[mode]
    starts = cupy.zeros(tensor.shape[mode] + 1, dtype=np.int64)
    starts[1:] = cupy.cumsum(cupy.bincount(index, minlength=tensor.shape[mode]))
    entries = cupy.arange(tensor.nnz) if mode == tensor.sort_mode else cupy.argsort(index)
    return entries.astype(np.int64), starts


def chebyshev(laplacian: DeviceCsr, block: Array, coefficients: np.ndarray) -> Array:
    """sum_k T_k(L - I) B diag(c_k) by Clenshaw's recurrence: see :func:`.graph.chebyshev`."""
    given = cupy.ascontiguousarray(block)
    width = given.shape[1]
    c = cupy.ascontiguousarray(
        cupy.broadcast_to(cupy.asarray(coefficients, dtype=given.dtype), (len(coefficients), width))
    )
    now, before = given * c[-1], cupy.zeros_like(given)
    for k in range(len(c) - 2, -1, -1):
        _graph_step(laplacian, now, given, c[k], 1.0 if k == 0 else 2.0, before)
        now, before = before, now
    return now


def graph_product(laplacian: DeviceCsr, block: Array) -> Array:
    """L B: see :func:`.graph.graph_product`."""
    block = cupy.ascontiguousarray(block)
    product = cupy.empty_like(block)
    _graph_step(laplacian, block, _NULL, _NULL, 0.0, product, product_only=True)
    return product


def lanes(rank: int) -> int:
    """Threads that share an entry: as many as there are columns, at most a warp."""
    return 8 if rank <= 8 else 16 if rank <= 16 else 32


def run_length(nnz: int) -> int:
    """Entries that a group of threads walks along: few where there are few, to have work for all."""
    return max(8, min(LONGEST_RUN, nnz // 65536))


def walk_grid(nnz: int, rank: int) -> tuple[int, int]:
    """Blocks along the entries, a group of threads for each run, and tiles of columns."""
    groups_of_block = THREADS // lanes(rank)
    return -(-nnz // (run_length(nnz) * groups_of_block)), -(-rank // lanes(rank))


def _walk(
    tensor: SparseTensor, matrices: Matrices, modes: tuple[int, ...], walk: int, entries: Array | None
) -> dict[int, Array]:
    """MTTKRP of some modes along the order of one of them."""
    indices, values, matrices = _kernel_input(tensor, matrices)
    rank = matrices[0].shape[1]
    outputs = {m: cupy.zeros((tensor.shape[m], rank), dtype=values.dtype) for m in modes}
    if not tensor.nnz:
        return outputs
    run, width = run_length(tensor.nnz), lanes(rank)
    kernel = _kernel("tensor.cu", "mttkrp", _c_type(values), _c_type(indices[0]), tensor.order, width)
    table = _table(*indices, *matrices, *(outputs.get(m) for m in range(tensor.order)))
    kernel(
        walk_grid(tensor.nnz, rank),
        (THREADS,),
        (
            np.int64(tensor.nnz),
            np.int32(run),
            np.int32(rank),
            np.int32(walk),
            np.int32(sum(1 << m for m in modes)),
            _NULL if entries is None else entries,
            values,
            table,
        ),
    )
    return outputs


def _equations(
    tensor: SparseTensor,
    matrices: Matrices,
    mode: int,
    free: np.ndarray,
    fixed: np.ndarray,
    entries: Array,
    starts: Array,
    weight: float,
    target: Array | None,
) -> tuple[Array, Array]:
    indices, values, matrices = _kernel_input(tensor, matrices, with_values=target is None)
    dtype = matrices[0].dtype
    rank, width = matrices[0].shape[1], len(free)
    gram = cupy.zeros((len(starts) - 1, width, width), dtype=dtype)
    right = cupy.zeros((len(starts) - 1, width), dtype=dtype)
    rows, begins = _segments(starts)
    if not len(rows) or not width:
        return gram, right
    tile = 16 if width <= 16 else 32
    tiles = -(-width // tile)
    kernel = _kernel(
        "tensor.cu",
        "equations",
        _c_type(gram),
        _c_type(indices[0]),
        tensor.order,
        tile,
        "false" if target is None else "true",
    )
    kernel(
        (len(rows), tiles * (tiles + 1) // 2),
        (tile * tile // 4,),
        (
            np.int32(SEGMENT),
            np.int32(rank),
            np.int32(width),
            np.int32(len(fixed)),
            np.int32(mode),
            dtype.type(weight),
            rows,
            begins,
            starts,
            entries,
            cupy.asarray(free, dtype=np.int32),
            cupy.asarray(fixed, dtype=np.int32),
            values,
            _NULL if target is None else target,
            _table(*indices, *matrices),
            gram,
            right,
        ),
    )
    return gram, right


def _segments(starts: Array) -> tuple[Array, Array]:
    """Rows cut into segments of at most :data:`SEGMENT` entries: the row of each, and where it begins."""
    count = (starts[1:] - starts[:-1] + (SEGMENT - 1)) // SEGMENT
    ends = cupy.cumsum(count)
    number = cupy.arange(int(ends[-1]) if len(ends) else 0)
    rows = cupy.searchsorted(ends, number, side="right").astype(np.int64)
    return rows, starts[rows] + (number - (ends - count)[rows]) * SEGMENT


def _graph_step(
    laplacian: DeviceCsr,
    now: Array,
    given: Any,
    c: Any,
    scale: float,
    out: Array,
    product_only: bool = False,
) -> None:
    rows, width = now.shape
    if not now.size:
        return
    across = lanes(width)
    kernel = _kernel(
        "dense.cu",
        "graph_step",
        _c_type(now),
        _c_type(laplacian.indices),
        across,
        THREADS,
        "true" if product_only else "false",
    )
    data = laplacian.data.astype(now.dtype, copy=False)
    kernel(
        (-(-rows // (THREADS // across)), -(-width // across)),
        (THREADS,),
        (
            np.int64(rows),
            np.int32(width),
            np.int32(HEAVY),
            now.dtype.type(scale),
            laplacian.indptr,
            laplacian.indices,
            data,
            now,
            given,
            c,
            out,
        ),
    )


def _kernel_input(
    tensor: SparseTensor, matrices: Matrices, with_values: bool = True
) -> tuple[tuple[Array, ...], Array, Matrices]:
    """Coordinates, values (or a null) and matrices as kernels want them: contiguous, in one dtype each."""
    assert tensor.order <= MOST_MODES, f"tensors of at most {MOST_MODES} modes"
    width = np.int32 if max(tensor.shape) <= MOST_INT else np.int64
    indices = tuple(cupy.ascontiguousarray(c, dtype=width) for c in tensor.coords)
    values = cupy.ascontiguousarray(tensor.values, dtype=matrices[0].dtype) if with_values else _NULL
    return indices, values, tuple(cupy.ascontiguousarray(a) for a in matrices)


def _table(*arrays: Array | None) -> Array:
    """The addresses of arrays, on the device; who calls keeps the arrays until the kernel is launched."""
    return cupy.asarray(np.array([0 if a is None else a.data.ptr for a in arrays], dtype=np.uint64))


def _c_type(array: Array) -> str:
    return _C_TYPES[array.dtype.str[1:]]


@cache
def _kernel(file: str, name: str, *parameters: object) -> Any:
    """A kernel for template parameters, compiled by NVRTC."""
    expression = f"{name}<{', '.join(map(str, parameters))}>"
    source = files(__package__).joinpath(file).read_text(encoding="utf-8")
    module = cupy.RawModule(code=source, options=("--std=c++17",), name_expressions=(expression,))
    return module.get_function(expression)
