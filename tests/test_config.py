"""Settings: a full file is read as written, and every mistake is named where it stands."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.config import (
    ColumnSpec,
    Dataset,
    FeatureSpec,
    GraphSpec,
    ModalitySpec,
    Range,
    RelationSpec,
    TableSpec,
    TrainingSpec,
    load_dataset,
    training_from,
)
from hyperlearn_dask.config.lines import key_lines
from hyperlearn_dask.errors import InputError

FILES = [
    *("artists.csv", "artworks.tsv.gz", "friends.parquet", "made.jsonl.gz", "made_test.ndjson"),
    *("emb.npy", "plays.tns", "plays_test.tns.gz", "artworks.tns", "readme.txt"),
]

FULL = """\
name = "museum"
title = "A small museum"

[modalities.artist]
table = "artists.csv"
id = "artist"
label = "name"

[modalities.artist.graph]
k = 8
metric = "euclidean"
weight = 2
features = [
  { column = "country", kind = "category", separator = " " },
  { column = "born", kind = "number" },
  { column = "bio", kind = "text", weight = 0.5 },
  { kind = "relation", relation = "made" },
  { kind = "vector", file = "emb.npy" },
  { kind = "vector", column = "face" },
  { kind = "category", column = "medium", table = ["made.jsonl.gz", "artworks.tsv.gz"], id = "by" },
]

[modalities.medium]

[modalities.user.graph]
edges = "friends.parquet"
source = "user"
target = "friend"
edge_weight = "weight"

[relations.made]
table = "made.jsonl.gz"
columns = { artist = "artist", medium = { column = "media", separator = ";" } }
duplicates = "error"
test = "made_test.ndjson"
target = "artist"
unseen = "skip"
absent = "context"
absent_weight = 0.25
weight = 0.5
interactions = { shared = ["artist", "medium"], artist_bias = ["artist"] }

[relations.plays]
table = "plays.tns"
columns = { user = 1, artist = 2 }
test = "plays_test.tns.gz"
absent = "unknown"
offset = "mean"
interactions.shared = ["user", "artist"]

[training]
groups = { shared = 10, artist_bias = 1 }
schedule = "sequential"
sweeps = 7
tolerance = 0
validation = "plays"
held_out = 0.2
patience = 4
ridge = 0.25
start = "clustered"
draws = 60
burn_in = 0
seed = 3
dtype = "float32"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).touch()
    (tmp_path / "sub.csv").mkdir()
    (tmp_path / "dataset.toml").write_text(FULL, encoding="utf-8")
    return tmp_path


def mistake(folder: Path, text: str | bytes) -> str:
    """What is said about a dataset.toml, without its path."""
    file = folder / "dataset.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        load_dataset(file)
    told = str(caught.value)
    assert told.startswith(f"{file}, ") or told.startswith(f"{file}: ")
    assert "\n" not in told
    return told.removeprefix(str(file)).lstrip(",: ").replace(str(folder), "DIR")


def test_a_full_file_is_read_as_written(folder: Path) -> None:
    def table(name: str, kind: str, gzipped: bool = False) -> TableSpec:
        return TableSpec(folder / name, kind, gzipped)

    artists, made = table("artists.csv", "csv"), table("made.jsonl.gz", "jsonl", True)
    features = (
        FeatureSpec("category", "country", (artists,), "artist", " "),
        FeatureSpec("number", "born", (artists,), "artist"),
        FeatureSpec("text", "bio", (artists,), "artist", weight=0.5),
        FeatureSpec("relation", relation="made"),
        FeatureSpec("vector", file=folder / "emb.npy"),
        FeatureSpec("vector", "face", (artists,), "artist"),
        FeatureSpec("category", "medium", (made, table("artworks.tsv.gz", "tsv", True)), "by"),
    )
    expected = Dataset(
        path=folder / "dataset.toml",
        name="museum",
        title="A small museum",
        modalities={
            "artist": ModalitySpec(
                "artist",
                artists,
                "artist",
                "name",
                GraphSpec(weight=2.0, k=8, metric="euclidean", features=features),
            ),
            "medium": ModalitySpec("medium"),
            "user": ModalitySpec(
                "user",
                graph=GraphSpec(1.0, table("friends.parquet", "parquet"), "user", "friend", "weight"),
            ),
        },
        relations={
            "made": RelationSpec(
                "made",
                made,
                {"artist": ColumnSpec("artist"), "medium": ColumnSpec("media", ";")},
                duplicates="error",
                test=table("made_test.ndjson", "jsonl"),
                target="artist",
                unseen="skip",
                absent="context",
                absent_weight=0.25,
                weight=0.5,
                interactions={"shared": ("artist", "medium"), "artist_bias": ("artist",)},
            ),
            "plays": RelationSpec(
                "plays",
                table("plays.tns", "tns"),
                {"user": ColumnSpec("1"), "artist": ColumnSpec("2")},
                test=table("plays_test.tns.gz", "tns", True),
                absent="unknown",
                interactions={"shared": ("user", "artist")},
                offset="mean",
            ),
        },
        training=TrainingSpec(
            groups={"shared": 10, "artist_bias": 1},
            schedule="sequential",
            sweeps=7,
            tolerance=0.0,
            validation="plays",
            held_out=0.2,
            patience=4,
            ridge=0.25,
            start="clustered",
            seed=3,
            dtype="float32",
            draws=60,
            burn_in=0,
        ),
    )
    assert load_dataset(folder) == expected
    assert load_dataset(str(folder / "dataset.toml")) == expected


