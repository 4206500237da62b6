import itertools

import numpy as np
import pytest

from hyperlearn_dask.factorization import blocks
from hyperlearn_dask.factorization.grams import augmented_gram
from hyperlearn_dask.factorization.kernels import rows as rows_kernel
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.factorization.shards import ContextShard, EntryShard, contexts_of

from .made_up import INTERACTIONS, LOSSES, loop_objective, random_laplacian, random_tensor, three_mode, whole


def solve(problem, shards, laplacians, factors, modality):
    grams = {m: augmented_gram(a) for m, a in factors.items()}
    products = [
        s.products(problem, factors, [modality], grams)[modality]
        for s in shards
        if modality in problem.terms[s.term].modalities
    ]
    n = problem.sizes[modality]
    system = blocks.assemble(problem, modality, n, products, grams, np.dtype(float))
    free = problem.free_columns(modality)
    start = factors[modality][:, free]
    mu = problem.graph_weights.get(modality, 0.0)
    solution = blocks.solve_block(system, laplacians.get(modality), mu, start, 1e-13)
    changed = dict(factors)
    changed[modality] = factors[modality].copy()
    changed[modality][:, free] = solution
    return changed, free


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("interactions", INTERACTIONS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("modality", ["a", "b", "c"])
def test_the_solution_is_where_the_gradient_of_the_loop_objective_vanishes(
    loss, interactions, modality, graphs
):
    rng = np.random.default_rng(0)
    problem, tensor, laplacians, factors = three_mode(rng, loss, interactions, graphs)
    solved, free = solve(problem, whole(problem, tensor), laplacians, factors, modality)

    def objective(matrix):
        return loop_objective(problem, {"r": tensor}, laplacians, {**solved, modality: matrix})

    # The objective is quadratic in one block, so central differences are exact up to rounding.
    for i, r in zip(rng.integers(0, problem.sizes[modality], 6), rng.choice(free, 6)):
        nudge = np.zeros_like(solved[modality])
        nudge[i, r] = 1e-2
        up, down = objective(solved[modality] + nudge), objective(solved[modality] - nudge)
        assert abs(up - down) / 2e-2 < 1e-8 * (1 + abs(up))
        assert up > objective(solved[modality])


@pytest.mark.parametrize("rows", [7, 60])
def test_the_filter_solve_is_the_dense_kronecker_solve_to_1e_8(rows):
    rng = np.random.default_rng(1)
    gram = rng.normal(size=(4, 4))
    gram = gram @ gram.T + 0.1 * np.eye(4)
    right = rng.normal(size=(rows, 4))
    laplacian = random_laplacian(rng, rows)
    mu = 2.5
    # A H + mu L A = C  <=>  (I kron mu L + H' kron I) vec(A) = vec(C)
    dense = np.kron(np.eye(4), mu * laplacian.toarray()) + np.kron(gram.T, np.eye(rows))
    expected = np.linalg.solve(dense, right.T.ravel()).reshape(4, rows).T
    got = blocks.solve_block(blocks.BlockSystem(gram, right), laplacian, mu, np.zeros_like(right))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("narrow", [0, 32])
def test_pcg_is_the_dense_solve_to_1e_8(narrow, monkeypatch):
    monkeypatch.setattr(rows_kernel, "NARROW", narrow)  # columns up to which inverses precondition it
    rng = np.random.default_rng(2)
    rows, width, mu = 30, 3, 4.0
    z = rng.normal(size=(rows, 5, width))
    grams = np.einsum("nea,neb->nab", z, z)
    gram, right = 0.2 * np.eye(width), rng.normal(size=(rows, width))
    laplacian = random_laplacian(rng, rows)
    dense = mu * np.kron(laplacian.toarray(), np.eye(width))
    for i in range(rows):
        span = slice(i * width, (i + 1) * width)
        dense[span, span] += grams[i] + gram
    expected = np.linalg.solve(dense, right.ravel()).reshape(rows, width)
    got = blocks.solve_block(blocks.BlockSystem(gram + grams, right), laplacian, mu, np.zeros_like(right))
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


def test_a_huge_graph_weight_makes_rows_follow_the_component():
    """The null space of L is D^1/2 1 on each connected part: rows over sqrt(degree) become constant."""
    rng = np.random.default_rng(3)
    import scipy.sparse

    weights = scipy.sparse.block_diag([np.ones((4, 4)) - np.eye(4), np.ones((6, 6)) - np.eye(6)])
    degree = np.asarray(weights.sum(axis=0)).ravel()
    scale = scipy.sparse.diags_array(degree**-0.5)
    laplacian = scipy.sparse.csr_array(scipy.sparse.eye_array(10) - scale @ weights @ scale)
    system = blocks.BlockSystem(np.eye(2), rng.normal(size=(10, 2)))
    solution = blocks.solve_block(system, laplacian, 1e7, np.zeros((10, 2)))
    for part in (slice(0, 4), slice(4, 10)):
        smooth = solution[part] / np.sqrt(degree[part])[:, None]
        assert np.ptp(smooth, axis=0).max() < 1e-5
    assert np.abs(solution).max() > 0.05


def test_two_relations_of_half_the_weight_equal_one():
    rng = np.random.default_rng(4)
    problem, tensor, laplacians, factors = three_mode(rng, "zero", "cp")
    settings = {name: TermSettings("zero", 0.35) for name in ("p", "q")}
    twice = build_problem(
        problem.sizes,
        dict.fromkeys(settings, ("a", "b", "c")),
        settings,
        problem.groups,
        problem.graph_weights,
        problem.ridge,
    )
    one, _ = solve(problem, whole(problem, tensor), laplacians, factors, "b")
    two, _ = solve(twice, [*whole(twice, tensor, "p"), *whole(twice, tensor, "q")], laplacians, factors, "b")
    np.testing.assert_allclose(one["b"], two["b"], atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cuts", [(3,), (1, 5), (2, 4, 6, 8)])
def test_any_cut_into_shards_gives_the_uncut_block(loss, cuts):
    rng = np.random.default_rng(5)
    problem, tensor, laplacians, factors = three_mode(rng, loss, "pairs and biases")
    term, sort = problem.terms["r"], tensor.sort_mode
    shards = []
    for first, last in itertools.pairwise((0, *cuts, tensor.shape[sort])):
        own = rows_of(tensor, first, last)
        shards.append(EntryShard("r", own, first))
        if term.absent == "context" and term.target_mode != sort:
            shards.append(ContextShard("r", contexts_of(own, term.target_mode), first))
    if term.absent == "context" and term.target_mode == sort:  # contexts run across the rows
        shards.append(ContextShard("r", contexts_of(tensor, term.target_mode)))
    for modality in "abc":
        uncut, _ = solve(problem, whole(problem, tensor), laplacians, factors, modality)
        cut, _ = solve(problem, shards, laplacians, factors, modality)
        np.testing.assert_allclose(cut[modality], uncut[modality], rtol=1e-8, atol=1e-9)


def rows_of(tensor, first, last):
    sort = tensor.sort_mode
    own = tensor[slice(*np.searchsorted(tensor.coords[sort], [first, last]))]
    coords, shape = list(own.coords), list(own.shape)
    coords[sort] = coords[sort] - first
    shape[sort] = last - first
    return type(tensor)(tuple(coords), own.values, tuple(shape), sorted_by=sort)


def test_a_singular_system_without_ridge_is_solved_without_blowing_up():
    gram = np.array([[1.0, 1.0], [1.0, 1.0]])
    right = np.ones((3, 2))
    solution = blocks.solve_block(blocks.BlockSystem(gram, right), None, 0.0, np.zeros((3, 2)))
    np.testing.assert_allclose(solution @ gram, right, atol=1e-6)


def test_assembling_leaves_products_alone_that_may_not_be_written():
    rng = np.random.default_rng(7)
    problem, tensor, _, factors = three_mode(rng, "unknown", "cp")
    grams = {m: augmented_gram(a) for m, a in factors.items()}
    products = [s.products(problem, factors, ["b"], grams)["b"] for s in whole(problem, tensor)]
    before = [product.right.copy() for product in products]
    for product in products:
        product.right.flags.writeable = False
    first, again = (
        blocks.assemble(problem, "b", problem.sizes["b"], products, grams, np.dtype(float)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.gram, again.gram)
    np.testing.assert_array_equal(first.right, again.right)
    for product, right in zip(products, before):
        np.testing.assert_array_equal(product.right, right)


def test_loop_objective_counts_every_cell():
    rng = np.random.default_rng(6)
    problem, tensor, _, factors = three_mode(rng, "zero", "cp", graphs=False)
    nothing = {m: np.zeros_like(a) for m, a in factors.items()}
    assert loop_objective(problem, {"r": tensor}, {}, nothing) == pytest.approx(
        0.7 * (tensor.values**2).sum()
    )
    assert random_tensor(rng, (3, 3), 100).nnz == 9
