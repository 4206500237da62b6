"""The kernels on a GPU, one by one: seconds, shares of the copy bandwidth, and ratios to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse

from benchmarks.output import Row
from hyperlearn_dask.backend import to_device
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.blocks import BlockSystem, solve_block
from hyperlearn_dask.hypergraph.tensor import SparseTensor

REPEATS = 5
ENOUGH_SECONDS = 2.0  # after which no further repetition is made
ROWS_SOLVED = 100_000  # systems of their own
HELD = 1 << 33  # bytes that CuPy's own way may hold at once

Work = Callable[[], object]


def kernel_rows(tensor: SparseTensor, rank: int, bandwidth: float, on_cpu: bool) -> Iterator[Row]:
    """The kernels on one tensor with one rank; ``on_cpu``: all that there are, on the CPU too."""
    rng = np.random.default_rng(0)
    matrices = tuple(rng.normal(size=(n, rank)).astype(np.float32) for n in tensor.shape)
    data = f"{tensor.nnz} nonzeros, rank {rank}"
    yield from _mttkrp_rows(data, tensor, matrices, bandwidth, on_cpu)
    yield from _pass_rows(data, tensor, matrices, bandwidth, on_cpu)
    if on_cpu:  # the number of entries is nothing to these
        yield from _graph_rows(f"{tensor.shape[0]} rows, rank {rank}", matrices[0], bandwidth)
        yield from _solve_rows(f"{ROWS_SOLVED} rows, rank {rank}", matrices[0])


def _mttkrp_rows(
    data: str, tensor: SparseTensor, matrices: tuple[Any, ...], bandwidth: float, on_cpu: bool
) -> Iterator[Row]:
    """All modes in one pass, and one mode at a time along the shard's order and along its own."""
    cuda = import_module("hyperlearn_dask.factorization.kernels.cuda")
    device, on = on_gpu(tensor), tuple(to_device(a, "cuda") for a in matrices)
    rank, modes = matrices[0].shape[1], tuple(range(tensor.order))
    for wanted in (modes, *((m,) for m in modes)):
        task = f"mttkrp of mode{'s' * (len(wanted) > 1)} {','.join(map(str, wanted))}"
        ways: dict[str, Work] = {"cuda": lambda w=wanted: kernels.mttkrp(device, on, w)}  # type: ignore[misc]
        if len(wanted) == 1:
            entries, _ = kernels.group_by_row(device, wanted[0])
            ways["cuda by row"] = lambda w=wanted, e=entries: cuda.mttkrp_by_row(device, on, w[0], e)  # type: ignore[misc]
            if 4 * tensor.nnz * rank <= HELD:
                ways["cupy csr @ gathered"] = _cupy_mttkrp(device, on, wanted[0])
        if on_cpu or len(wanted) > 1:
            ways["cpu"] = lambda w=wanted: kernels.mttkrp(tensor, matrices, w)  # type: ignore[misc]
        least = mttkrp_bytes(tensor, rank, wanted), gathered_bytes(tensor, rank, wanted)
        yield from compared(data, task, ways, least, bandwidth)


def _pass_rows(
    data: str, tensor: SparseTensor, matrices: tuple[Any, ...], bandwidth: float, on_cpu: bool
) -> Iterator[Row]:
    """The pass of the line search, and the normal equations of what is observed."""
    device, on = on_gpu(tensor), tuple(to_device(a, "cuda") for a in matrices)
    rank = matrices[0].shape[1]
    ways: dict[str, Work] = {"cuda": lambda: kernels.line(device, on, on, 1.0)}
    if on_cpu:
        ways["cpu"] = lambda: kernels.line(tensor, matrices, matrices, 1.0)
    entries = tensor.nnz * (4.0 + sum(c.itemsize for c in tensor.coords))
    least = entries + 8.0 * rank * sum(tensor.shape), entries + 8.0 * rank * tensor.nnz * tensor.order
    yield from compared(data, "line search pass", ways, least, bandwidth)
    free, none = np.arange(rank), np.arange(0)
    if not on_cpu:
        return
    grouped = kernels.group_by_row(device, 0)
    here = kernels.group_by_row(tensor, 0)
    ways = {
        "cuda": lambda: kernels.normal_equations(device, on, 0, free, none, 1.0, *grouped),
        "cpu": lambda: kernels.normal_equations(tensor, matrices, 0, free, none, 1.0, *here),
    }
    yield from compared(data, "normal equations of mode 0", ways)


