"""Rows with a system each that are formed and solved few at a time are the rows of systems that are held."""

import numpy as np
import pytest

from hyperlearn_dask import HyperLearn
from hyperlearn_dask.factorization import row_systems
from hyperlearn_dask.factorization.blocks import BlockSystem, descent
from hyperlearn_dask.factorization.kernels import cpu, rows
from hyperlearn_dask.factorization.kernels.rows import Part, RowGrams
from tests.training.made_up import two_relations

N = 90


def made_up(rng, columns, dtype, entries, weights, own_rows=N, own_columns=None):
    """Grams of some rows, over entries that join each with rows of two other modes."""
    width = columns if own_columns is None else own_columns
    # Powers, so that some rows have many entries, most few and some none.
    row = np.sort((own_rows * rng.random(entries) ** 3).astype(int))
    starts = np.searchsorted(row, np.arange(own_rows + 1))
    coords = tuple(rng.integers(0, n, entries).astype(np.int32) for n in (12, 8))
    matrices = tuple(rng.normal(size=(n, width)).astype(dtype) for n in (12, 8))
    order = rng.permutation(entries)
    shuffled = tuple(c[np.argsort(order)] for c in coords)  # entry order[p] is the p-th by row
    return RowGrams(shuffled, matrices, weights, order, starts)


def loop_gram(grams, row):
    total = np.zeros((grams.width, grams.width))
    for e in grams.entries[grams.starts[row] : grams.starts[row + 1]]:
        z = np.prod([m[c[e]].astype(float) for c, m in zip(grams.coords, grams.matrices)], axis=0)
        total += np.outer(z, z)
    return total * grams.weights


def loop_systems(common, parts):
    found = np.tile(common, (N, 1, 1))
    for part in parts:
        for row in range(len(part.grams)):
            at = np.ix_(part.columns, part.columns)
            found[part.first_row + row][at] += part.scale * loop_gram(part.grams, row)
    return found


CASES = {
    "one part": [{}],
    "weights by column": [{"weighted": True}],
    "two shards": [{"own_rows": 40}, {"own_rows": 50, "first_row": 40}],
    "some of the columns": [{}, {"some": True}],
    "entries that weigh less than nothing": [{"weights": -0.01}],
}


def parts_of(case, rng, columns, dtype):
    parts = []
    for what in CASES[case]:
        width = columns // 2 if what.get("some") else columns
        z = rng.normal(size=(5, width))
        weights = z.T @ z / 5 if what.get("weighted") else what.get("weights", 0.7)
        grams = made_up(rng, columns, dtype, 400, weights, what.get("own_rows", N), width)
        chosen = np.sort(rng.permutation(columns)[:width])
        parts.append(Part(grams, what.get("first_row", 0), 1.3, chosen))
    return parts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [1, 5, 16, 40, 67])
@pytest.mark.parametrize("case", CASES)
def test_the_way_is_that_of_systems_formed_by_loops(case, columns, dtype):
    rng = np.random.default_rng(columns)
    parts = parts_of(case, rng, columns, np.dtype(dtype))
    z = rng.normal(size=(columns + 4, columns))
    common = z.T @ z + 3 * np.eye(columns)
    right, block = (rng.normal(size=(N, columns)).astype(dtype) for _ in range(2))
    systems = loop_systems(common, parts)
    downhill = right - np.einsum("nab,nb->na", systems, block)
    expected = np.linalg.solve(systems, downhill[..., None])[..., 0]
    got = row_systems.way(common, parts, right, block)
    tolerance = 2e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(got[0], downhill, atol=tolerance * np.abs(downhill).max())
    np.testing.assert_allclose(got[1], expected, atol=tolerance * np.abs(expected).max())


