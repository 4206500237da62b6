import math

import numpy as np
import pytest
import scipy.sparse as sp
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import NearestNeighbors

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph import neighbors
from hyperlearn_dask.hypergraph.neighbors import neighbour_graph


def by_loops(points, k, metric):
    """Weights of the neighbour graph, one entity and one pair at a time."""
    n = len(points)
    described = [i for i in range(n) if np.any(points[i])]
    if metric == "cosine":
        points = [x / max(np.linalg.norm(x), 1e-300) for x in points]
    distance = [[round(math.dist(points[i], points[j]), 9) for j in range(n)] for i in range(n)]
    chosen, scale = {}, {}
    for i in described:
        others = sorted((distance[i][j], (j - i) % n, j) for j in described if j != i)[:k]
        chosen[i] = [j for _, _, j in others]
        scale[i] = others[-1][0] if others else 0
    positive = [s for s in scale.values() if s > 0]
    graph = np.zeros((n, n))
    for i in described:
        for j in chosen[i]:
            if metric == "cosine":
                graph[i, j] = max(points[i] @ points[j], 0)
            else:
                s_i, s_j = (scale[a] or np.median(positive or [1]) for a in (i, j))
                graph[i, j] = math.exp(-(distance[i][j] ** 2) / (2 * s_i * s_j))
    return graph


# Few different values make many ties; entities that are all alike are the hard case.
tables = st.tuples(st.integers(2, 12), st.integers(1, 3)).flatmap(
    lambda shape: arrays(float, shape, elements=st.sampled_from([0.0, 0.0, 1.0, 2.0, -1.0, 0.3]))
)


@settings(deadline=None)
@given(tables, st.sampled_from(["cosine", "euclidean"]), st.booleans(), st.integers(1, 5), st.integers(1, 11))
def test_agrees_with_loops_in_any_blocks(points, metric, sparse, block, k):
    k = min(k, len(points) - 1)
    # the cyclic order is that of the described
    features = sp.csr_array(points) if sparse else points
    described = np.flatnonzero(points.any(axis=1))
    graph = neighbour_graph("artist", features, k, metric, block=block).toarray()
    expected = by_loops(points[described], k, metric)
    np.testing.assert_allclose(graph[np.ix_(described, described)], expected, atol=1e-7)
    assert np.count_nonzero(graph) == np.count_nonzero(graph[np.ix_(described, described)])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_librarys_neighbours(metric, sparse):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 6)) if not sparse else sp.random_array((500, 40), density=0.2, rng=rng)
    points = sp.csr_array(points) if sparse else points
    graph = neighbour_graph("artist", points, 7, metric, block=64)
    oracle = NearestNeighbors(n_neighbors=8, metric=metric, algorithm="brute").fit(points)
    distances, neighbours = oracle.kneighbors(points)
    for i in range(500):
        found = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
        assert sorted(found) == sorted(neighbours[i, 1:])
    if metric == "euclidean":
        s, i, j = distances[:, -1], 3, neighbours[3, 5]
        assert graph[i, j] == pytest.approx(math.exp(-(distances[3, 5] ** 2) / (2 * s[i] * s[j])))
    else:
        assert graph[3, neighbours[3, 5]] == pytest.approx(1 - distances[3, 5])


def test_a_category_in_one_point_makes_no_hubs():
    category = np.repeat(np.eye(3), 40, axis=0)
    graph = neighbour_graph("artist", category, 4)
    assert set(graph.sum(axis=0)) == {4.0}
    assert graph[5].coords[0].tolist() == [6, 7, 8, 9]


@pytest.mark.parametrize("factor", [1 / 3, 0.1, 1e-9, 7e12])
def test_rounding_does_not_decide_ties(factor):
    # Each row is a multiple of the same vector: all cosines are 1 up to rounding.
    rng = np.random.default_rng(1)
    points = rng.uniform(0.5, 2, size=(60, 1)) * rng.random(5) * factor
    graph = neighbour_graph("artist", points, 3, block=7)
    assert (graph.indices.reshape(-1, 3) == np.sort((np.arange(60)[:, None] + [1, 2, 3]) % 60)).all()


def test_undescribed_entities_are_isolated():
    points = np.array([[1.0, 0], [0, 0], [1, 1], [0, 0], [0, 2]])
    graph = neighbour_graph("artist", points, 4).toarray()
    assert not graph[[1, 3]].any() and not graph[:, [1, 3]].any()
    assert graph[0, 2] == pytest.approx(2**-0.5)
    assert graph[0, 4] == 0  # at a right angle
    none = neighbour_graph("artist", np.zeros((4, 2)), 2)
    assert none.nnz == 0 and none.shape == (4, 4)


