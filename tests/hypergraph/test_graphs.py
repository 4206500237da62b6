import os
import shutil

import numpy as np
import pytest
from distributed import Client

from hyperlearn_dask.config import load_dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.graphs import build_graphs
from hyperlearn_dask.hypergraph.ingest import ingest
from hyperlearn_dask.hypergraph.store import open_hypergraph, read_graph, unit_attributes

SETTINGS = """
name = "small"
[modalities.artist]
table = "artists.csv"
id = "artist"
[modalities.artist.graph]
k = 2
features = [ { kind = "category", column = "country" }, { kind = "relation", relation = "made" } ]
[modalities.user.graph]
edges = "friends.csv"
source = "user"
target = "friend"
edge_weight = "weight"
[modalities.medium]
[relations.made]
table = "made.csv"
columns = { artist = "artist", medium = "medium" }
[relations.likes]
table = "likes.csv"
columns = { user = "user", artist = "artist" }
"""
TABLES = {
    "artists.csv": "artist,country\nmonet,fr\nmanet,fr\ndegas,fr\nklimt,at\nschiele,at\nx,\n",
    "made.csv": "artist,medium\nmonet,oil\nmanet,oil\ndegas,pastel\nklimt,oil\nschiele,ink\n",
    "likes.csv": "user,artist\nann,monet\nbob,klimt\ncat,x\n",
    # eve has friends and likes nothing; cat is her own friend only
    "friends.csv": "user,friend,weight\nann,bob,1\nbob,ann,3\nann,bob,2\neve,bob,1\ncat,cat,5\neve,ann,0\n",
}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def write(folder):
    (folder / "dataset.toml").write_text(SETTINGS)
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path)


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("built"))
    build(folder)
    return folder


@pytest.fixture
def built(once, tmp_path):
    """A folder whose graphs are made."""
    return shutil.copytree(once, tmp_path / "built")


