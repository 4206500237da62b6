import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from hyperlearn_dask.config import FeatureSpec, GraphSpec, ModalitySpec, TableSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph import features as f
from hyperlearn_dask.hypergraph.reading.entities import Entities
from hyperlearn_dask.hypergraph.tensor import Modality, SparseTensor

IDS = ["a", "b", "c", "d"]


def dense(columns):
    return columns.toarray() if sp.issparse(columns) else columns


def owners(*entities):
    return np.array(entities, dtype=np.int64)


# Blocks, from values in memory.


def test_text_is_tf_idf_of_all_texts_of_an_entity():
    texts = pa.array(["red red boat", "Boat", "a sée", "sea"])
    block = f.text_block(owners(0, 1, 2, 0), texts, 4)
    assert block.given.tolist() == [True, True, True, False]
    boat, red, sea, see = dense(block.columns).T  # in alphabetical order; accents do not count
    # idf = ln((1 + n) / (1 + df)) + 1, tf = 1 + ln(count); n = 4 entities
    idf_boat, idf_once = math.log(5 / 3) + 1, math.log(5 / 2) + 1
    row = np.array([idf_boat, (1 + math.log(2)) * idf_once, idf_once])
    np.testing.assert_allclose([boat[0], red[0], sea[0]], row / np.linalg.norm(row))
    assert (boat[1], see[2]) == (1, 1)


@pytest.mark.parametrize("texts", [[], ["", "?!"]])
def test_text_without_words(texts):
    block = f.text_block(np.zeros(len(texts), np.int64), pa.array(texts, pa.string()), 2)
    assert not block.given.any()