def test_a_small_file_has_the_defaults(folder: Path) -> None:
    text = (
        '[modalities]\na = {}\nb = {}\n[relations.ab]\ntable = "artists.csv"\ncolumns = {a = "A", b = "B"}\n'
    )
    # A mark at the beginning and Windows line ends, as an editor there leaves them.
    (folder / "dataset.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    dataset = load_dataset(folder)
    assert dataset.name == dataset.title == folder.name
    assert dataset.training == TrainingSpec()
    assert dataset.relations["ab"] == RelationSpec(
        "ab", TableSpec(folder / "artists.csv", "csv"), {"a": ColumnSpec("A"), "b": ColumnSpec("B")}
    )


def test_paths_are_relative_to_the_file_and_made_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    dataset = load_dataset(folder.name)
    assert dataset.path == folder / "dataset.toml"
    assert dataset.modalities["artist"].table == TableSpec(folder / "artists.csv", "csv")


def test_raw_files_may_lie_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings_file = tmp_path_factory.mktemp("settings") / "other.toml"
    settings_file.write_text(FULL, encoding="utf-8")
    dataset = load_dataset(settings_file, folder=folder)
    assert dataset.path == settings_file
    assert dataset.modalities["artist"].table == TableSpec(folder / "artists.csv", "csv")


def test_what_is_searched_is_read_by_the_keys_of_the_settings(folder: Path) -> None:
    text = """
[tune]
training.groups.shared = [4, 32]
training.ridge = [0, 1]
modalities.artist.graph.k = [5, 10, 20]
relations.made = { weight = [0.1, 10], absent_weight = [0.01, 1] }
"""
    (folder / "dataset.toml").write_text(FULL + text, encoding="utf-8")
    assert load_dataset(folder).tune == {
        ("training", "groups", "shared"): Range(4, 32, whole=True),
        ("training", "ridge"): Range(0.0, 1.0),
        ("modalities", "artist", "graph", "k"): Range(5, 20, whole=True, choices=(5, 10, 20)),
        ("relations", "made", "weight"): Range(0.1, 10.0),
        ("relations", "made", "absent_weight"): Range(0.01, 1.0),
    }


def mistakes() -> list[tuple[str, ...]]:
    text = (Path(__file__).parent / "config_mistakes.txt").read_text(encoding="utf-8")
    blocks = [block.splitlines() for block in text.split("\n\n")[1:]]
    assert all([line[:1] for line in block] == ["-", "+", "="] for block in blocks)
    return [tuple(line[2:].replace("\\n", "\n") for line in block) for block in blocks]


@pytest.mark.parametrize(("old", "new", "expected"), mistakes())
def test_a_mistake_is_named_where_it_stands(folder: Path, old: str, new: str, expected: str) -> None:
    assert FULL.count(old) == 1
    assert mistake(folder, FULL.replace(old, new)) == expected


def test_no_relation_and_no_modality(folder: Path) -> None:
    assert mistake(folder, "") == (
        "modalities: missing; a data set has [modalities.NAME] tables (and 1 more mistake: relations)"
    )
    assert mistake(folder, "[modalities]\n[relations]\n") == (
        "line 1, modalities: missing; a data set has [modalities.NAME] tables (and 1 more mistake: relations)"
    )


def test_relations_that_all_weigh_nothing(folder: Path) -> None:
    text = FULL.replace("weight = 0.5\ninter", "weight = 0\ninter")
    load_dataset_from(folder, text)  # one of them may
    text = text.replace('absent = "unknown"', 'absent = "unknown"\nweight = 0')
    assert mistake(folder, text) == (
        "line 40, relations.made.weight: 0 in every relation: nothing would be learned"
    )


def load_dataset_from(folder: Path, text: str) -> Dataset:
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return load_dataset(folder)


def test_interactions_without_any_training_section(folder: Path) -> None:
    text = FULL[: FULL.index("[training]")]
    assert mistake(folder, text).startswith(
        "line 41, relations.made.interactions.shared: training has no group 'shared' (expected all)"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b'name = "a"\ntitle = "caf\xe9"\n',
            "line 2: not UTF-8 text (byte 0xe9); save the file with UTF-8 encoding",
        ),
        (
            'name = "a"'.encode("utf-16"),
            "line 1: not UTF-8 text (byte 0xff); save the file with UTF-8 encoding",
        ),
        (b"a = " + b"[" * 100_000, "not valid TOML: nested too deeply"),
        (b"a = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
    ],
)
def test_what_is_no_toml(folder: Path, content: bytes, expected: str) -> None:
    assert mistake(folder, content).startswith(expected)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no dataset.toml in this folder"
    with pytest.raises(InputError) as caught:
        load_dataset(tmp_path / "other.toml")
    assert str(caught.value) == (
        f"{tmp_path}/other.toml: no such file; expected a dataset.toml or the folder of one"
    )
    (tmp_path / "dataset.toml").mkdir()
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_dataset(tmp_path)