def change(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def build(folder, **options):
    dataset, store = load_dataset(folder), folder / "h.zarr"
    ingest(dataset, store)
    return {report.unit: report for report in build_graphs(dataset, store, **options)}


def actions(folder):
    return {unit.split("/")[1]: report.action for unit, report in build(folder).items()}


def test_edges_of_a_file(folder):
    report = build(folder)["graphs/user"]
    expected = "friends.csv: 2 edges, 1 connected part, 1 isolated entity; 1 self-loop left out"
    assert (report.action, report.detail) == ("made", expected)
    graph = read_graph(folder / "h.zarr", "user")
    assert open_hypergraph(folder / "h.zarr").modalities["user"].ids.tolist() == ["ann", "bob", "cat", "eve"]
    weights = np.zeros((4, 4))  # the largest of those given
    weights[0, 1] = weights[1, 0] = 3
    weights[1, 3] = weights[3, 1] = 1
    scale = np.array([3, 4, 1, 1]) ** -0.5
    expected = np.diag([1.0, 1, 0, 1]) - scale[:, None] * weights * scale
    np.testing.assert_allclose(graph.laplacian.toarray(), expected, atol=1e-15)


def test_neighbours_by_features(folder):
    told = []
    report = build(folder, progress=told.append)["graphs/artist"]
    assert report.detail == (
        "k = 2 cosine over 2 feature blocks: 6 edges, 1 connected part, 1 isolated entity; "
        "country missing for 1; made missing for 1"
    )
    assert [text.split(" (")[0] for text in told] == [
        "artist: reading 2 features",
        "artist: finding neighbours: 5 of 5 entities",
        "user: reading friends.csv",
    ]
    laplacian = read_graph(folder / "h.zarr", "artist").laplacian.toarray()
    ids = open_hypergraph(folder / "h.zarr").modalities["artist"].ids.tolist()
    monet, manet, klimt, schiele, x = map(ids.index, ("monet", "manet", "klimt", "schiele", "x"))
    assert laplacian[monet, manet] < 0 and laplacian[klimt, schiele] < 0
    assert laplacian[monet, schiele] == 0  # neither country nor medium
    assert not laplacian[x].any()


def test_the_same_on_a_cluster(built):
    here = read_graph(built / "h.zarr", "artist").laplacian
    change(built, "dataset.toml", "k = 2", "k = 3")
    build(built)
    change(built, "dataset.toml", "k = 3", "k = 2")
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        build(built, client=client)
    assert (read_graph(built / "h.zarr", "artist").laplacian != here).nnz == 0


def test_nothing_to_do(built):
    before = (built / "h.zarr").stat().st_ino
    again = build(built)
    assert (built / "h.zarr").stat().st_ino == before
    assert [report.action for report in again.values()] == ["kept", "kept"]
    assert again["graphs/user"].detail == "2 edges, 1 connected part, 1 isolated entity"


@pytest.mark.parametrize(
    ("name", "old", "new", "artist", "user"),
    [
        ("dataset.toml", "k = 2", "k = 2\nweight = 9.0", "kept", "kept"),
        ("dataset.toml", "k = 2", "k = 3", "made", "kept"),
        ("dataset.toml", "k = 2", 'k = 2\nmetric = "euclidean"', "made", "kept"),
        ("dataset.toml", 'edge_weight = "weight"', "", "kept", "made"),
        ("friends.csv", "eve,bob,1", "eve,bob,2", "kept", "made"),
        ("artists.csv", "degas,fr", "degas,at", "made", "kept"),
        ("made.csv", "degas,pastel", "degas,ink", "made", "kept"),
        ("likes.csv", "bob,klimt", "bob,monet", "kept", "kept"),
        ("likes.csv", "bob,klimt", "dan,monet", "kept", "made"),  # another user
    ],
)
def test_what_depends_on_a_change_is_made_again(built, name, old, new, artist, user):
    change(built, name, old, new)
    assert actions(built) == {"artist": artist, "user": user}


def test_a_graph_that_is_taken_out_goes(built):
    edges = SETTINGS[SETTINGS.index("[modalities.user.graph]") : SETTINGS.index("[modalities.medium]")]
    change(built, "dataset.toml", edges, "[modalities.user]\n")
    dataset = load_dataset(built)
    # without ingesting: the stage does it on its own
    assert [report.unit for report in build_graphs(dataset, built / "h.zarr")] == ["graphs/artist"]
    stored = unit_attributes(built / "h.zarr")
    assert "graphs/user" not in stored and "relations/made" in stored


def fails(folder):
    """The error of building the graphs, which leaves the store as it was."""
    dataset, store = load_dataset(folder), folder / "h.zarr"
    ingest(dataset, store)
    before = unit_attributes(store)
    with pytest.raises(InputError) as caught:
        build_graphs(dataset, store)
    assert unit_attributes(store) == before
    assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]
    return caught.value


@pytest.mark.parametrize(
    ("weight", "problem"),
    [("-2", "expected a weight of 0 or more, got -2"), ("nan", "finite"), ("", "empty"), ("much", "number")],
)
def test_wrong_weight(folder, weight, problem):
    change(folder, "friends.csv", "eve,bob,1", f"eve,bob,{weight}")
    error = fails(folder)
    assert (error.row, error.column, error.file) == (5, "weight", str(folder / "friends.csv"))
    assert problem in error.problem


def test_unknown_id_in_an_edge(folder):
    change(folder, "dataset.toml", "[modalities.user.graph]", '[modalities.user]\ntable = "users.csv"\n'
           'id = "user"\n[modalities.user.graph]')  # fmt: skip
    (folder / "users.csv").write_text("user\nann\nbob\ncat\n")
    error = fails(folder)
    assert (error.row, error.column) == (5, "user")
    assert "'eve' is no user" in error.problem


def test_too_many_neighbours(folder):
    change(folder, "dataset.toml", "k = 2", "k = 6")
    error = fails(folder)
    assert (error.key, error.file) == ("modalities.artist.graph.k", str(folder / "dataset.toml"))
    assert error.problem == "expected fewer neighbours than entities (6), got 6"


def test_a_store_without_the_modality(built):
    change(built, "dataset.toml", "artist", "painter")
    change(built, "dataset.toml", "painters.csv", "artists.csv")
    (built / "artists.csv").write_text(TABLES["artists.csv"].replace("artist,", "painter,"))
    with pytest.raises(InputError, match="has no 'modalities/painter'; ingest the data set first"):
        build_graphs(load_dataset(built), built / "h.zarr")