def _graph_rows(data: str, block: Any, bandwidth: float) -> Iterator[Row]:
    """Products with a Laplacian, a filter, and a block solved by one."""
    laplacian = ring_laplacian(len(block))
    there, on = to_device(laplacian, "cuda"), to_device(block, "cuda")
    rank = block.shape[1]
    csr = import_module("cupyx.scipy.sparse").csr_matrix(scipy.sparse.csr_matrix(laplacian))
    ways: dict[str, Work] = {
        "cuda": lambda: kernels.graph_product(there, on),
        "cupy csr @ dense": lambda: csr @ on,
        "cpu": lambda: kernels.graph_product(laplacian, block),
    }
    stored = laplacian.nnz * 8.0 + len(block) * 4.0
    least = stored + 8.0 * block.size, stored + 4.0 * (laplacian.nnz + len(block)) * rank
    yield from compared(data, "graph product", ways, least, bandwidth)
    coefficients = np.random.default_rng(0).normal(size=(9, rank)).astype(np.float32)
    device_coefficients = to_device(coefficients, "cuda")
    ways = {
        "cuda": lambda: kernels.chebyshev(there, on, device_coefficients),
        "cupy csr @ dense": lambda: _cupy_chebyshev(csr, on, device_coefficients),
        "cpu": lambda: kernels.chebyshev(laplacian, block, coefficients),
    }
    yield from compared(data, "chebyshev of degree 8", ways)
    gram = np.eye(rank) + np.full((rank, rank), 0.5)
    ways = {
        "cuda": lambda: solve_block(BlockSystem(gram, on), there, 0.1, on, 1e-3),
        "cpu": lambda: solve_block(BlockSystem(gram, block), laplacian, 0.1, block, 1e-3),
    }
    yield from compared(data, "block solve with a graph", ways)


def _solve_rows(data: str, block: Any) -> Iterator[Row]:
    """Systems of each row's own."""
    cupy = import_module("cupy")
    rank = block.shape[1]
    right = np.ascontiguousarray(block[:ROWS_SOLVED])
    h = (np.eye(rank) + right[:, :, None] * right[:, None, :]).astype(np.float32)
    on, rights = to_device(h, "cuda"), to_device(right, "cuda")
    ways: dict[str, Work] = {
        "cuda": lambda: kernels.solve_rows(on, rights),
        "cupy linalg.solve": lambda: cupy.linalg.solve(on, rights[:, :, None]),
        "cpu": lambda: kernels.solve_rows(h, right),
    }
    yield from compared(data, "row solves", ways)


def compared(
    data: str,
    task: str,
    ways: dict[str, Work],
    least: tuple[float, float] | None = None,
    bandwidth: float = 1.0,
) -> Iterator[Row]:
    """Seconds of each way; ours beside the roofline and as ratios to the others.

    ``least``: the bytes that must move, each array once; and with every row that an entry needs read and
    written anew, which caches spare. Over the copy bandwidth they are the two rooflines.
    """
    seconds = {way: seconds_of(work) for way, work in ways.items()}
    for way, value in seconds.items():
        method = way if way.startswith("cupy") else f"hyperlearn {way}"
        yield row(data, task, method, "seconds", value)
        if way.startswith("cuda"):
            if least is not None:
                yield row(data, task, method, "share_of_roofline", least[0] / bandwidth / value)
                yield row(
                    data, task, method, "share_of_roofline_without_caches", least[1] / bandwidth / value
                )
            for other in (other for other in seconds if not other.startswith("cuda")):
                metric = "ratio_to_cpu" if other == "cpu" else "ratio_to_cupy"
                yield row(data, task, method, metric, seconds[other] / value)


def mttkrp_bytes(tensor: SparseTensor, rank: int, modes: tuple[int, ...]) -> float:
    """What an MTTKRP must at least move: each entry, each matrix read, each output once."""
    read = sum(n for m, n in enumerate(tensor.shape) if len(modes) > 1 or m not in modes)
    return _entry_bytes(tensor) + 4.0 * rank * (read + sum(tensor.shape[m] for m in modes))


