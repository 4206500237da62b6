"""Planted models: what is written is what was planted."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from hyperlearn_dask.config import TableSpec, load_dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph import synthetic
from hyperlearn_dask.hypergraph.planted import planted_edges, planted_tensor
from hyperlearn_dask.hypergraph.synthetic import write_dataset
from hyperlearn_dask.hypergraph.tensor import SparseTensor

SIZES = {"user": 50, "movie": 70, "tag": 30}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def dense(tensor: SparseTensor) -> np.ndarray:
    array = np.zeros(tensor.shape)
    array[tensor.coords] = tensor.values
    return array


def test_counts_are_expected_to_be_the_model() -> None:
    # More entries are asked for than the clusters have, so drawing goes on and cells have many counts.
    tensor, factors = planted_tensor(rng(), {"a": 6, "b": 5, "c": 4}, 2, 120, exponent=0.5)
    model = np.einsum("ir,jr,kr->ijk", *factors.values())
    counts = dense(tensor)
    assert counts.sum() == pytest.approx(model.sum())
    assert counts.sum() > 1000
    assert not counts[model == 0].any()
    expected = model[model > 0]
    deviations = (counts[model > 0] - expected) / np.sqrt(expected)
    assert abs(deviations).max() < 4.5
    assert deviations.std() == pytest.approx(1.0, abs=0.3)


def test_noise_joins_entities_at_random() -> None:
    tensor, factors = planted_tensor(rng(), SIZES, 5, 5000, noise=0.3)
    model = np.einsum("ir,jr,kr->ijk", *factors.values())
    counts = dense(tensor)
    assert model.sum() == pytest.approx(0.7 * counts.sum())
    background = 0.3 * counts.sum() / counts.size
    assert counts[model == 0].mean() == pytest.approx(background, rel=0.1)


def test_known_values_are_the_models() -> None:
    tensor, factors = planted_tensor(rng(), SIZES, 4, 3000, kind="unknown", exponent=1.0)
    assert tensor.nnz == 3000
    model = np.einsum("ir,jr,kr->ijk", *factors.values())
    np.testing.assert_allclose(tensor.values, model[tensor.coords])
    noisy, _ = planted_tensor(rng(), SIZES, 4, 3000, 0.5, "unknown", exponent=1.0)
    np.testing.assert_array_equal(noisy.coords, tensor.coords)
    assert (noisy.values - tensor.values).std() == pytest.approx(0.5 * tensor.values.std(), rel=0.05)


def test_popularity_falls_as_asked() -> None:
    tensor, _ = planted_tensor(rng(), {"a": 100, "b": 1000}, 1, 50_000, exponent=1.2)
    drawn = np.sort(np.bincount(tensor.coords[0], weights=tensor.values))[::-1]
    expected = np.arange(1, 101) ** -1.2
    np.testing.assert_allclose(drawn / drawn.sum(), expected / expected.sum(), rtol=0.1)
    even, _ = planted_tensor(rng(), {"a": 100, "b": 1000}, 1, 50_000)
    drawn = np.bincount(even.coords[0], weights=even.values)
    np.testing.assert_allclose(drawn / drawn.mean(), 1.0, atol=0.2)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(3, 9), min_size=2, max_size=4),
    rank=st.integers(1, 3),
    share=st.floats(0, 1),
    kind=st.sampled_from(["zero", "unknown"]),
    exponent=st.floats(0, 2),
    seed=st.integers(0, 99),
)
def test_any_tensor_is_in_the_order_of_a_store(
    sizes: list[int], rank: int, share: float, kind: str, exponent: float, seed: int
) -> None:
    named = {f"m{mode}": size for mode, size in enumerate(sizes)}
    nnz = max(1, int(share * math.prod(sizes)))
    tensor, factors = planted_tensor(rng(seed), named, rank, nnz, 0.1, kind, exponent=exponent)
    assert tensor.shape == tuple(sizes)
    assert 1 <= tensor.nnz <= nnz
    longest = tensor.sort_mode
    order = [longest, *(mode for mode in range(len(sizes)) if mode != longest)]
    rows = list(zip(*(tensor.coords[mode].tolist() for mode in order)))
    assert rows == sorted(set(rows))
    for name, size in named.items():
        assert factors[name].shape == (size, rank)
        assert (factors[name] >= 0).all()
        clusters = np.bincount(factors[name].argmax(axis=1), minlength=rank)
        assert clusters.max() - clusters.min() <= 1


def test_neighbors_are_of_the_same_cluster() -> None:
    clusters = rng().integers(7, size=200)
    clusters[0] = 7  # alone
    source, target = planted_edges(rng(), clusters, 3)
    np.testing.assert_array_equal(clusters[source], clusters[target])
    np.testing.assert_array_equal(np.bincount(source, minlength=200), [0] + 199 * [3])
    assert len(set(zip(source.tolist(), target.tolist()))) == 3 * 199
    assert (source != target).all()


def test_neighbors_in_tiny_clusters_and_with_noise() -> None:
    source, target = planted_edges(rng(), np.array([0, 0, 1]), 5)
    assert sorted(zip(source.tolist(), target.tolist())) == [(0, 1), (1, 0)]
    clusters = np.arange(20_000) % 100
    source, target = planted_edges(rng(), clusters, 4, noise=0.5)
    assert np.mean(clusters[source] != clusters[target]) == pytest.approx(0.5 * 0.99, abs=0.02)


def rows(path: Path) -> list[tuple[object, ...]]:
    return list(zip(*csv.read_csv(path).to_pydict().values()))


@pytest.mark.parametrize("kind", ["zero", "unknown"])
def test_a_written_data_set_is_the_planted_one(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "new" / "planted"
    written = write_dataset(folder, sizes=SIZES, rank=5, nnz=2000, noise=0.1, seed=3, kind=kind, exponent=0.5)
    dataset = load_dataset(folder)
    assert list(dataset.modalities) == list(SIZES)
    assert dataset.training.groups == {"all": 5}
    relation = dataset.relations["joined"]
    assert (relation.absent, relation.target, relation.value) == (kind, "tag", "value")
    assert relation.table == TableSpec(folder / "joined_train.csv", "csv")

    tensor, factors = planted_tensor(rng(3), SIZES, 5, 2000, 0.1, kind, exponent=0.5)
    train, test = rows(folder / "joined_train.csv"), rows(folder / "joined_test.csv")
    assert (written, len(test)) == (tensor.nnz, int(0.1 * tensor.nnz))
    ids = [[f"{name}-{i}" for i in c] for name, c in zip(SIZES, tensor.coords)]
    assert sorted(train + test) == sorted(zip(*ids, tensor.values.tolist()))

    for name, size in SIZES.items():
        clusters = factors[name].argmax(axis=1)
        expected = [(f"{name}-{i}", f"{name}-{i} of {clusters[i]}") for i in range(size)]
        assert rows(folder / f"{name}.csv") == expected
        graph = dataset.modalities[name].graph
        assert graph is not None
        assert graph.edges == TableSpec(folder / f"{name}_graph.csv", "csv")
        edges = [[int(end.split("-")[1]) for end in edge] for edge in rows(graph.edges.path)]
        assert np.mean([clusters[a] == clusters[b] for a, b in edges]) > 0.85


def test_without_graphs_and_without_test(tmp_path: Path) -> None:
    write_dataset(tmp_path / "x", sizes=SIZES, rank=2, nnz=500, graphs=False, test_fraction=0)
    names = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert names == ["dataset.toml", "joined_train.csv", "movie.csv", "tag.csv", "user.csv"]
    dataset = load_dataset(tmp_path / "x")
    assert dataset.relations["joined"].test is None
    assert all(modality.graph is None for modality in dataset.modalities.values())


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_dataset(tmp_path / name, sizes=SIZES, rank=2, nnz=500, seed=seed)
    a, b, c = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b", "c")
    )
    assert a == b
    assert all(a[name] != c[name] for name in a)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is there already") as caught:
        write_dataset(tmp_path, sizes=SIZES, rank=2, nnz=500)
    assert caught.value.file == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_half_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(synthetic, "_settings", full)
    with pytest.raises(InputError, match="no space left"):
        write_dataset(tmp_path / "x", sizes=SIZES, rank=2, nnz=500)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"sizes": {"a": 20}}, "sizes: 1 modalities make no relation (expected 2 or more)"),
        ({"sizes": {"a": 20, "b c": 20}}, "sizes: 'b c' cannot name a modality"),
        ({"sizes": {"a": 20, "b": 1}}, "sizes: b = 1 is less than the rank, 2"),
        ({"sizes": {"a": 2**32, "b": 2**32}}, "sizes: 1.84e+19 possible hyperedges are too many"),
        ({"rank": 0}, "rank: 0 columns are too few (expected 1 or more)"),
        ({"nnz": 0}, "hyperedges: 0 is out of range (expected 1 or more, at most the 105000 possible)"),
        ({"nnz": 105001}, "hyperedges: 105001 is out of range"),
        ({"noise": 1.5}, "noise: 1.5 is out of range (expected 0 to 1)"),
        ({"noise": -1.0, "kind": "unknown"}, "noise: -1.0 is out of range (expected 0 or more)"),
        ({"noise": math.nan}, "noise: nan is out of range"),
        ({"exponent": math.inf}, "exponent: inf is out of range (expected 0 or more)"),
        ({"seed": -1}, "seed: -1 is negative (expected 0 or more)"),
        ({"test_fraction": 1.0}, "test_fraction: 1.0 is out of range (expected 0 or more, below 1)"),
    ],
)
def test_numbers_that_make_no_data_set(tmp_path: Path, wrong: dict[str, object], says: str) -> None:
    arguments = {"sizes": SIZES, "rank": 2, "nnz": 500, **wrong}
    with pytest.raises(InputError) as caught:
        write_dataset(tmp_path / "x", **arguments)
    assert str(caught.value).startswith(says)
    assert not list(tmp_path.iterdir())
