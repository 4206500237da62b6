"""Regressions of targets on sparse features against dense solves, loops and known truths."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from hyperlearn_dask.factorization.local import regression
from hyperlearn_dask.factorization.local.regression import RIDGE, SHARPNESS, classify, regress


def test_the_regression_solves_each_target_without_itself() -> None:
    rng = np.random.default_rng(2)
    answers = (rng.random((40, 6)) < 0.3).astype(float)
    others = rng.random((40, 5)) * (rng.random((40, 5)) < 0.5)
    features = np.hstack([answers * rng.random(6), others])
    links = regress(sp.csr_array(features), sp.csr_array(answers), np.arange(6)).links.toarray()
    for target in range(6):
        kept = [j for j in range(11) if j != target]
        part = features[:, kept]
        expected = np.linalg.solve(part.T @ part + RIDGE * np.eye(10), part.T @ answers[:, target])
        np.testing.assert_allclose(links[kept, target], expected, atol=1e-4)
        assert links[target, target] == 0
    plain = regress(sp.csr_array(others), sp.csr_array(answers), None).links.toarray()
    system = others.T @ others + RIDGE * np.eye(5)
    np.testing.assert_allclose(plain, np.linalg.solve(system, others.T @ answers), atol=1e-4)


def planted_classes(seed: int, contexts: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets drawn from a planted softmax of them, and its probabilities."""
    rng = np.random.default_rng(seed)
    features = (rng.random((contexts, 12)) < 0.3).astype(float)
    truth = rng.normal(scale=2, size=(12, 5))
    scores = np.exp(features @ truth)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    drawn = (probabilities.cumsum(axis=1) > rng.random((contexts, 1))).argmax(axis=1)
    return features, np.eye(5)[drawn], probabilities


def test_the_softmax_comes_near_the_best_one() -> None:
    features, answers, _ = planted_classes(0, contexts=3000)
    bias = np.log(answers.mean(axis=0))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        scores = features @ flat.reshape(12, 5) + bias
        top = scores.max(axis=1, keepdims=True)
        total = np.log(np.exp(scores - top).sum(axis=1, keepdims=True)) + top
        gradient = features.T @ (np.exp(scores - total) - answers)
        return float((total - (scores * answers).sum(axis=1, keepdims=True)).mean()), gradient.ravel() / 3000

    best = scipy.optimize.minimize(loss, np.zeros(60), jac=True, method="L-BFGS-B").fun
    found = classify(sp.csr_array(features), sp.csr_array(answers))
    assert best < loss(found.links.toarray().ravel())[0] < best + 0.02
    assert loss(np.zeros(60))[0] > best + 0.5  # what there was to learn


def test_probabilities_are_the_softmax_of_what_the_features_say() -> None:
    features, answers, _ = planted_classes(1)
    answers = np.hstack([answers, np.zeros((600, 1))])  # a target that none has
    found = classify(sp.csr_array(features), sp.csr_array(answers))
    assert found.bias is not None
    for row, got in zip(features[:20], found.found(sp.csr_array(features[:20])).toarray()):
        odds = [np.exp(row @ found.links.toarray()[:, t] + found.bias[t]) for t in range(6)]
        np.testing.assert_allclose(got, np.array(odds) / sum(odds), atol=1e-4)
        assert got[5] == 0
    none = found.found(sp.csr_array((2, 12)))
    np.testing.assert_allclose(none.toarray(), np.tile(answers.mean(axis=0), (2, 1)), atol=1e-4)


def test_what_one_context_has_says_nothing() -> None:
    features, answers, _ = planted_classes(2)
    alone = np.hstack([features, np.eye(600)])  # each context's own name
    found = classify(sp.csr_array(alone), sp.csr_array(answers))
    assert not found.links[12:].nnz
    plain = classify(sp.csr_array(features), sp.csr_array(answers))
    np.testing.assert_array_equal(found.links[:12].toarray(), plain.links.toarray())
    assert plain.links.nnz and np.abs(plain.links.data).min() >= SHARPNESS * regression.FADING


def test_small_weights_are_let_go_but_for_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "LINKS", 2)
    weights = np.array([[0.5, 0.001], [0.02, -0.003], [-0.3, 0.002], [0.004, 0.0005]])
    kept = regression._without_small(weights).toarray()
    expected = np.array([[0.5, 0], [0.02, -0.003], [-0.3, 0.002], [0, 0]])
    np.testing.assert_array_equal(kept, expected)
