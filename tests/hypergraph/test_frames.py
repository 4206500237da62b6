import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from hyperlearn_dask import Hypergraph
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph, unit_digests

SHOWS = {"artist": ["Monet", "Sisley", "Monet"], "subject": ["water", "sky", "water"], "count": [1, 2.5, 3]}
COLUMNS = ["artist", "subject"]


def entries(tensor):
    return list(zip(*(coord.tolist() for coord in tensor.coords), tensor.values.tolist()))


def as_pandas(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def as_arrays(columns):
    return {name: np.array(values) for name, values in columns.items()}


@pytest.mark.parametrize("frame", [dict, as_arrays, pa.table, as_pandas])
def test_any_kind_of_frame(frame):
    found = Hypergraph.from_frames({"shows": (frame(SHOWS), COLUMNS, "count")})
    assert found.modalities["artist"].ids.tolist() == ["Monet", "Sisley"]
    relation = found.relations["shows"]
    assert (relation.modalities, relation.shape, relation.nnz) == (("artist", "subject"), (2, 2), 2)
    assert entries(relation.tensor) == [(0, 1, 4), (1, 0, 2.5)]


def test_relations_share_modalities():
    made = pa.table({"painter": [3, 1], "work": ["b", "a"]})
    lived = {"who": [20, 3], "where": ["Giverny", "Paris"]}
    relations = {
        "made": (made, {"artist": "painter", "work": "work"}),
        "lived": (lived, {"artist": "who", "place": "where"}),
    }
    found = Hypergraph.from_frames(relations)
    assert found.modalities["artist"].ids.tolist() == ["1", "3", "20"]
    assert entries(found.relations["made"].tensor) == [(0, 0, 1), (1, 1, 1)]
    assert entries(found.relations["lived"].tensor) == [(1, 1, 1), (2, 0, 1)]


def test_labels_tests_lists_and_rules():
    shows = pa.table({"artist": ["b", "a", "b"], "subject": [["x", "y"], ["y"], ["x"]], "count": [1, 2, 5]})
    found = Hypergraph.from_frames(
        {"shows": (shows, COLUMNS, "count")},
        modalities={"artist": (pa.table({"id": ["b", "a", "c"], "name": ["B", "A", None]}), "id", "name")},
        tests={"shows": {"artist": ["c", "z"], "subject": ["y", "y"], "count": [1, 1]}},
        duplicates={"shows": "last"},
        unseen="skip",
    )
    assert found.modalities["artist"].labels.tolist() == ["A", "B", ""]
    assert entries(found.relations["shows"].tensor) == [(0, 1, 2), (1, 0, 5), (1, 1, 1)]
    assert entries(found.relations["shows"].test) == [(2, 1, 1), (-1, 1, 1)]


def test_graphs_of_edges_and_of_a_matrix():
    edges = pa.table({"from": ["Monet"], "to": ["Boudin"], "w": [2.0]})
    matrix = sp.csr_array(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]))
    found = Hypergraph.from_frames(
        {"shows": (SHOWS, COLUMNS)},
        modalities={"subject": ["water", "garden", "sky"]},  # the rows of the matrix
        graphs={"artist": (edges, "from", "to", "w"), "subject": matrix},
    )
    assert found.modalities["artist"].ids.tolist() == ["Boudin", "Monet", "Sisley"]
    assert np.flatnonzero(found.graphs["artist"].laplacian.toarray()[0]).tolist() == [0, 1]
    assert found.modalities["subject"].ids.tolist() == ["garden", "sky", "water"]
    assert np.flatnonzero(found.graphs["subject"].laplacian.toarray()[0]).tolist() == [0, 2]
    assert found.graphs["subject"].isolated == 1


def test_of_edges_named_twice_the_largest_weight_counts_as_in_ingest():
    edges = {"from": ["Monet", "Monet", "Sisley"], "to": ["Sisley", "Sisley", "Monet"], "w": [1.0, 3.0, 2.0]}
    more = {"from": ["Monet"], "to": ["Degas"], "w": [3.0]}
    both = {name: edges[name] + more[name] for name in edges}
    found = Hypergraph.from_frames(
        {"shows": (SHOWS, COLUMNS)}, graphs={"artist": (both, "from", "to", "w")}
    ).graphs["artist"]
    # Two edges of the same weight: each is 1 / sqrt(2) of what Monet has.
    assert found.edges == 2
    np.testing.assert_allclose(found.laplacian.toarray()[1], [-(2**-0.5), 1, -(2**-0.5)])


@pytest.mark.parametrize("frame", ["pandas", "batch"])
def test_frames_without_a_header_and_record_batches(frame):
    columns = {"user": 0, "item": 1}
    if frame == "pandas":
        table = pytest.importorskip("pandas").DataFrame([[3, "a", 2.5], [1, "b", 1.0]])
        relation = (table, columns, 2)
    else:
        table = pa.record_batch({"0": [3, 1], "1": ["a", "b"], "2": [2.5, 1.0]})
        relation = (table, columns, "2")
    found = Hypergraph.from_frames({"rated": relation})
    assert entries(found.relations["rated"].tensor) == [(0, 1, 1.0), (1, 0, 2.5)]


