"""The benchmarks' own code, on made-up data."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner

from benchmarks import accuracy, baselines, neighbors
from benchmarks import ingest as ingestion
from benchmarks.methods import METHODS, Method
from benchmarks.output import Row, row_of_runs, table, write_rows
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor


def relation_of(
    train: list[tuple[int, ...]], test: list[tuple[int, ...]], shape: tuple[int, ...]
) -> Relation:
    def tensor(rows: list[tuple[int, ...]]) -> SparseTensor:
        columns = np.array(rows, dtype=np.int32).reshape(-1, len(shape)).T
        return SparseTensor(tuple(columns), np.arange(1.0, len(rows) + 1), shape)

    return Relation(
        "tagged", ("user", "artist", "tag"), shape, len(train), lambda: tensor(train), lambda: tensor(test)
    )


TAGGED = relation_of(
    [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 2), (1, 0, 0)], [(0, 0, 1), (-1, 1, 2)], (3, 2, 4)
)


def test_popularity() -> None:
    scores = baselines.by_popularity(TAGGED, "tag")({"user": np.array([0, 2]), "artist": np.array([0, -1])})
    np.testing.assert_allclose(scores, [[0.6, 0.2, 0.2, 0]] * 2)


def test_frequencies_and_their_ties() -> None:
    scorer = baselines.by_frequency(TAGGED, "tag", {"user": 0.5, "artist": 0.5})
    scores = scorer({"user": np.array([0, -1]), "artist": np.array([1, 1])})
    np.testing.assert_allclose(
        scores, [[1 / 3 + 1 / 6, 1 / 6 + 1 / 6, 1 / 6, 0], [1 / 6, 1 / 6, 1 / 6, 0]], atol=1e-5
    )
    assert scores[1, 0] > scores[1, 1] == scores[1, 2]  # of equal frequencies the popular one first


def test_counts_look_at_one_entity() -> None:
    scores = baselines.by_counts(TAGGED, "tag", "user")({"user": np.array([1]), "artist": np.array([0])})
    assert np.argsort(-scores[0], kind="stable").tolist() == [0, 2, 1, 3]


def test_votes_come_from_the_nearest_that_have_hyperedges() -> None:
    features = scipy.sparse.csr_array(np.array([[1.0, 0], [0, 1], [0.1, 1]]))
    scorer = baselines.by_votes(TAGGED, "tag", "user", features, neighbors=1)
    scores = scorer({"user": np.array([2]), "artist": np.array([0])})
    assert scores[0].argsort()[-2:].tolist() == [2, 0]  # those of user 1; user 2 itself has none


def test_features_hide_what_is_asked_for() -> None:
    hypergraph = Hypergraph({}, {"tagged": TAGGED}, {})
    for other, size in (("artist", 2), ("tag", 4)):
        features = baselines.entity_features(hypergraph, "user", {("tagged", other): 1.0}, {"tagged": "tag"})
        assert features.shape == (3, size)
    shown = baselines.entity_features(hypergraph, "user", {("tagged", "tag"): 1.0}, {"tagged": "artist"})
    hidden = baselines.entity_features(hypergraph, "user", {("tagged", "tag"): 1.0}, {"tagged": "tag"})
    assert shown[[0]].toarray()[0, 1] > hidden[[0]].toarray()[0, 1]  # user 0 gets tag 1 once more in the test


def test_biases_predict_the_mean_of_an_entity_never_seen() -> None:
    relation = relation_of([(0, 0, 0), (0, 1, 1)], [(-1, -1, -1), (0, 0, 0)], (1, 2, 2))
    predicted = baselines.biases(relation, damping=0.0)
    assert predicted.tolist() == [1.5, 1.0]


def test_rows_of_several_runs(tmp_path: Path) -> None:
    row = Row("accuracy", "made up", "tag", "ours", "mrr", None, details={"rank": 3})
    done = row_of_runs(row, [0.25, 0.75], [1.0, 3.0])
    assert (done.value, done.spread, done.seeds, done.seconds) == (0.5, 0.25, 2, 2.0)
    assert row_of_runs(row, [0.25], [1.0]).spread is None
    write_rows([done, row], tmp_path / "rows.json")
    first, second = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (first["method"], first["value"], first["rank"]) == ("ours", 0.5, 3)
    assert second["value"] is None


def test_the_table_has_a_line_per_method_and_shows_what_was_skipped() -> None:
    rows = [
        Row("accuracy", "d", "tag", "a", "mrr", 0.5, spread=0.125, seconds=1.0),
        Row("accuracy", "d", "tag", "a", "hits@10", 0.75),
        Row("accuracy", "d", "tag", "b", "mrr", None, details={"note": "skipped: x is not installed"}),
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["task", "method", "mrr", "hits@10", "seconds", "note"]
    assert lines[1].split() == ["tag", "a", "0.5000", "±0.1250", "0.7500", "1.0"]
    assert lines[2].endswith("skipped: x is not installed")


def test_a_missing_peer_is_one_visible_row() -> None:
    def run(hypergraph: Hypergraph, seed: int) -> np.ndarray:
        raise ModuleNotFoundError(name="nowhere")

    method = Method("tagged", "theirs", run, "nowhere")
    (row,) = accuracy.other_rows("lastfm", method, Hypergraph({}, {"tagged": TAGGED}, {}), seeds=2)
    assert (row.value, row.details["note"]) == (None, "skipped: nowhere is not installed")
    with pytest.raises(ModuleNotFoundError):  # but a fault of our own is not hidden
        list(accuracy.other_rows("lastfm", Method("tagged", "x", run, "other"), Hypergraph({}, {}, {}), 1))


def lastfm_files(folder: Path) -> None:
    """Users of two kinds, artists of two kinds: a tag follows from the kinds."""
    generator = np.random.default_rng(0)
    tuples = sorted({tuple(row) for row in generator.integers(0, (20, 16), size=(260, 2)).tolist()})
    rows = [(u, a, 2 * (a % 2) + u % 2) for u, a in tuples]
    split = generator.random(len(rows)) < 0.15
    for name, part in (("train", ~split), ("test", split)):
        with gzip.open(folder / f"tagged_{name}.csv.gz", "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "artist", "tag"])
            writer.writerows(row for row, chosen in zip(rows, part) if chosen)
    (folder / "tags.csv").write_text("tag,name\n" + "".join(f"{t},tag {t}\n" for t in range(4)))


def test_the_whole_line_on_made_up_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lastfm_files(tmp_path)
    settings = tmp_path / "settings" / "lastfm"
    settings.mkdir(parents=True)
    text = (accuracy.SETTINGS / "lastfm" / "dataset.toml").read_text()
    (settings / "dataset.toml").write_text(text.replace("= 32", "= 3"))
    monkeypatch.setattr(accuracy, "SETTINGS", settings.parent)
    arguments = ["lastfm", "--data", str(tmp_path), "--json", str(tmp_path / "rows.json"), "--seeds", "2"]
    result = CliRunner().invoke(
        accuracy.main, [*arguments, "--method", "popularity", "--method", "hyperlearn"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    mrr = {row["method"]: row for row in rows if row["metric"] == "mrr"}
    assert set(mrr) == {"popularity", "hyperlearn"}
    assert mrr["hyperlearn"]["value"] > mrr["popularity"]["value"] + 0.2
    assert (mrr["hyperlearn"]["task"], mrr["hyperlearn"]["seeds"], mrr["hyperlearn"]["rank"]) == ("tag", 2, 6)


def test_wrong_folder_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(accuracy.main, ["lastfm", "--data", str(tmp_path), "--method", "hyperlearn"])
    assert result.exit_code == 2
    assert 'no file "tags.csv"' in result.output
    assert "Traceback" not in result.output


def test_every_data_set_has_settings() -> None:
    for name in METHODS:
        assert (accuracy.SETTINGS / name / "dataset.toml").is_file()


def test_ingestion_is_measured_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestion, "SIZES", {"user": 500, "movie": 100, "tag": 50})
    runner = CliRunner()
    done = runner.invoke(ingestion.main, ["--rows", "2000", "--json", str(tmp_path / "rows.json")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ours = [row for row in rows if row["method"] == "hyperlearn"]
    assert [(row["task"], row["metric"]) for row in ours] == [
        (kind, metric) for kind in ("csv", "parquet") for metric in ("Mrows/s", "peak GiB")
    ]
    assert all(row["value"] > 0 and row["seconds"] > 0 for row in ours)


def test_tables_to_ingest_are_skewed_and_the_same_each_time() -> None:
    columns = ingestion.make_columns(5000)
    counts = np.sort([entry["counts"] for entry in columns["tag"].value_counts().to_pylist()])[::-1]
    assert counts[0] > 20 * np.median(counts)
    assert columns.equals(ingestion.make_columns(5000))


def test_neighbour_benchmark_compares_at_a_recall() -> None:
    points = neighbors.make_points(1500, 0.5)
    truth = neighbors.exact_distances(points)
    exact = neighbors.with_sklearn(points)
    assert neighbors.recall(points, exact, truth) == 1
    worse = np.where(np.arange(neighbors.K) < 4, (exact + 1) % 1500, exact)
    assert 0.6 <= neighbors.recall(points, worse, truth) < 0.7
    assert neighbors.recall(points, np.repeat(np.arange(1500)[:, None], 10, axis=1), truth) == 0

    lazy = {"hyperlearn": neighbors.METHODS["hyperlearn exact"], "scikit-learn": neighbors.with_sklearn}
    lazy["bad and fast"] = lambda points: np.zeros((len(points), neighbors.K), dtype=int)
    rows = neighbors.benchmark("clustered", 1500, lazy)
    ratios = {row.method: row.value for row in rows if row.metric == "ratio_to_fastest"}
    assert ratios["scikit-learn"] == 1 and ratios["bad and fast"] < 1
    assert {r.method: r.value for r in rows if r.metric == "recall@10"}["hyperlearn"] == 1
