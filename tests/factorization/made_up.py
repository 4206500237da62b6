"""Small random tensors, graphs and problems for the tests of the mathematics."""

import itertools
from dataclasses import replace

import numpy as np
import scipy.sparse

from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.factorization.shards import ContextShard, EntryShard, contexts_of
from hyperlearn_dask.hypergraph.tensor import SparseTensor


def random_tensor(rng, shape, nnz):
    """Unique entries in the order of a stored relation."""
    nnz = min(nnz, int(np.prod(shape)))
    flat = rng.choice(int(np.prod(shape)), nnz, replace=False)
    coords = [c.astype(np.int32) for c in np.unravel_index(flat, shape)]
    sort = int(np.argmax(shape))
    keys = [coords[m] for m in range(len(shape)) if m != sort]
    order = np.lexsort([*reversed(keys), coords[sort]])
    return SparseTensor(tuple(c[order] for c in coords), rng.normal(size=nnz), tuple(shape))


def random_laplacian(rng, n, density=0.2, isolated=1):
    weights = scipy.sparse.random_array((n, n), density=density, rng=rng).toarray()
    weights = np.maximum(weights, weights.T)
    np.fill_diagonal(weights, 0)
    weights[:isolated] = 0
    weights[:, :isolated] = 0
    degree = weights.sum(axis=0)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    laplacian = np.diag((degree > 0).astype(float)) - scale[:, None] * weights * scale
    return scipy.sparse.csr_array(laplacian)


INTERACTIONS = {
    "cp": (None, {"all": 3}),
    "pairs and biases": (
        {"ab": ("a", "b"), "bc": ("b", "c"), "bias": ("a",)},
        {"ab": 2, "bc": 3, "bias": 1},
    ),
    "a group unused": ({"abc": ("a", "b", "c")}, {"abc": 2, "other": 2}),
}


LOSSES = {
    "zero": TermSettings("zero", 0.7),
    "zero, weighted": TermSettings("zero", 0.7, absent_weight=0.3),
    "unknown": TermSettings("unknown", 0.7),
    "context": TermSettings("context", 0.7, target="c"),
    "context, weighted": TermSettings("context", 0.7, target="c", absent_weight=0.2),
    "context of the longest mode": TermSettings("context", 0.7, target="b"),
}


def three_mode(rng, loss, interactions, graphs=True, shape=(7, 9, 5)):
    """A problem over modalities a, b, c with one relation, its data and random factors."""
    coupling, groups = INTERACTIONS[interactions]
    sizes = dict(zip("abc", shape))
    settings = {"r": replace(LOSSES[loss], interactions=coupling)}
    weights = {"a": 0.5, "b": 2.0} if graphs else {}
    problem = build_problem(sizes, {"r": ("a", "b", "c")}, settings, groups, weights, 0.1)
    tensor = random_tensor(rng, shape, 60)
    laplacians = {m: random_laplacian(rng, sizes[m]) for m in weights}
    factors = {}
    for m, n in sizes.items():
        factors[m] = np.tile(problem.resting_value(m), (n, 1))
        factors[m][:, problem.free_columns(m)] = rng.normal(size=(n, len(problem.free_columns(m))))
    return problem, tensor, laplacians, factors


def whole(problem, tensor, name="r"):
    """A relation as its only shard, or two: its entries and its contexts."""
    term = problem.terms[name]
    shards = [EntryShard(name, tensor)]
    if term.absent == "context":
        shards.append(ContextShard(name, contexts_of(tensor, term.target_mode)))
    return shards


def loop_predict(problem, name, factors, index):
    """xhat at one tuple, straight from its definition."""
    term = problem.terms[name]
    total = 0.0
    for r in range(problem.rank):
        if not term.used[r]:
            continue
        product = 1.0
        for mode, modality in enumerate(term.modalities):
            if term.coupled[mode, r]:
                product *= factors[modality][index[mode], r]
        total += product
    return total