def test_few_rows_at_a_time_are_all_rows(monkeypatch):
    rng = np.random.default_rng(0)
    parts = parts_of("one part", rng, 40, np.dtype(float))
    right, block = rng.normal(size=(2, N, 40))
    at_once = row_systems.way(np.eye(40), parts, right, block)
    monkeypatch.setattr(rows, "ROOM", 3 * 8 * 42 * 56)
    monkeypatch.setattr(row_systems, "AT_ONCE", 10)
    for got, expected in zip(row_systems.way(np.eye(40), parts, right, block), at_once):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_rows_with_few_entries_are_not_formed_unless_digits_would_be_lost(monkeypatch):
    formed = []
    fill = rows.Workspace.filled
    monkeypatch.setattr(rows.Workspace, "filled", lambda self, some: formed.extend(some) or fill(self, some))
    rng = np.random.default_rng(0)
    parts = parts_of("one part", rng, 40, np.dtype("float32"))
    right, block = rng.normal(size=(2, N, 40)).astype("float32")
    row_systems.way(np.eye(40), parts, right, block)
    assert sorted(formed) == list(np.flatnonzero(np.diff(parts[0].grams.starts) > 40 // 3))
    formed.clear()
    _, found = row_systems.way(1e-6 * np.eye(40), parts, right, block)
    assert len(formed) >= (np.diff(parts[0].grams.starts) > 0).sum()
    assert np.isfinite(found).all()


def test_grams_of_a_run_of_rows_are_cut_out():
    grams = made_up(np.random.default_rng(0), 5, np.dtype(float), 300, 0.7)
    np.testing.assert_allclose(grams[20:50].formed(), grams.formed()[20:50])
    assert len(grams[20:50].entries) < len(grams.entries)


def test_a_row_of_which_nothing_is_known_stays_finite():
    grams = RowGrams(
        (np.zeros(1, dtype=np.int32),), (np.ones((1, 3)),), 1.0, np.zeros(1, dtype=int), np.array([0, 0, 1])
    )
    parts = [Part(grams, 0, 1.0, np.arange(3))]
    _, found = row_systems.way(np.zeros((3, 3)), parts, np.array([[0.0] * 3, [1.0] * 3]), np.zeros((2, 3)))
    np.testing.assert_allclose(found[0], 0)
    np.testing.assert_allclose(found[1] @ np.ones((3, 3)), 1.0, rtol=1e-6)


def inverses(matrices, shift):
    """The (H_i + s_i I)^-1, column by column."""
    solve, (count, columns, _) = rows.solver_of_rows(matrices, shift), matrices.shape
    solved = [solve(np.tile(e, (count, 1))) for e in np.eye(columns, dtype=matrices.dtype)]
    return np.stack(solved, axis=2).astype(float)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [8, 40, 80])
def test_systems_that_rounding_leaves_indefinite_are_solved_downhill(columns, dtype):
    rng, eps = np.random.default_rng(0), np.finfo(dtype).eps
    z = rng.random((60, columns)) * 10 ** rng.uniform(-2, 2, (60, columns))
    noise = rng.normal(size=(60, columns, columns))
    gram = z[:, :, None] * z[:, None, :] * (1 + 30 * eps * (noise + noise.transpose(0, 2, 1)))
    assert np.linalg.eigvalsh(gram).min() < 0
    high, wide = rows._rounded(columns, rows.HIGH), rows._wide(columns, np.dtype(dtype))
    systems = np.zeros((60, high, wide), dtype=dtype)
    systems[:, :columns, :columns] = gram
    right = rng.normal(size=(60, columns)).astype(dtype)
    way = np.empty_like(right)
    downhill = rows.descend(systems, right, np.zeros_like(right), way)
    np.testing.assert_array_equal(downhill, right)
    assert (np.einsum("nf,nf->n", way, right) > 0).all()
    # No more than by the ridge, of the size of the rounding errors, alone
    ridge = columns * eps * np.einsum("nff->nf", gram).max(axis=1)
    assert (np.linalg.norm(way, axis=1) < 10 * np.linalg.norm(right, axis=1) / ridge).all()

    # A preconditioner must be positive definite; blocks bring a ridge of their own.
    regular = (gram + ridge[:, None, None] * np.eye(columns)).astype(dtype)
    inverse = inverses(regular, np.zeros(60, dtype=dtype))
    definite = np.linalg.eigvalsh((inverse + inverse.transpose(0, 2, 1)) / 2).min(axis=1) > 0
    assert definite.all()


@pytest.mark.parametrize("graph", [True, False])
def test_a_system_in_parts_descends_like_the_one_formed(graph):
    import scipy.sparse

    rng = np.random.default_rng(1)
    parts = parts_of("two shards", rng, 5, np.dtype(float))
    right, block, before = rng.normal(size=(3, N, 5))
    laplacian = scipy.sparse.csr_array(np.eye(N) - np.ones((N, N)) / N) if graph else None
    system = BlockSystem(2 * np.eye(5), right, tuple(parts))
    held = BlockSystem(loop_systems(2 * np.eye(5), parts), right)
    got, expected = (descent(s, laplacian, 1.5, block, before, 1e-12) for s in (system, held))
    np.testing.assert_allclose(got[0], expected[0], atol=1e-9)
    assert got[1:] == pytest.approx(expected[1:])


def test_a_column_that_another_equals_counts_with_its_own_diagonal_once_more():
    z = np.random.default_rng(0).normal(size=(70, 70))
    z[:, 20] = z[:, 10]
    gram = (z.T @ z)[None]
    expected = gram.copy()
    expected[0, 20, 20] *= 2
    np.testing.assert_allclose(inverses(gram, np.zeros(1)), np.linalg.inv(expected), atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("columns", [7, 70])
def test_matrices_of_rows_are_solved_with_and_multiplied(columns, dtype):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, columns + 2, columns))
    matrices, shift = np.einsum("nea,neb->nab", z, z).astype(dtype), rng.random(20).astype(dtype)
    shifted = matrices.astype(float) + shift[:, None, None] * np.eye(columns)
    inverse = inverses(matrices, shift)
    tolerance = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(inverse @ shifted, np.tile(np.eye(columns), (20, 1, 1)), atol=tolerance)
    vectors = rng.normal(size=(20, columns)).astype(dtype)
    expected = np.einsum("nab,nb->na", matrices.astype(float), vectors)
    np.testing.assert_allclose(rows.times_rows(matrices, vectors), expected, rtol=tolerance, atol=tolerance)