def test_zero_is_a_place_when_said_to_be():
    points = np.array([[0.0], [1.0], [5.0]])
    graph = neighbour_graph("artist", points, 1, "euclidean", informed=np.ones(3, bool))
    assert graph.indices.tolist()[0] == graph.indices.tolist()[-1] == 1


def test_a_cluster_gives_the_same():
    points = np.random.default_rng(2).normal(size=(90, 4))
    told = []
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        there = neighbour_graph("artist", points, 5, block=20, client=client, progress=told.append)
    here = neighbour_graph("artist", points, 5)
    assert (there != here).nnz == 0
    assert told[-1].startswith("artist: finding neighbours: 90 of 90 entities (100 %)")


def test_too_many_neighbours():
    with pytest.raises(InputError) as caught:
        neighbour_graph("artist", np.ones((3, 2)), 3)
    assert caught.value.key == "modalities.artist.graph.k"
    assert "(3), got 3" in str(caught.value)


def clustered(n, columns, clusters, rng):
    centres = rng.normal(size=(clusters, columns))
    return centres[rng.integers(clusters, size=n)] + 0.5 * rng.normal(size=(n, columns))


def recall(found, exact):
    """The part of the exact neighbours that was found."""
    return (found != 0).multiply(exact != 0).nnz / exact.nnz


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("sparse", [False, True])
def test_approximate_finds_what_it_says_it_finds(metric, sparse):
    points = clustered(3000, 90 if sparse else 12, 40, np.random.default_rng(3))
    if sparse:
        points = sp.csr_array(np.maximum(points, 0))
    notes = []
    found = neighbour_graph("artist", points, 8, metric, method="approximate", note=notes.append)
    exact = neighbour_graph("artist", points, 8, metric, method="exact")
    said = float(notes[0].split("recall ")[1].split()[0])
    assert said >= 0.97
    assert recall(found, exact) == pytest.approx(said, abs=0.02)
    assert np.diff(found.indptr).max() <= 8 and not found.diagonal().any()
    both = (found != 0).multiply(exact != 0)
    if metric == "cosine":  # of what both have, the weights are the same: they are not approximate
        np.testing.assert_allclose((both * found).data, (both * exact).data)


@pytest.mark.parametrize("block", [1, 37, 10_000])
def test_approximate_does_not_depend_on_blocks_and_is_repeatable(block):
    points = clustered(700, 6, 20, np.random.default_rng(4))
    one, other = (
        neighbour_graph("artist", points, 5, "euclidean", method="approximate", seed=3, block=b)
        for b in (None, block)
    )
    assert (one != other).nnz == 0


def test_approximate_on_a_cluster_gives_the_same():
    points = clustered(400, 6, 20, np.random.default_rng(4))
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        there = neighbour_graph("artist", points, 5, method="approximate", client=client)
    assert (there != neighbour_graph("artist", points, 5, method="approximate")).nnz == 0


@pytest.mark.parametrize("sparse", [False, True])
def test_points_that_are_all_alike_or_alone_are_treated_as_exactly(sparse):
    rng = np.random.default_rng(5)
    # Large categories in one point each, and points far from all others: regions of one.
    points = np.concatenate([np.repeat(np.eye(3, 70), 200, axis=0), 50 * rng.normal(size=(30, 70))])
    points = sp.csr_array(points) if sparse else points
    for metric in ("cosine", "euclidean"):
        found = neighbour_graph("artist", points, 4, metric, method="approximate")
        exact = neighbour_graph("artist", points, 4, metric)
        assert (found != 0).multiply(exact != 0).nnz >= 0.97 * exact.nnz
        ours = found[:600] - exact[:600]
        assert abs(ours).max() < 1e-9
        if metric == "euclidean":
            assert (np.diff(found.indptr) == 4).all()


def test_what_has_no_regions_is_searched_exactly():
    points = np.random.default_rng(6).normal(size=(600, 60))  # no structure: half of all must be looked at
    notes = []
    neighbors.EXACT_UP_TO, before = 500, neighbors.EXACT_UP_TO
    try:
        found = neighbour_graph("artist", points, 5, note=notes.append)
    finally:
        neighbors.EXACT_UP_TO = before
    assert notes == []
    assert (found != neighbour_graph("artist", points, 5, method="exact")).nnz == 0