def _without(cell, mode):
    return cell[:mode] + cell[mode + 1 :]


def loop_objective(problem, tensors, laplacians, factors):
    """F, straight from its definition: every cell of the tensor is visited."""
    total = 0.0
    for name, term in problem.terms.items():
        tensor = tensors[name]
        values = {tuple(int(c[e]) for c in tensor.coords): v for e, v in enumerate(tensor.values)}
        contexts = {_without(cell, term.target_mode) for cell in values}
        for cell in itertools.product(*map(range, tensor.shape)):
            if cell in values:
                weight = term.weight
            elif term.absent == "zero" or (
                term.absent == "context" and _without(cell, term.target_mode) in contexts
            ):
                weight = term.weight * term.background
            else:
                continue
            total += weight * (values.get(cell, 0.0) - loop_predict(problem, name, factors, cell)) ** 2
    for m, factor in factors.items():
        a = factor[:, problem.free_columns(m)]
        if m in laplacians:
            total += problem.graph_weights[m] / 2 * np.trace(a.T @ laplacians[m].toarray() @ a)
        total += problem.ridge / 2 * (a**2).sum()
    return total


def loop_mttkrp(tensor, matrices, mode):
    out = np.zeros((tensor.shape[mode], matrices[0].shape[1]))
    for e in range(tensor.nnz):
        row = np.full(out.shape[1], tensor.values[e])
        for m in range(tensor.order):
            if m != mode:
                row = row * matrices[m][tensor.coords[m][e]]
        out[tensor.coords[mode][e]] += row
    return out


def loop_normal_equations(tensor, matrices, mode, free, fixed, weight):
    gram = np.zeros((tensor.shape[mode], len(free), len(free)))
    right = np.zeros((tensor.shape[mode], len(free)))
    for e in range(tensor.nnz):
        z = np.ones(matrices[0].shape[1])
        for m in range(tensor.order):
            if m != mode:
                z = z * matrices[m][tensor.coords[m][e]]
        i = tensor.coords[mode][e]
        gram[i] += weight * np.outer(z[free], z[free])
        right[i] += z[free] * (tensor.values[e] - weight * z[fixed].sum())
    return gram, right


def loop_values(tensor, matrices):
    return np.array(
        [
            np.prod([a[tensor.coords[m][e]] for m, a in enumerate(matrices)], axis=0).sum()
            for e in range(tensor.nnz)
        ]
    )


def loop_context_equations(contexts, matrices, mode, free, fixed, target):
    """``target``: the target modality's matrix."""
    gram = np.zeros((contexts.shape[mode], len(free), len(free)))
    right = np.zeros((contexts.shape[mode], len(free)))
    for e in range(contexts.nnz):
        w = np.ones(matrices[0].shape[1])
        for m, a in enumerate(matrices):
            if m != mode:
                w = w * a[contexts.coords[m][e]]
        i = contexts.coords[mode][e]
        for row in target:  # xhat of (context, target) = sum_r own_r w_r target_r
            z = w * row
            gram[i] += np.outer(z[free], z[free])
            right[i] -= z[free] * z[fixed].sum()
    return gram, right


def loop_line(tensor, matrices, directions, weight):
    """The coefficients of sum over the entries of -2 x xhat(alpha) + weight xhat(alpha)^2."""
    total = np.zeros(2 * tensor.order + 1)
    for e in range(tensor.nnz):
        terms = np.zeros((tensor.order + 1, matrices[0].shape[1]))
        terms[0] = 1
        for i, a, d in zip((c[e] for c in tensor.coords), matrices, directions):
            terms[1:] = terms[1:] * a[i] + terms[:-1] * d[i]
            terms[0] *= a[i]
        xhat = terms.sum(axis=1)
        total[: tensor.order + 1] -= 2 * tensor.values[e] * xhat
        total += weight * np.convolve(xhat, xhat)
    return total
