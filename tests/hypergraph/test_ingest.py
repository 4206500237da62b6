import gzip
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from hyperlearn_dask.config import load_dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.ingest import ingest
from hyperlearn_dask.hypergraph.laplacian import laplacian_graph
from hyperlearn_dask.hypergraph.store import (
    create_hypergraph,
    open_hypergraph,
    read_indptr,
    stored_order,
    unit_digests,
    write_graph,
)
from hyperlearn_dask.storage import link_unit, replacing

SETTINGS = """
[modalities.artwork]
table = "artworks.csv"
id = "id"
label = "title"

[modalities.artist]
[modalities.artist.graph]
edges = "taught.tsv"
source = "teacher"
target = "pupil"

[modalities.subject]

[relations.made]
table = "made.csv.gz"
columns = { artwork = "work", artist = "artist" }

[relations.depicts]
table = "depicts.csv"
columns = { artwork = "work", subject = { column = "subjects", separator = ";" }, artist = "artist" }
value = "count"
test = "depicts_test.csv"
target = "subject"
"""

TABLES = {
    "artworks.csv": "id,title\n10,Water Lilies\n9,\n100,Starry Night\n",
    "taught.tsv": "teacher\tpupil\nBoudin\tMonet\n",
    "made.csv.gz": "work,artist\n10,Monet\n9,Monet\n100,van Gogh\n",
    "depicts.csv": "work,subjects,count,artist\n"
    "10,water; flower,2,Monet\n100,night,1.5,van Gogh\n9,water,1,Monet\n10,water,4,Monet\n",
    "depicts_test.csv": "count,artist,work,subjects\n1,Monet,9,flower;water\n3,Monet,9,flower\n",
}


def write(folder, name, content):
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)


def dataset(folder, settings=SETTINGS, **tables):
    folder.mkdir(exist_ok=True)
    for name, content in (TABLES | tables).items():
        write(folder, name, content)
    (folder / "dataset.toml").write_text(settings)
    return load_dataset(folder)


@pytest.fixture
def museum(tmp_path):
    return dataset(tmp_path / "museum")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out" / "hypergraph.zarr"


def made(reports):
    return [report.unit for report in reports if report.action == "made"]


def coords(tensor):
    return list(zip(*(coord.tolist() for coord in tensor.coords), tensor.values.tolist()))


def test_tables_become_a_hypergraph(museum, path):
    reports = ingest(museum, path)
    found = open_hypergraph(path)
    assert found.modalities["artwork"].ids.tolist() == ["9", "10", "100"]  # as numbers
    assert found.modalities["artwork"].labels.tolist() == ["", "Water Lilies", "Starry Night"]
    assert found.modalities["artist"].ids.tolist() == ["Boudin", "Monet", "van Gogh"]  # edges count too
    assert found.modalities["subject"].ids.tolist() == ["flower", "night", "water"]
    assert coords(found.relations["made"].tensor) == [(0, 1, 1), (1, 1, 1), (2, 2, 1)]
    depicts = found.relations["depicts"]
    assert depicts.modalities == ("artwork", "subject", "artist")
    assert coords(depicts.tensor) == [(0, 2, 1, 1), (1, 0, 1, 2), (1, 2, 1, 6), (2, 1, 2, 1.5)]
    assert depicts.mean == pytest.approx(10.5 / 4)
    assert coords(depicts.test) == [(0, 0, 1, 1), (0, 2, 1, 1), (0, 0, 1, 3)]  # in the order of the file
    assert found.relations["made"].test is None
    assert read_indptr(path, "depicts").tolist() == [0, 1, 3, 4]
    units = [
        "modalities/artwork",
        "modalities/artist",
        "modalities/subject",
        "relations/made",
        "relations/depicts",
        "tests/depicts",
    ]
    assert [(report.unit, report.action) for report in reports] == [(unit, "made") for unit in units]
    assert stored_order(path) == units
    assert reports[4].detail == "4 hyperedges, 1 duplicate summed"
    assert [entry.name for entry in path.parent.iterdir()] == ["hypergraph.zarr"]


