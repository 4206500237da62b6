"""The graph benchmark's own code, on small graphs."""

import numpy as np
import pytest

from benchmarks import graph


def test_graph_filters_are_compared_with_the_same_numbers_of_scipy() -> None:
    case = graph.Case("small", 60, 200, reach=5, repeats=2)
    rows = graph.measure(case, columns=4, degree=5, dtype="float64", bandwidth=1e10)
    figures = {(row.task, row.method, row.metric): row.value for row in rows}
    assert len(figures) == len(rows) == 6
    for row in rows:
        if row.metric == "ratio_to_scipy":
            theirs, ours = (figures[row.task, method, "seconds"] for method in ("scipy", "hyperlearn"))
            assert row.value == pytest.approx(theirs / ours)
            assert row.details["difference"] < 1e-12


def test_the_recurrence_that_filters_are_compared_with_is_that_of_the_polynomials() -> None:
    laplacian = graph.random_laplacian(graph.Case("", 30, 60), np.random.default_rng(0), "float64")
    block, c = np.ones((30, 1)), np.arange(5.0)[:, None]
    values, vectors = np.linalg.eigh(laplacian.toarray() - np.eye(30))
    expected = vectors @ np.diag(np.polynomial.chebyshev.chebval(values, c[:, 0])) @ vectors.T @ block
    np.testing.assert_allclose(graph.scipy_filter(laplacian, block, c), expected, atol=1e-12)