def test_training_settings_from_elsewhere() -> None:
    assert training_from({}) == TrainingSpec()
    assert training_from({"groups": {"a": 2}, "ridge": 1}) == TrainingSpec(groups={"a": 2}, ridge=1.0)
    with pytest.raises(InputError) as caught:
        training_from({"rank": 0, "sweep": 3})
    assert str(caught.value) == (
        "training.rank: expected a whole number of at least 1, got 0 (and 1 more mistake: training.sweep)"
    )


ODD = """\
a."b c" = 'x = 1' # y = 2
text = \"\"\"
[not.a.table]
q = "1"
\"\"\"
d = [ 1, [ 2,
  3 ], { e = 4, "f" = "]" }, # ]
  { "g" = "]" } ]

[t . u]  # [v]
k.l = { }
[[t.rows]]
x = 1
[[t.rows]]
x = 2
[t.rows.sub]
y = 1979-05-27 07:32:00
"""


def test_lines_of_an_odd_document() -> None:
    tomllib.loads(ODD)
    expected = {
        ("a",): 1,
        ("a", "b c"): 1,
        ("text",): 2,
        ("d",): 6,
        ("d", 0): 6,
        ("d", 1): 6,
        ("d", 1, 0): 6,
        ("d", 1, 1): 7,
        ("d", 2): 7,
        ("d", 2, "e"): 7,
        ("d", 2, "f"): 7,
        ("d", 3): 8,
        ("d", 3, "g"): 8,
        ("t",): 10,
        ("t", "u"): 10,
        ("t", "u", "k"): 11,
        ("t", "u", "k", "l"): 11,
        ("t", "rows"): 12,
        ("t", "rows", 0): 12,
        ("t", "rows", 0, "x"): 13,
        ("t", "rows", 1): 14,
        ("t", "rows", 1, "x"): 15,
        ("t", "rows", 1, "sub"): 16,
        ("t", "rows", 1, "sub", "y"): 17,
    }
    assert key_lines(ODD) == expected


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.sampled_from(FILES)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(deadline=None)
@given(data=st.data())
def test_whatever_stands_there_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any value in the place of any other: settings or an InputError of one line, never anything else."""
    values = tomllib.loads(FULL)
    place: dict[str, Any] | list[Any] = values
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        below = place[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
            break
        place = below
    place[key] = data.draw(VALUES)
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    for name in FILES:
        (folder / name).touch()
    text = "".join(f"{toml(name)} = {toml(value)}\n" for name, value in values.items())
    assert key_lines(text)
    try:
        assert load_dataset_from(folder, text).relations
    except InputError as error:
        assert error.line == list(values).index((error.key or "").split(".")[0]) + 1
        assert "\n" not in str(error)


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def test_flags_and_sampled_hyperparameters_are_read_as_written(folder: Path) -> None:
    text = FULL.replace(
        '{ kind = "vector", file = "emb.npy" }', '{ kind = "flags", columns = ["painter", "sculptor"] }'
    )
    text = text.replace("draws = 60", 'draws = 60\nhyperparameters = "sampled"')
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    dataset = load_dataset(folder)
    assert dataset.training.hyperparameters == "sampled"
    graph = dataset.modalities["artist"].graph
    assert graph is not None
    (flags,) = (feature for feature in graph.features if feature.kind == "flags")
    assert flags.columns == ("painter", "sculptor")