def test_the_store_does_not_depend_on_how_it_was_made(tmp_path, path):
    random = np.random.default_rng(0)
    rows = [
        f"{random.integers(1, 60)},s{random.integers(9)},{random.random()},{random.integers(9)}"
        for _ in range(400)
    ]
    large = {
        "artworks.csv": "id,title\n" + "".join(f"{n},t\n" for n in range(1, 60)) + "100,\n",
        "depicts.csv": "work,subjects,count,artist\n" + "\n".join(rows),
        "depicts_test.csv": TABLES["depicts_test.csv"].replace("flower", "s1").replace("water", "s2"),
    }
    data = dataset(tmp_path / "large", **large)
    ingest(data, path)
    expected = unit_digests(path)
    for number, block in enumerate((40, 997)):
        other = tmp_path / f"{number}.zarr"
        ingest(data, other, block=block)
        assert unit_digests(other) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_the_same_store(museum, tmp_path, path, workers):
    from distributed import Client, LocalCluster

    ingest(museum, path)
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address=None,
    )
    with cluster, Client(cluster) as client:
        ingest(museum, tmp_path / "other.zarr", client=client, block=30)
        assert unit_digests(tmp_path / "other.zarr") == unit_digests(path)
        write(museum.path.parent, "depicts.csv", TABLES["depicts.csv"] + "9,water,x,Monet\n")
        with pytest.raises(
            InputError, match=r"depicts\.csv, row 6, column 'count': expected a number, got 'x'"
        ):
            ingest(museum, tmp_path / "other.zarr", client=client, block=30)


def test_a_second_time_nothing_is_done(museum, path):
    ingest(museum, path)
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    said = []
    assert made(ingest(museum, path, progress=said.append)) == []
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    assert said == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("artworks.csv", "Starry Night", "The Starry Night", ["modalities/artwork"]),
        ("made.csv.gz", "9,Monet\n", "9,van Gogh\n", ["modalities/artist", "relations/made"]),
        ("depicts_test.csv", "3,Monet", "4,Monet", ["tests/depicts"]),
        (
            "depicts.csv",
            "10,water,4",
            "10,water,5",
            ["modalities/artist", "modalities/subject", "relations/depicts"],
        ),
        (
            "taught.tsv",
            "Boudin",
            "Corot",
            ["modalities/artist", "relations/made", "relations/depicts", "tests/depicts"],
        ),
        ("dataset.toml", "[relations.made]", "[relations.made]\nweight = 2", []),
        ("dataset.toml", '"made.csv.gz"', '"made.csv.gz"\nduplicates = "last"', ["relations/made"]),
    ],
)
def test_a_change_redoes_what_depends_on_it(museum, path, name, old, new, expected):
    ingest(museum, path)
    folder = museum.path.parent
    content = TABLES.get(name, SETTINGS)
    assert old in content
    write(folder, name, content.replace(old, new))
    assert made(ingest(load_dataset(folder), path)) == expected
    fresh = path.with_name("fresh.zarr")
    ingest(load_dataset(folder), fresh)
    assert unit_digests(path) == unit_digests(fresh)


def test_units_that_are_no_more_disappear(museum, path):
    ingest(museum, path)
    start = SETTINGS.index("[relations.made]")
    folder = museum.path.parent
    (folder / "dataset.toml").write_text(SETTINGS[:start] + SETTINGS[SETTINGS.index("[relations.depicts]") :])
    assert made(ingest(load_dataset(folder), path)) == ["modalities/artist"]
    assert list(open_hypergraph(path).relations) == ["depicts"]