LOSSES = {
    "context": {"absent": "context", "target": "c", "absent_weight": 0.3},
    "unknown": {"absent": "unknown"},
    "zero, weighted": {"absent": "zero", "absent_weight": 0.2},
}


@pytest.mark.parametrize("schedule", ["parallel", "sequential"])
@pytest.mark.parametrize("loss", LOSSES)
def test_training_is_the_same_whether_systems_are_held_or_not(loss, schedule, monkeypatch):
    settings = {
        "groups": {"ac": 20, "bc": 18, "bias": 1},
        "relations": {
            "made": {
                **LOSSES[loss],
                "interactions": {"ac": ("a", "c"), "bc": ("b", "c"), "bias": ("c",)},
            },
            "rated": {"absent": "unknown", "interactions": {"bc": ("b", "c")}},
        },
        "schedule": schedule,
        "sweeps": 8,
    }
    held = HyperLearn(**settings).fit(two_relations()).model_
    monkeypatch.setattr(cpu, "FORMED_AT_ONCE", 0)
    monkeypatch.setattr(RowGrams, "nbytes", 0)
    apart = HyperLearn(**settings).fit(two_relations()).model_
    assert [h["objective"] for h in apart.history] == pytest.approx([h["objective"] for h in held.history])
    for m, factor in held.factors.items():
        np.testing.assert_allclose(apart.factors[m], factor, atol=1e-6 * np.abs(factor).max())