def gathered_bytes(tensor: SparseTensor, rank: int, modes: tuple[int, ...]) -> float:
    """What it moves if nothing stays in a cache: rows of the sort mode are read and written once, of every
    other mode once for each entry, and outputs read as well."""
    total = _entry_bytes(tensor)
    for mode, n in enumerate(tensor.shape):
        rows = n if mode == tensor.sort_mode else tensor.nnz
        times = (len(modes) > 1 or mode not in modes) + (mode in modes) * (2 - (mode == tensor.sort_mode))
        total += 4.0 * rank * rows * times
    return total


def _entry_bytes(tensor: SparseTensor) -> float:
    return tensor.nnz * (4.0 + sum(c.itemsize for c in tensor.coords))


def power_law_tensor(shape: tuple[int, ...], nnz: int) -> SparseTensor:
    """Entries at random, rows of every mode as popular as place^-0.5, sorted by the longest mode."""
    rng = np.random.default_rng(0)
    coords = [(n * rng.random(nnz, dtype=np.float32) ** 2).astype(np.int32).clip(0, n - 1) for n in shape]
    coords[0].sort()
    return SparseTensor(tuple(coords), rng.random(nnz, dtype=np.float32), shape)


def ring_laplacian(n: int, neighbours: int = 10) -> Any:
    """L of a graph in which each entity has so many neighbours, in a random order."""
    order = np.random.default_rng(0).permutation(n)
    steps = np.concatenate([np.arange(1, neighbours // 2 + 1), -np.arange(1, neighbours // 2 + 1)])
    rows = np.repeat(order, len(steps))
    columns = order[(np.arange(n)[:, None] + steps).ravel() % n]
    weights = scipy.sparse.csr_array((np.full(len(rows), 1 / len(steps)), (rows, columns)), shape=(n, n))
    laplacian = scipy.sparse.csr_array(scipy.sparse.eye_array(n) - weights)
    return laplacian.astype(np.float32)


def on_gpu(tensor: SparseTensor) -> SparseTensor:
    coords = tuple(to_device(c, "cuda") for c in tensor.coords)
    return SparseTensor(coords, to_device(tensor.values, "cuda"), tensor.shape)


def copy_bandwidth(size: int = 1 << 30) -> float:
    """Bytes read and written per second by a copy in device memory."""
    block = to_device(np.zeros(size // 4, dtype=np.float32), "cuda")
    return 2 * size / seconds_of(block.copy)


def copy_row(bandwidth: float) -> Row:
    return row("device memory", "copy", "cupy copy", "bytes_per_second", bandwidth)


def seconds_of(work: Work) -> float:
    """The shortest of several runs after one that is not counted, waited for on the device."""
    synchronize = import_module("cupy").cuda.Device().synchronize
    work()
    best, total = float("inf"), 0.0
    for _ in range(REPEATS):
        synchronize()
        began = time.perf_counter()
        work()
        synchronize()
        taken = time.perf_counter() - began
        best, total = min(best, taken), total + taken
        if total > ENOUGH_SECONDS:
            break
    return best


def row(data: str, task: str, method: str, metric: str, value: float) -> Row:
    return Row("gpu", data, task, method, metric, value, details={"dtype": "float32"})


def _cupy_mttkrp(tensor: SparseTensor, matrices: tuple[Any, ...], mode: int) -> Work:
    """The rows of the other modes gathered and multiplied, then a sparse matrix that sums entries by row."""
    entries, starts = kernels.group_by_row(tensor, mode)
    csr = import_module("cupyx.scipy.sparse").csr_matrix
    sums = csr((tensor.values[entries], entries.astype(np.int32), starts.astype(np.int32)),
               shape=(tensor.shape[mode], tensor.nnz))  # fmt: skip
    others = [m for m in range(tensor.order) if m != mode]

    def product() -> object:
        rows = matrices[others[0]][tensor.coords[others[0]]]
        for other in others[1:]:
            rows *= matrices[other][tensor.coords[other]]
        return sums @ rows

    return product


def _cupy_chebyshev(laplacian: Any, block: Any, c: Any) -> Any:
    """Clenshaw's recurrence with CuPy's product."""
    now, before = block * c[-1], block * 0
    for k in range(len(c) - 2, -1, -1):
        now, before = c[k] * block + (1.0 if k == 0 else 2.0) * (laplacian @ now - now) - before, now
    return now