def test_it_can_be_saved(tmp_path):
    found = Hypergraph.from_frames({"shows": (SHOWS, COLUMNS)}, tests={"shows": SHOWS})
    save_hypergraph(found, tmp_path / "a.zarr")
    save_hypergraph(open_hypergraph(tmp_path / "a.zarr"), tmp_path / "b.zarr")
    assert unit_digests(tmp_path / "a.zarr") == unit_digests(tmp_path / "b.zarr")


IDENTITY = sp.csr_array(np.eye(2))
GIVEN = {"shows": (SHOWS, COLUMNS)}

WRONG = {
    "none": (({},), {}, "relations: expected at least one relation"),
    "no columns": (({"r": SHOWS},), {}, "relation 'r': expected (frame, columns)"),
    "one column": (({"r": (SHOWS, ["artist"])},), {}, "relation 'r': a relation joins at least two"),
    "text as columns": (({"r": (SHOWS, "artist")},), {}, "relation 'r': expected the columns as a list"),
    "column": (
        ({"r": (SHOWS, ["artist", "subjct"])},),
        {},
        "relation 'r', column 'subjct': no such column, did you",
    ),
    "no frame": (
        ({"r": (7, COLUMNS)},),
        {},
        "relation 'r': expected a data frame or a dict of columns, got int",
    ),
    "no rows": (({"r": ({"a": [], "b": []}, ["a", "b"])},), {}, "relation 'r': has no rows"),
    "lengths": (({"r": ({"a": [1], "b": [1, 2]}, ["a", "b"])},), {}, "different lengths (a 1, b 2)"),
    "mixture": (
        ({"r": ({"a": [1, "x"], "b": [1, 2]}, ["a", "b"])},),
        {},
        "column 'a': expected values of one kind",
    ),
    "no id": (
        ({"r": ({"a": ["x", None], "b": [1, 2]}, ["a", "b"])},),
        {},
        "relation 'r', row 2, column 'a': is empty",
    ),
    "nan": (({"r": (SHOWS | {"count": [1, np.nan, 2]}, COLUMNS, "count")},), {}, "row 2, column 'count'"),
    "infinite": (
        ({"r": (SHOWS | {"count": [1, 2, np.inf]}, COLUMNS, "count")},),
        {},
        "row 3, column 'count'",
    ),
    "repeated": ((GIVEN,), {"duplicates": "error"}, "relation 'shows', row 3: repeats row 1"),
    "rule": (
        (GIVEN,),
        {"duplicates": "max"},
        "duplicates: 'max' is not a choice (expected one of sum, last, error)",
    ),
    "rule of what": (
        (GIVEN,),
        {"duplicates": {"show": "sum"}},
        "duplicates: no relation 'show', did you mean 'shows'",
    ),
    "test of what": ((GIVEN,), {"tests": {"x": SHOWS}}, "tests: no relation 'x' (expected shows)"),
    "unseen": (
        (GIVEN,),
        {"tests": {"shows": SHOWS | {"artist": ["Monet", "Mone", "x"]}}},
        "test of relation 'shows', row 2, column 'artist': 'Mone' is no artist, did you mean 'Monet'?",
    ),
    "not listed": (
        (GIVEN,),
        {"modalities": {"artist": ["Monet"]}},
        "row 2, column 'artist': 'Sisley' is no artist",
    ),
    "listed twice": (
        (GIVEN,),
        {"modalities": {"artist": ["a", "b", "a"]}},
        "modality 'artist', row 3, column 'id': 'a' is",
    ),
    "graph of what": ((GIVEN,), {"graphs": {"x": IDENTITY}}, "graphs: no modality 'x'"),
    "rows of what": (
        (GIVEN,),
        {"graphs": {"artist": IDENTITY}},
        "a matrix does not say which ids its rows are",
    ),
    "matrix size": (
        (GIVEN,),
        {"graphs": {"artist": IDENTITY}, "modalities": {"artist": ["Monet", "Sisley", "x"]}},
        "graph of 'artist': expected a matrix of 3 x 3, a row per id, got 2 x 2",
    ),
    "no graph": (
        (GIVEN,),
        {"graphs": {"artist": SHOWS}},
        "graph of 'artist': expected a SciPy sparse matrix, (frame",
    ),
    "edge": (
        (GIVEN,),
        {"graphs": {"artist": (SHOWS, "artist", "subject")}, "modalities": {"artist": ["Monet", "Sisley"]}},
        "graph of 'artist', row 1, column 'subject': 'water' is no artist",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    given, more, message = WRONG[case]
    with pytest.raises(InputError) as caught:
        Hypergraph.from_frames(*given, **more)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