def test_graphs_stay_while_their_entities_do(museum, path):
    ingest(museum, path)
    with replacing(path) as staging:
        root = create_hypergraph(staging, stored_order(path))
        for unit in unit_digests(path):
            link_unit(path, staging, unit)
        write_graph(root, laplacian_graph("artist", np.eye(3, k=1)), "fingerprint")
    assert made(ingest(museum, path)) == []
    write(museum.path.parent, "depicts_test.csv", TABLES["depicts_test.csv"].replace("3,", "4,"))
    assert made(ingest(museum, path)) == ["tests/depicts"]
    assert open_hypergraph(path).graphs["artist"].edges == 2
    write(museum.path.parent, "taught.tsv", TABLES["taught.tsv"].replace("Boudin", "Corot"))
    ingest(museum, path)
    assert "artist" not in open_hypergraph(path).graphs


@pytest.mark.parametrize(
    ("rule", "expected", "detail"),
    [("sum", 6, "1 duplicate summed"), ("last", 4, "1 duplicate replaced by later ones")],
)
def test_duplicates(tmp_path, path, rule, expected, detail):
    reports = ingest(dataset(tmp_path / "d", SETTINGS + f'duplicates = "{rule}"\n'), path)
    assert (1, 2, 1, expected) in coords(open_hypergraph(path).relations["depicts"].tensor)
    assert detail in reports[4].detail


@pytest.mark.parametrize("block", [1, 1000])
def test_a_duplicate_can_be_an_error(tmp_path, path, block):
    data = dataset(tmp_path / "d", SETTINGS + 'duplicates = "error"\n')
    with pytest.raises(InputError, match=r"depicts\.csv, row 5: repeats row 2, which"):
        ingest(data, path, block=block)


def test_unseen_test_ids(tmp_path, path):
    test = TABLES["depicts_test.csv"] + "1,Mone,9,water\n"
    data = dataset(tmp_path / "d", **{"depicts_test.csv": test})
    with pytest.raises(
        InputError, match=r"depicts_test\.csv, row 4, column 'artist': 'Mone' is no artist"
    ) as caught:
        ingest(data, path)
    assert "did you mean 'Monet'" in str(caught.value)
    assert 'unseen = "skip"' in str(caught.value)
    data = dataset(tmp_path / "d", SETTINGS + 'unseen = "skip"\n', **{"depicts_test.csv": test})
    reports = ingest(data, path)
    assert coords(open_hypergraph(path).relations["depicts"].test)[-1] == (0, 2, -1, 1)
    assert reports[-1].detail == "4 test tuples, 1 with an id never seen"


def test_tns(tmp_path, path):
    settings = """
    [modalities.b]
    [modalities.a]
    [relations.r]
    table = "t.tns"
    columns = { a = 1, b = 2 }
    """
    ingest(dataset(tmp_path / "d", settings, **{"t.tns": "1 20 1.5\n3 9 2\n"}), path)
    found = open_hypergraph(path)
    assert found.modalities["b"].ids.tolist() == ["9", "20"]
    assert coords(found.relations["r"].tensor) == [(0, 1, 1.5), (1, 0, 2)]


