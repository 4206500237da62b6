import dask
import numpy as np
import pytest
import sparse

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.interop import as_dask_array
from hyperlearn_dask.hypergraph.store import save_hypergraph
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor

SHAPE = (4, 30, 5)


def store(path, tensor):
    relation = Relation("r", ("a", "b", "c"), tensor.shape, tensor.nnz, lambda: tensor)
    save_hypergraph(Hypergraph({"a": Modality("a", np.array(["x"]))}, {"r": relation}, {}), path)


def stored(path):
    random = np.random.default_rng(0)
    coords = np.unravel_index(random.choice(np.prod(SHAPE), 80, replace=False), SHAPE)
    dense = np.zeros(SHAPE)
    dense[coords] = random.normal(size=80)
    store(path, SparseTensor(tuple(coords), dense[coords], SHAPE))
    return dense


@pytest.mark.parametrize("chunks", [None, 1, 7, 30, 100])
def test_it_is_the_dense_tensor(tmp_path, chunks):
    dense = stored(tmp_path / "h.zarr")
    array = as_dask_array(tmp_path / "h.zarr", "r", chunks=chunks)
    assert array.shape == SHAPE
    assert isinstance(array._meta, sparse.COO)
    with dask.config.set(scheduler="threads"):
        np.testing.assert_array_equal(array.compute().todense(), dense)
        np.testing.assert_allclose(array.sum(axis=1).compute().todense(), dense.sum(axis=1))
        np.testing.assert_array_equal(array[1:, 5:25:3, 2].compute().todense(), dense[1:, 5:25:3, 2])
        np.testing.assert_array_equal(array.transpose(2, 0, 1).compute().todense(), dense.transpose(2, 0, 1))


def test_blocks_lie_along_the_longest_mode(tmp_path):
    stored(tmp_path / "h.zarr")
    assert as_dask_array(tmp_path / "h.zarr", "r", chunks=12).chunks == ((4,), (12, 12, 6), (5,))
    block = as_dask_array(tmp_path / "h.zarr", "r", chunks=12).blocks[0, 1, 0].compute(scheduler="threads")
    assert isinstance(block, sparse.COO)


def test_blocks_have_about_as_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperlearn_dask.hypergraph.interop._ENTRIES", 20)
    dense = stored(tmp_path / "h.zarr")
    array = as_dask_array(tmp_path / "h.zarr", "r")
    assert array.numblocks == (1, 4, 1)
    np.testing.assert_array_equal(array.compute(scheduler="threads").todense(), dense)


def test_what_cannot_be_is_one_line(tmp_path):
    store(tmp_path / "h.zarr", SparseTensor((np.zeros(1, int),) * 3, np.ones(1), (2**21, 2**21, 2**21)))
    with pytest.raises(InputError, match=r"'r' has 2,097,152 x 2,097,152 x 2,097,152 cells, more than"):
        as_dask_array(tmp_path / "h.zarr", "r")
    with pytest.raises(InputError, match="'relations/q' is missing"):
        as_dask_array(tmp_path / "h.zarr", "q")
    stored(tmp_path / "h.zarr")
    with pytest.raises(InputError, match="chunks: expected at least 1 row"):
        as_dask_array(tmp_path / "h.zarr", "r", chunks=0)
