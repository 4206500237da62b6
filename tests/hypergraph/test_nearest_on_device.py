"""Exact neighbours found on a device, emulated or a GPU's, are those that the CPU finds."""

import numpy as np
import pytest
import scipy.sparse as sp

from hyperlearn_dask.hypergraph import nearest
from hyperlearn_dask.hypergraph.nearest import Cloud, nearest_tiled


def points(kind):
    rng = np.random.default_rng(0)
    if kind == "ties":  # nearly all points are equally far from many others
        return rng.integers(0, 3, size=(150, 2)).astype(float)
    dense = rng.normal(size=(150, 6))
    return sp.csr_array(np.where(rng.random(dense.shape) < 0.3, dense, 0)) if kind == "sparse" else dense


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("kind", ["dense", "sparse", "ties"])
@pytest.mark.parametrize("tile", [17, 40, 10_000])
def test_neighbours_are_those_of_the_cpu(cupy, kind, metric, tile):
    cloud = Cloud.of(points(kind), 4, metric)
    got = nearest_tiled(cloud.on("cuda"), 20, 110, tile)
    for one, other in zip(got, nearest.nearest(cloud, np.arange(20, 110))):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_graphs_are_those_of_the_cpu(cupy, monkeypatch, kind):
    neighbour_graph = pytest.importorskip("hyperlearn_dask.hypergraph.neighbors").neighbour_graph
    monkeypatch.setattr(nearest, "TILE", 60)
    assert (
        neighbour_graph("m", points(kind), 4, device="cuda") != neighbour_graph("m", points(kind), 4)
    ).nnz == 0


def test_workers_put_the_points_on_their_devices(cupy, monkeypatch):
    if hasattr(cupy, "__version__"):
        pytest.skip("workers that are threads of this process: emulated only")
    from distributed import Client, LocalCluster

    from hyperlearn_dask.hypergraph.neighbors import neighbour_graph

    monkeypatch.setattr(nearest, "TILE", 60)
    expected = neighbour_graph("m", points("sparse"), 4)
    with (
        LocalCluster(
            2, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        got = neighbour_graph("m", points("sparse"), 4, client=client, device="cuda")
    assert (got != expected).nnz == 0


def test_few_distances_are_held_at_once(monkeypatch):
    """Groups of columns bound the k-th distance; what passes is little more than the nearest."""
    rng = np.random.default_rng(0)
    cloud = Cloud.of(rng.normal(size=(3000, 5)), 3, "euclidean")
    held = []
    within = nearest._within
    monkeypatch.setattr(nearest, "_within", lambda *args: held.append(within(*args)) or held[-1])
    rows, columns, _ = nearest_tiled(cloud, 100, 200, tile=1000)
    expected = nearest.nearest(cloud, np.arange(100, 200))
    assert (rows == expected[0]).all()
    assert (columns == expected[1]).all()
    assert sum(len(part[0]) for part in held[:3]) < 10 * 100 * 3