WRONG = {
    "unknown id": (
        {"made.csv.gz": "work,artist\n10,Monet\n19,Monet\n"},
        "row 3, column 'work': '19' is no artwork",
    ),
    "id twice": (
        {"artworks.csv": "id,title\n9,\n10,\n9,\n"},
        "row 4, column 'id': '9' is listed a second time (first in row 2)",
    ),
    "no column": (
        {"made.csv.gz": "work,artst\n10,Monet\n"},
        "column 'artist': no such column, did you mean 'artst'?",
    ),
    "no label": ({"artworks.csv": "id,name\n9,\n"}, "column 'title': no such column"),
    "no rows": ({"made.csv.gz": "work,artist\n"}, "has no rows"),
    "no test rows": ({"depicts_test.csv": "work,artist,subjects,count\n"}, "depicts_test.csv: has no rows"),
    "no edges": ({"taught.tsv": "teacher\tpupil\n"}, "taught.tsv: has no rows"),
    "empty edge": ({"taught.tsv": "teacher\tpupil\nMonet\t\n"}, "row 2, column 'pupil': is empty"),
    "no entities": (
        {"depicts.csv": "work,subjects,count,artist\n10,;,1,Monet\n"},
        "modalities.subject: has no entities",
    ),
    "value": (
        {"depicts.csv": "work,subjects,count,artist\n10,a,inf,Monet\n"},
        "row 2, column 'count': expected a finite",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_changes_nothing(tmp_path, path, case):
    tables, message = WRONG[case]
    folder = tmp_path / "museum"
    with pytest.raises(InputError) as caught:
        ingest(dataset(folder, **tables), path)
    assert message in str(caught.value)
    assert not path.parent.exists()
    ingest(dataset(folder), path)
    before = unit_digests(path)
    with pytest.raises(InputError):
        ingest(dataset(folder, **tables), path)
    assert unit_digests(path) == before
    assert [entry.name for entry in path.parent.iterdir()] == ["hypergraph.zarr"]


def test_a_store_from_elsewhere_is_not_replaced(museum, path):
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=r"is a folder without zarr\.json"):
        ingest(museum, path)
    assert path.is_dir()


def test_a_data_set_can_move(museum, tmp_path, path):
    ingest(museum, path)
    moved = Path(shutil.move(museum.path.parent, tmp_path / "moved"))
    assert made(ingest(load_dataset(moved), path)) == []


def test_text_and_parquet_make_the_same_store(tmp_path, path):
    columns = {
        "work": ["10", "9", "10", "100"] * 30,
        "artist": [f"a{n % 7}" for n in range(119)] + ["Boudin"],  # one that only the last row has
        "subject": [f"s{n * n % 11}" for n in range(120)],
    }
    text = "\n".join([",".join(columns), *(",".join(row) for row in zip(*columns.values()))]) + "\n"
    settings = """
        [modalities.artwork]
        table = "artworks.csv"
        id = "id"
        [modalities.artist]
        [modalities.subject]
        [relations.shows]
        table = "shows.{kind}"
        columns = {{ artwork = "work", artist = "artist", subject = "subject" }}
    """
    made = {}
    for kind in ("csv", "parquet"):
        folder = tmp_path / kind
        data = dataset(folder, settings.format(kind="csv"), **{"shows.csv": text})
        if kind == "parquet":
            # Categories that occur in no row are no entities.
            artist = pa.array(columns["artist"]).dictionary_encode()
            artist = pa.DictionaryArray.from_arrays(
                artist.indices, pa.concat_arrays([artist.dictionary, pa.array(["nobody", ""])])
            )
            pa.parquet.write_table(
                pa.table(columns | {"artist": artist}), folder / "shows.parquet", row_group_size=50
            )
            (folder / "dataset.toml").write_text(settings.format(kind="parquet"))
            data = load_dataset(folder)
        ingest(data, tmp_path / f"{kind}.zarr", block=100)
        made[kind] = unit_digests(tmp_path / f"{kind}.zarr")
        found = open_hypergraph(tmp_path / f"{kind}.zarr")
        assert found.modalities["artist"].ids.tolist() == ["Boudin", *(f"a{n}" for n in range(7))]
        tensor = found.relations["shows"].tensor
        rows = {
            tuple(m.ids[c] for m, c in zip(found.modalities.values(), row)): value
            for *row, value in coords(tensor)
        }
        given = list(zip(*columns.values()))
        assert rows == {row: given.count(row) for row in given}
    assert made["csv"] == made["parquet"]


def test_progress_counts_the_rows(museum, path):
    said = []
    ingest(museum, path, progress=said.append, block=30)
    last = [text for text in said if text.startswith("reading depicts.csv: ")][-1]
    assert last.startswith("reading depicts.csv: 4 of 4 rows (100 %)") and last.endswith(" 0 s left")


def test_progress_tells_of_every_unit(museum, path):
    said: list[str] = []
    ingest(museum, path, progress=said.append)
    assert any(text.startswith("relations/depicts: reading depicts.csv") for text in said)
    assert any("4 hyperedges" in text for text in said)