def test_categories_are_one_hot_or_several_of_unit_length():
    block = f.category_block(owners(0, 1, 1, 1, 3), pa.array(["oil", "oil", "ink", "ink", "pen"]), 4)
    expected = np.array([[1, 0, 0], [0.5**0.5, 0.5**0.5, 0], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(dense(block.columns), expected)
    assert block.given.tolist() == [True, True, False, True]


def test_numbers_are_standardised_and_averaged():
    numbers = np.array([1.0, 3.0, 5.0, np.nan, 7.0])
    block = f.number_block(owners(0, 0, 1, 2, 3), numbers, 4, "euclidean")
    values = np.array([2.0, 5, np.nan, 7])
    expected = (values - np.nanmean(values)) / np.nanstd(values)
    np.testing.assert_allclose(block.columns[:, 0], np.nan_to_num(expected))
    assert block.given.tolist() == [True, True, False, True]


def test_similarity_of_numbers_falls_with_their_difference():
    block = f.number_block(np.arange(4), np.array([0.0, 1, 2, 10]), 4, "cosine")
    similarity = block.columns @ block.columns.T
    x = (np.array([0, 1, 2, 10]) - 3.25) / np.std([0, 1, 2, 10])
    np.testing.assert_allclose(similarity, np.cos(np.arctan(x)[:, None] - np.arctan(x)))
    assert similarity[0, 1] > similarity[0, 2] > similarity[0, 3]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_numbers_say_nothing_wrong(metric):
    block = f.number_block(np.arange(3), np.full(3, 5.0), 4, metric)
    assert np.isfinite(block.columns).all()
    assert block.given.tolist() == [True, True, True, False]
    assert (block.columns[0] == block.columns[1]).all()


def test_vectors():
    vectors = np.array([[3.0, 4], [0, 0], [1, 0], [1, 2]])
    plain = f.vector_block(owners(0, 1, 2, 2), vectors, 4, "euclidean")
    assert plain.columns.tolist() == [[3, 4], [0, 0], [1, 1], [0, 0]]
    assert plain.given.tolist() == [True, True, True, False]
    unit = f.vector_block(owners(0, 1, 2, 2), vectors, 4, "cosine")
    np.testing.assert_allclose(unit.columns[:3], [[0.6, 0.8], [0, 0], [0.5**0.5, 0.5**0.5]])
    assert unit.given.tolist() == [True, False, True, False]  # zeros point nowhere


def test_relation_is_a_bag_of_the_entities_met():
    # artwork x (subject, medium): 0 meets subject 1 twice and media 0, 1; 1 meets subject 0, medium 1
    coords = (np.array([1, 1, 0]), np.array([0, 0, 1]), np.array([0, 1, 1]))
    tensor = SparseTensor(coords, np.array([5.0, 7.0, 1.0]), (2, 3, 2))
    block = f.relation_block(tensor, 1)
    idf_once, idf_twice = math.log(4 / 2) + 1, math.log(4 / 3) + 1
    row = np.array([0, (1 + math.log(2)) * idf_once, idf_once, idf_twice])
    columns = dense(block.columns)
    np.testing.assert_allclose(columns[0], row / np.linalg.norm(row))
    assert np.flatnonzero(columns[1]).tolist() == [0, 3]
    assert block.given.tolist() == [True, True, False]


# Whole feature matrices, from tables.


def no_relation(name):
    raise AssertionError(name)


def read(folder, specs, metric="cosine", closed=True):
    table = TableSpec(folder / "t.csv", "csv") if closed else None
    modality = ModalitySpec("thing", table=table, id="id" if closed else None)
    entities = Entities(Modality("thing", np.array(IDS)), closed=closed)
    graph = GraphSpec(features=tuple(specs), metric=metric)
    return f.read_features(modality, graph, entities, no_relation)


def csv(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return (TableSpec(folder / name, "csv"),)


def test_blocks_are_weighted_and_stand_side_by_side(tmp_path):
    tables = csv(tmp_path, "id,medium,born\nb,oil;ink,1900\na,oil,1800\nd,,1850\nc,,\n")
    specs = [
        FeatureSpec("category", "medium", tables, "id", separator=";", weight=2.0),
        FeatureSpec("number", "born", tables, "id"),
    ]
    found = read(tmp_path, specs, "euclidean")
    norms = np.linalg.norm(dense(found.matrix)[:, :2], axis=1)
    np.testing.assert_allclose(norms, [2, 2, 0, 0])
    born = dense(found.matrix)[:, 2]
    np.testing.assert_allclose(born, np.array([-50, 50, 0, 0]) / np.std([1800, 1900, 1850]))
    assert found.informed.tolist() == [True, True, False, True]
    assert found.notes == ("medium missing for 2", "born missing for 1")
    assert isinstance(read(tmp_path, specs[1:]).matrix, np.ndarray)


def test_flags_that_are_set_are_categories(tmp_path):
    tables = csv(tmp_path, "id,comedy,drama,war\na,1,0,1\nb,0,0,0\nd,1,,0\n")
    found = read(tmp_path, [FeatureSpec("flags", None, tables, "id", columns=("comedy", "drama", "war"))])
    rows = dense(found.matrix)
    assert found.widths == (rows.shape[1],)
    np.testing.assert_allclose(rows @ rows.T, [[1, 0, 0, 0.5**0.5], [0] * 4, [0] * 4, [0.5**0.5, 0, 0, 1]])
    assert found.informed.tolist() == [True, False, False, True]
    assert found.notes == ("comedy, drama, war missing for 2",)


def test_rows_of_several_tables_add_up(tmp_path):
    tables = csv(tmp_path, "id,word\na,x\nb,y\n") + csv(tmp_path, "id,word\na,y\nd,x\n", "u.csv")
    found = dense(read(tmp_path, [FeatureSpec("category", "word", tables, "id")]).matrix)
    np.testing.assert_allclose(found, [[0.5**0.5] * 2, [0, 1], [0, 0], [1, 0]])


def test_ids_that_are_no_entity(tmp_path):
    tables = csv(tmp_path, "id,word\na,x\ne,y\n")
    specs = [FeatureSpec("category", "word", tables, "id")]
    with pytest.raises(InputError) as caught:
        read(tmp_path, specs)
    assert (caught.value.row, caught.value.column) == (3, "id")
    assert "'e' is no thing" in str(caught.value)
    found = read(tmp_path, specs, closed=False)
    assert found.informed.tolist() == [True, False, False, False]
    assert dense(found.matrix).sum() == 1


def parquet(folder, vectors, kind=None):
    columns = pa.table({"id": IDS[: len(vectors)], "v": pa.array(vectors, kind)})
    pq.write_table(columns, folder / "v.parquet")
    return (TableSpec(folder / "v.parquet", "parquet"),)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int64()), pa.list_(pa.float64(), 2)]
)
def test_vectors_in_a_column(tmp_path, kind):
    tables = parquet(tmp_path, [[1, 2], None, [3, 4]], kind)
    found = read(tmp_path, [FeatureSpec("vector", "v", tables, "id")], "euclidean")
    assert found.matrix.tolist() == [[1, 2], [0, 0], [3, 4], [0, 0]]
    assert found.informed.tolist() == [True, False, True, False]


