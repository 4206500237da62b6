"""The CUDA kernels' index arithmetic far beyond 32 bits, and the geometry of launches that large.

Arrays with billions of elements are made believe: the kernels, executed on the host, are given addresses so
far before the real ones that the rows in use are the last of such an array. One product in 32 bits on the
way to an address, and the kernel reads and writes elsewhere.
"""

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from hyperlearn_dask.factorization.kernels import cpu
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from tests.cuda import fake_cupy

from .made_up import loop_line, loop_mttkrp, loop_normal_equations, random_tensor

FIRST = 300_000_000  # times 9 columns is more than 2^31, and so is its square of anything
SHAPE, RANK = (6, 5, 4), 9


class Far(fake_cupy.ndarray):
    """The last rows of an array that has ``FIRST`` more before them."""

    @property
    def data(self):
        before = FIRST * self._host.strides[0]
        return SimpleNamespace(ptr=(self._host.ctypes.data - before) % 2**64)


@pytest.fixture
def cuda(monkeypatch):
    if import_module("shutil").which("g++") is None:
        pytest.skip("there is no g++ to run CUDA kernels on the host")
    fake_cupy.install(monkeypatch)
    return import_module("hyperlearn_dask.factorization.kernels.cuda")


@pytest.fixture
def far():
    """A tensor whose rows are all far, with matrices and directions; and the same at the beginning."""
    rng = np.random.default_rng(0)
    near = random_tensor(rng, SHAPE, 60)
    near = SparseTensor(near.coords, near.values.astype(np.float32), SHAPE)
    matrices, directions = (
        tuple(rng.normal(size=(n, RANK)).astype(np.float32) for n in SHAPE) for _ in range(2)
    )
    indices = tuple(fake_cupy.asarray((c + FIRST).astype(np.int32)) for c in near.coords)
    assert FIRST * RANK > 2**31 > FIRST
    return near, matrices, directions, indices


def test_mttkrp(cuda, far):
    near, matrices, _, indices = far
    outputs = [Far(np.zeros_like(a)) for a in matrices]
    table = cuda._table(*indices, *map(Far, matrices), *outputs)
    kernel = cuda._kernel("tensor.cu", "mttkrp", "float", "int", 3, cuda.lanes(RANK))
    scalars = (np.int64(near.nnz), np.int32(8), np.int32(RANK), np.int32(0), np.int32(0b111))
    kernel((4, 1), (128,), (*scalars, np.uint64(0), fake_cupy.asarray(near.values), table))
    for mode in range(3):
        expected = loop_mttkrp(near, matrices, mode)
        np.testing.assert_allclose(outputs[mode].get(), expected, rtol=1e-4, atol=1e-5)


def test_line(cuda, far):
    near, matrices, directions, indices = far
    partial = fake_cupy.empty((2, 7))
    table = cuda._table(*indices, *map(Far, matrices), *map(Far, directions))
    kernel = cuda._kernel("tensor.cu", "line", "float", "int", 3, cuda.lanes(RANK), 128)
    scalars = (np.int64(near.nnz), np.int32(RANK), np.float64(0.7))
    kernel((2,), (128,), (*scalars, fake_cupy.asarray(near.values), table, partial))
    expected = loop_line(near, matrices, directions, 0.7)
    np.testing.assert_allclose(partial.get().sum(axis=0), expected, rtol=1e-4)


def test_equations(cuda, far):
    near, matrices, _, indices = far
    entries, starts = cpu.group_by_row(near, 0)
    free, fixed = np.arange(1, RANK), np.arange(1)
    expected = loop_normal_equations(near, matrices, 0, free, fixed, 0.7)
    width = len(free)
    gram, right = (Far(np.zeros(shape, np.float32)) for shape in ((6, width, width), (6, width)))
    kernel = cuda._kernel("tensor.cu", "equations", "float", "int", 3, 16, "false")
    scalars = (512, RANK, width, len(fixed), 0)
    segments = (fake_cupy.asarray(np.arange(6) + FIRST), fake_cupy.asarray(starts[:-1]), Far(starts))
    columns = (fake_cupy.asarray(c.astype(np.int32)) for c in (free, fixed))
    values, table = fake_cupy.asarray(near.values), cuda._table(*indices, *map(Far, matrices))
    kernel(
        (6, 1),
        (64,),
        (
            *map(np.int32, scalars),
            np.float32(0.7),
            *segments,
            fake_cupy.asarray(entries),
            *columns,
            values,
            np.uint64(0),
            table,
            gram,
            right,
        ),
    )
    for got, wanted in zip((gram, right), expected):
        np.testing.assert_allclose(got.get(), wanted, rtol=1e-4, atol=1e-5)


def test_graph_product(cuda):
    rng = np.random.default_rng(0)
    block, dense = rng.normal(size=(7, RANK)), rng.normal(size=(5, 7))
    product = fake_cupy.empty((5, RANK))
    kernel = cuda._kernel("dense.cu", "graph_step", "double", "long long", 16, 128, "true")
    indptr, indices = np.arange(0, 36, 7), np.tile(np.arange(7) + FIRST, 5)
    scalars = (np.int64(5), np.int32(RANK), np.int32(256), np.float64(0))
    arrays = (*map(fake_cupy.asarray, (indptr, indices, dense.ravel())), Far(block))
    kernel((1, 1), (128,), (*scalars, *arrays, np.uint64(0), np.uint64(0), product))
    np.testing.assert_allclose(product.get(), dense @ block)


@pytest.mark.parametrize("nnz", [1, 7, 8, 9, 65_537, 10_000_000, 100_000_000, 2**31 + 5, 10**11])
@pytest.mark.parametrize("rank", [1, 8, 9, 16, 17, 32, 33, 64, 100, 1000])
def test_launches_cover_all_and_stay_within_limits(cuda, nnz, rank):
    blocks, tiles = cuda.walk_grid(nnz, rank)
    of_block = cuda.THREADS // cuda.lanes(rank) * cuda.run_length(nnz)
    assert (blocks - 1) * of_block < nnz <= blocks * of_block
    assert (tiles - 1) * cuda.lanes(rank) < rank <= tiles * cuda.lanes(rank)
    assert blocks < 2**31
    assert tiles < 2**16
