import shutil

import numpy as np
import pytest
import scipy.sparse as sp
import zarr

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.hypergraph.store import (
    open_hypergraph,
    read_entries,
    read_graph,
    read_indptr,
    read_modality,
    read_relation,
    save_hypergraph,
    unit_attributes,
    unit_digests,
)
from hyperlearn_dask.hypergraph.tensor import Modality, Relation, SparseTensor
from hyperlearn_dask.storage import write_array

SHAPE = (3, 5)


def hypergraph(values=(1.0, 2.0, 3.0)):
    modalities = {
        "zebra": Modality("zebra", np.array(["x", "y", "z"]), np.array(["X", "", "Zoë"])),
        "ape": Modality("ape", np.array(list("pqrst"))),
    }
    tensor = SparseTensor((np.array([0, 1, 2]), np.array([4, 2, 2])), np.array(values), SHAPE)
    test = SparseTensor((np.array([-1, 1, 1]), np.array([4, 2, 2])), np.ones(3), SHAPE)
    relation = Relation("r", ("zebra", "ape"), SHAPE, 3, lambda: tensor, lambda: test)
    graph = laplacian_graph("ape", sp.csr_array(np.eye(5, k=1)))
    return Hypergraph(modalities, {"r": relation}, {"ape": graph})


@pytest.fixture
def path(tmp_path):
    save_hypergraph(hypergraph(), tmp_path / "h.zarr")
    return tmp_path / "h.zarr"


def test_a_hypergraph_comes_back(path):
    found = open_hypergraph(path)
    assert found.path == path
    assert list(found.modalities) == ["zebra", "ape"]  # in the order it was given
    assert found.modalities["zebra"].labels.tolist() == ["X", "", "Zoë"]
    assert found.modalities["ape"].labels is None
    relation = found.relations["r"]
    assert (relation.modalities, relation.shape, relation.nnz, relation.mean) == (
        ("zebra", "ape"),
        SHAPE,
        3,
        2.0,
    )
    # sorted by the longest mode, which is the second
    assert [c.tolist() for c in relation.tensor.coords] == [[1, 2, 0], [2, 2, 4]]
    assert relation.tensor.values.tolist() == [2, 3, 1]
    assert relation.tensor.coords[0].dtype == np.int32
    assert [c.tolist() for c in relation.test.coords] == [[-1, 1, 1], [4, 2, 2]]
    given = hypergraph().graphs["ape"]
    graph = found.graphs["ape"]
    np.testing.assert_array_equal(graph.laplacian.toarray(), given.laplacian.toarray())
    assert (graph.edges, graph.components, graph.isolated) == (given.edges, given.components, given.isolated)


@pytest.mark.parametrize(
    ("values", "stored"),
    [((0.5, -3.0, 16777216.0), np.float32), ((0.5, 0.1, 1.0), np.float64), ((0.5, 1e300, 1.0), np.float64)],
)
def test_values_are_stored_in_32_bits_where_that_loses_nothing(tmp_path, values, stored):
    save_hypergraph(hypergraph(values), tmp_path / "h.zarr")
    relation = open_hypergraph(tmp_path / "h.zarr").relations["r"]
    assert [run.values.dtype for run in relation.runs([0, 2, 3])] == [stored, stored]
    assert relation.tensor.values.dtype == np.float64
    assert sorted(relation.tensor.values.tolist()) == sorted(values)


def test_parts_are_read_on_their_own(path):
    indptr = read_indptr(path, "r")
    assert indptr.tolist() == [0, 0, 0, 2, 2, 3]
    part = read_relation(path, "r", int(indptr[4]), int(indptr[5]))
    assert (part.coords[0].tolist(), part.values.tolist(), part.shape) == ([0], [1.0], SHAPE)
    assert read_modality(path, "ape").ids.tolist() == list("pqrst")
    assert read_graph(path, "ape").edges == 4


def test_tensors_and_graphs_are_lazy(path):
    found = open_hypergraph(path)
    for unit in ("relations/r/values", "tests/r/values", "graphs/ape/data"):
        (path / unit / "c" / "0").unlink()
    assert open_hypergraph(path).relations["r"].nnz == 3
    assert "ape" in found.graphs and len(found.graphs) == 1
    for read in (
        lambda: found.relations["r"].tensor,
        lambda: found.relations["r"].test,
        lambda: found.graphs["ape"],
    ):
        with pytest.raises(InputError, match="lacks its chunk 0"):
            read()


def test_damage_is_found(path):
    file = path / "relations/r/coord_1/c/0"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError, match="'relations/r/coord_1' is damaged"):
        read_relation(path, "r")
    with pytest.raises(InputError, match="'relations/s' is missing"):
        read_relation(path, "s")
    with pytest.raises(InputError, match="'graphs/zebra' is missing"):
        read_graph(path, "zebra")


@pytest.mark.parametrize("starts", [[], [0, 3], [0, 2, 1, 2, 2, 3], [1, 1, 2, 2, 3, 3]])
def test_rows_that_begin_elsewhere_are_found(path, starts):
    shutil.rmtree(path / "relations/r/indptr")
    write_array(zarr.open_group(str(path / "relations/r")), "indptr", np.array(starts, dtype=np.int64))
    relation = open_hypergraph(path).relations["r"]
    with pytest.raises(InputError, match="'relations/r' says of other rows where they begin"):
        next(relation.runs([0, 3]))


def test_entries_of_some_rows_are_read_with_where_those_begin(path):
    digest = unit_digests(path)["relations/r"]
    whole = open_hypergraph(path).relations["r"].tensor
    entries = read_entries(path, "r", 2, 3, digest, (3, 5))
    assert len(entries.coords[1].whole) == 3
    np.testing.assert_array_equal(entries.by_entry().coords[1], whole.coords[1][2:3])
    with pytest.raises(InputError, match="says of other rows where they begin"):
        read_entries(path, "r", 2, 3, digest, (2, 5))


def test_a_store_that_was_made_anew_is_not_mixed_with_the_old_one(path):
    old = open_hypergraph(path)
    save_hypergraph(hypergraph(values=(1.0, 2.0, 4.0)), path)
    with pytest.raises(InputError, match="made anew since"):
        _ = old.relations["r"].tensor
    assert old.graphs["ape"].edges == 4  # this is still the same


def test_digests_follow_contents(path, tmp_path):
    other = tmp_path / "other.zarr"
    save_hypergraph(open_hypergraph(path), other)
    assert unit_digests(path) == unit_digests(other)
    assert sorted(unit_digests(path)) == [
        "graphs/ape",
        "modalities/ape",
        "modalities/zebra",
        "relations/r",
        "tests/r",
    ]
    save_hypergraph(hypergraph(values=(1.0, 2.0, 4.0)), other)
    changed = {unit for unit, digest in unit_digests(path).items() if unit_digests(other)[unit] != digest}
    assert changed == {"relations/r"}
    assert unit_attributes(path)["modalities/zebra"]["count"] == 3


def test_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "h.zarr").mkdir()
    (tmp_path / "h.zarr" / "precious").write_text("data")
    with pytest.raises(InputError, match=r"without zarr\.json"):
        save_hypergraph(hypergraph(), tmp_path / "h.zarr")
    assert [entry.name for entry in (tmp_path / "h.zarr").iterdir()] == ["precious"]