def test_vectors_in_json_lines(tmp_path):
    rows = [{"id": "b", "v": [1, 0.5]}, {"id": "a", "v": [2, 3]}]
    (tmp_path / "v.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    tables = (TableSpec(tmp_path / "v.jsonl", "jsonl"),)
    found = read(tmp_path, [FeatureSpec("vector", "v", tables, "id")], "euclidean")
    assert found.matrix[:2].tolist() == [[2, 3], [1, 0.5]]


@pytest.mark.parametrize(
    ("vectors", "row", "problem"),
    [
        ([[1.0, 2.0], [1.0]], 2, "expected 2 numbers as in the rows before, got 1"),
        ([[1.0, 2.0], None, [1.0, math.nan]], 3, "nan"),
        ([[1.0, 2.0], [math.inf, 1.0]], 2, "inf"),
        ([[1.0, None]], 1, "empty"),
        ([1.0, 2.0], 1, "expected a list of numbers"),
    ],
)
def test_wrong_vectors_in_a_column(tmp_path, vectors, row, problem):
    tables = parquet(tmp_path, vectors)
    with pytest.raises(InputError, match=problem) as caught:
        read(tmp_path, [FeatureSpec("vector", "v", tables, "id")])
    assert (caught.value.row, caught.value.column) == (row, "v")


def test_vectors_of_a_file_follow_the_table(tmp_path):
    csv(tmp_path, "id\nd\nb\n\na\n")
    np.save(tmp_path / "v.npy", np.array([[1, 2], [3, 4], [5, 6]]))
    found = read(tmp_path, [FeatureSpec("vector", file=tmp_path / "v.npy")], "euclidean")
    assert found.matrix.tolist() == [[5, 6], [3, 4], [0, 0], [1, 2]]
    assert found.notes == ("v.npy missing for 1",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (np.zeros((2, 2)), "expected a row for each of the 3 rows of t.csv, got 2"),
        (np.array([[1.0], [math.nan], [0.0]]), "row 2: expected finite numbers, got nan in column 1"),
        (np.zeros(3), "expected a matrix of numbers, got shape"),
        (np.array([["x"]] * 3), "expected a matrix of numbers, got shape"),
        (np.array([[{}]] * 3, dtype=object), "is no readable .npy file"),
        (b"id,v", "is no readable .npy file"),
        (b"", "is no readable .npy file"),
    ],
)
def test_wrong_vectors_in_a_file(tmp_path, content, problem):
    csv(tmp_path, "id\na\nb\nc\n")
    path = tmp_path / "v.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=problem) as caught:
        read(tmp_path, [FeatureSpec("vector", file=path)])
    assert caught.value.file == str(path)


@pytest.mark.parametrize(
    ("kind", "cell", "row", "problem"),
    [("number", "old", 3, "expected a number, got 'old'"), ("number", "nan", 3, "finite")],
)
def test_wrong_cells(tmp_path, kind, cell, row, problem):
    tables = csv(tmp_path, f"id,x\na,1\nb,{cell}\n")
    with pytest.raises(InputError, match=problem) as caught:
        read(tmp_path, [FeatureSpec(kind, "x", tables, "id")])
    assert (caught.value.row, caught.value.column) == (row, "x")


@pytest.mark.parametrize("kind", ["text", "category", "number", "vector"])
def test_a_feature_that_says_nothing(tmp_path, kind):
    pq.write_table(pa.table({"id": IDS, "x": pa.nulls(4)}), tmp_path / "x.parquet")
    tables = (TableSpec(tmp_path / "x.parquet", "parquet"),)
    if kind != "vector":
        tables += csv(tmp_path, "id,x\na,\nb,\n")
    with pytest.raises(InputError, match="says nothing about any entity") as caught:
        read(tmp_path, [FeatureSpec(kind, "x", tables, "id")])
    assert caught.value.key == "modalities.thing.graph.features[0]"
    assert caught.value.column == "x"
