"""The hypergraph as a Zarr store, unit by unit.

``modalities/<m>``
    ``ids`` and, if there are any, ``labels``; attributes ``count``, ``labels_digest``.
``relations/<p>``
    ``coord_0`` …, ``values`` and ``indptr`` (see :func:`read_indptr`); entries are unique and sorted by
    the longest mode, then by the others; attributes ``modalities``, ``shape``, ``nnz``, ``mean``.
``tests/<p>``
    ``coord_0`` … and ``values`` in the order of the test table; -1 is an id that is no entity.
``graphs/<m>``
    ``data``, ``indices``, ``indptr`` of the Laplacian; attributes ``rows``, ``edges``, ``components``,
    ``isolated``.
``features/<m>``
    ``data``, ``indices``, ``indptr`` of what the entities are like; attributes ``shape`` and ``blocks``, how
    many columns are of one feature each time (none: all are).

Every unit also has a ``fingerprint``, a hash of what it was made from, and a ``digest``, a hash of
what it contains (of a modality: its ids). Units made from others name those digests in their
fingerprint, so a change redoes exactly what depends on it. The root's attribute ``order`` lists units
in the order of the data set's settings. A tensor's values have 32 bits where they say the same as 64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import zarr

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.coordinates import Repeat, in_order
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation, RowIndex, SparseTensor
from hyperlearn_dask.storage import (
    child_group,
    create_artefact,
    hash_arrays,
    hash_of,
    open_artefact,
    read_array,
    read_runs,
    replacing,
    write_array,
)

if TYPE_CHECKING:
    import scipy.sparse

Unit = TypeVar("Unit")

FORMAT = "hyperlearn-hypergraph"
KINDS = ("modalities", "relations", "tests", "graphs", "features")


def open_hypergraph(path: str | Path) -> Hypergraph:
    """Open a stored hypergraph; tensors and graphs are read when first asked for.

    Raises
    ------
    InputError
        When there is none or it is damaged; also later, when something is read that is damaged or
        has been made anew since.
    """
    path = Path(path)
    root = open_artefact(path, FORMAT)
    modalities = {name: _read_modality(group, name) for name, group in _units(root, "modalities")}
    tests = dict(_units(root, "tests"))
    relations = {
        name: _lazy_relation(path, name, group, tests.get(name)) for name, group in _units(root, "relations")
    }
    graphs, features = (
        {name: _attribute(group, "digest") for name, group in _units(root, kind)}
        for kind in ("graphs", "features")
    )
    blocks: dict[str, tuple[int, ...]] = {}
    for name, group in _units(root, "features"):
        stored: Any = group.attrs.get("blocks", ())
        blocks[name] = tuple(stored)
    return Hypergraph(
        modalities,
        relations,
        _Stored(path, "graphs", graphs, _read_graph),
        path,
        _Stored(path, "features", features, lambda group, _: _read_features(group)),
        blocks,
    )


def save_hypergraph(hypergraph: Hypergraph, path: str | Path) -> None:
    """Write a hypergraph, whole or not at all; one that was there before is replaced.

    Raises
    ------
    InputError
        When ``path`` holds something else, or cannot be written.
    """
    path = Path(path)
    if path.exists():
        open_artefact(path, FORMAT)
    with replacing(path) as staging:
        names = [f"modalities/{name}" for name in hypergraph.modalities]
        names += [f"relations/{name}" for name in hypergraph.relations]
        root = create_hypergraph(staging, names)
        for modality in hypergraph.modalities.values():
            write_modality(root, modality)
        for name, relation in hypergraph.relations.items():
            ordered = in_order(relation.tensor.coords, relation.tensor.values, relation.shape)
            assert not isinstance(ordered, Repeat)
            write_relation(root, name, relation.modalities, ordered[0])
            if relation.test is not None:
                write_test(root, name, relation.modalities, relation.test)
        for graph in hypergraph.graphs.values():
            write_graph(root, graph)
        for name, matrix in hypergraph.features.items():
            write_features(root, name, matrix, hypergraph.feature_blocks.get(name, ()))


def read_relation(
    path: str | Path, name: str, start: int | None = None, stop: int | None = None, digest: str | None = None
) -> SparseTensor:
    """A relation's tensor, or its entries from ``start`` to ``stop``; only if it has the digest."""
    return _read_tensor(_unit(path, f"relations/{name}", digest), start, stop)


def read_entries(
    path: str | Path, name: str, start: int, stop: int, digest: str, rows: tuple[int, int]
) -> SparseTensor:
    """Entries ``start`` to ``stop`` of a relation with the digest, as :meth:`Relation.runs` gives them.

    ``rows``: those of the sort mode that they are all of.
    """
    return next(_read_runs(_unit(path, f"relations/{name}", digest), [start, stop], rows))


def open_relation(path: str | Path, name: str) -> Relation:
    """A relation of a stored hypergraph by itself, its tensors read when first asked for."""
    root = open_artefact(Path(path), FORMAT)
    tests = dict(_units(root, "tests"))
    return _lazy_relation(Path(path), name, child_group(root, f"relations/{name}"), tests.get(name))


def relation_shape(path: str | Path, name: str) -> tuple[int, ...]:
    """The number of entities per mode of a relation."""
    return tuple(_attribute(_unit(path, f"relations/{name}"), "shape"))


def read_indptr(path: str | Path, name: str) -> np.ndarray:
    """Where each row of a relation's sort mode begins in its entries (rows + 1 integers)."""
    return read_array(_unit(path, f"relations/{name}"), "indptr")


def read_graph(path: str | Path, modality: str, digest: str | None = None) -> Graph:
    """A modality's graph; only if it has the digest."""
    return _read_graph(_unit(path, f"graphs/{modality}", digest), modality)


def read_modality(path: str | Path, name: str) -> Modality:
    """A modality's entities."""
    return _read_modality(_unit(path, f"modalities/{name}"), name)


def unit_digests(path: str | Path) -> dict[str, str]:
    """What each unit contains, as hashes: ``{"modalities/artist": "…", "relations/made": "…"}``."""
    return {unit: attributes["digest"] for unit, attributes in unit_attributes(path).items()}


def unit_attributes(path: str | Path) -> dict[str, dict[str, Any]]:
    """What each unit says about itself: fingerprint, digest, counts (see the module)."""
    root = open_artefact(Path(path), FORMAT)
    found = {f"{kind}/{name}": dict(group.attrs) for kind in KINDS for name, group in _units(root, kind)}
    for unit, attributes in found.items():
        if not {"fingerprint", "digest"} <= attributes.keys():
            raise _damaged(child_group(root, unit), "does not say what it was made from")
    return found


def stored_order(path: str | Path) -> list[str]:
    """The order in which a store lists its units."""
    return unit_order(open_artefact(Path(path), FORMAT))


def unit_order(root: zarr.Group) -> list[str]:
    """The order in which an open store lists its units; those it does not name come last."""
    order = root.attrs.get("order", [])
    return [str(unit) for unit in order] if isinstance(order, list) else []


# Writing units.


def create_hypergraph(staging: Path, order: Sequence[str]) -> zarr.Group:
    """A new store without units; ``order`` names those to come in the order they are to be listed."""
    root = create_artefact(staging, FORMAT)
    root.attrs["order"] = list(order)
    for kind in KINDS:
        root.create_group(kind)
    return root


def write_modality(root: zarr.Group, modality: Modality, fingerprint: str = "") -> None:
    labels = modality.labels
    attributes = {
        "fingerprint": fingerprint,
        "digest": hash_arrays(modality.ids),
        "labels_digest": None if labels is None else hash_arrays(labels),
        "count": len(modality),
    }
    group = root.create_group(f"modalities/{modality.name}", attributes=attributes)
    write_array(group, "ids", modality.ids)
    if labels is not None:
        write_array(group, "labels", labels)


def write_relation(
    root: zarr.Group, name: str, modalities: tuple[str, ...], tensor: SparseTensor, fingerprint: str = ""
) -> None:
    """Write a tensor whose entries are unique and in order."""
    group = root.create_group(f"relations/{name}")
    with ThreadPoolExecutor(1) as aside:  # hashing takes half as long as writing
        described = aside.submit(_describe_tensor, modalities, tensor, fingerprint)
        _write_tensor(group, tensor)
        write_array(group, "indptr", tensor.row_starts)
    mean = float(tensor.values.mean()) if tensor.nnz else 0.0
    group.attrs.update({**described.result(), "mean": mean})


def write_test(
    root: zarr.Group, name: str, modalities: tuple[str, ...], tensor: SparseTensor, fingerprint: str = ""
) -> None:
    """Write test tuples, in the order they come."""
    attributes = _describe_tensor(modalities, tensor, fingerprint)
    _write_tensor(root.create_group(f"tests/{name}", attributes=attributes), tensor)


def write_graph(root: zarr.Group, graph: Graph, fingerprint: str = "") -> None:
    matrix = graph.laplacian
    attributes = {
        "fingerprint": fingerprint,
        "digest": hash_of([matrix.shape[0], hash_arrays(matrix.data, matrix.indices, matrix.indptr)]),
        "rows": matrix.shape[0],
        "edges": graph.edges,
        "components": graph.components,
        "isolated": graph.isolated,
    }
    group = root.create_group(f"graphs/{graph.modality}", attributes=attributes)
    for part in ("data", "indices", "indptr"):
        write_array(group, part, getattr(matrix, part))


def write_features(
    root: zarr.Group,
    modality: str,
    matrix: scipy.sparse.csr_array,
    blocks: Sequence[int] = (),
    fingerprint: str = "",
) -> None:
    """Write what the entities of a modality are like (entities x columns); ``blocks``: columns by feature."""
    attributes = {
        "fingerprint": fingerprint,
        "digest": hash_of(
            [list(matrix.shape), list(blocks), hash_arrays(matrix.data, matrix.indices, matrix.indptr)]
        ),
        "shape": list(matrix.shape),
        "blocks": list(blocks),
    }
    group = root.create_group(f"features/{modality}", attributes=attributes)
    for part in ("data", "indices", "indptr"):
        write_array(group, part, getattr(matrix, part))


def _describe_tensor(modalities: tuple[str, ...], tensor: SparseTensor, fingerprint: str) -> dict[str, Any]:
    contents = hash_arrays(*tensor.coords, tensor.values.astype(np.float64, copy=False))
    return {
        "fingerprint": fingerprint,
        "digest": hash_of([list(modalities), list(tensor.shape), contents]),
        "modalities": list(modalities),
        "shape": list(tensor.shape),
        "nnz": tensor.nnz,
    }


def _write_tensor(group: zarr.Group, tensor: SparseTensor) -> None:
    values = tensor.values.astype(np.float64, copy=False)
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float32)
    same = np.array_equal(narrow, values)
    for name, array in zip(_parts(tensor.order), (*tensor.coords, narrow if same else values)):
        write_array(group, name, array)


# Reading units.


class _Stored(Mapping[str, Unit]):
    """The units of a kind, each read when first asked for; ``digests``: what they contain."""

    def __init__(
        self, path: Path, kind: str, digests: dict[str, str], read: Callable[[zarr.Group, str], Unit]
    ) -> None:
        self._path = path
        self._kind = kind
        self._digests = digests
        self._reader = read
        self._read: dict[str, Unit] = {}

    def __getitem__(self, modality: str) -> Unit:
        if modality not in self._read:
            group = _unit(self._path, f"{self._kind}/{modality}", self._digests[modality])
            self._read[modality] = self._reader(group, modality)
        return self._read[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)

    def __contains__(self, modality: object) -> bool:
        return modality in self._digests


def _read_modality(group: zarr.Group, name: str) -> Modality:
    labels = read_array(group, "labels") if _attribute(group, "labels_digest") is not None else None
    return Modality(name, read_array(group, "ids"), labels)


def _lazy_relation(path: Path, name: str, group: zarr.Group, test: zarr.Group | None) -> Relation:
    return Relation(
        name,
        tuple(_attribute(group, "modalities")),
        tuple(_attribute(group, "shape")),
        _attribute(group, "nnz"),
        _loader(path, f"relations/{name}", _attribute(group, "digest"), _read_tensor),
        None if test is None else _loader(path, f"tests/{name}", _attribute(test, "digest"), _read_tensor),
        _attribute(group, "mean"),
        _loader(path, f"relations/{name}", _attribute(group, "digest"), _read_runs),
    )


def _loader(path: Path, unit: str, digest: str, read: Callable[..., Unit]) -> Callable[..., Unit]:
    return lambda *which: read(_unit(path, unit, digest), *which)


def _read_tensor(group: zarr.Group, start: int | None = None, stop: int | None = None) -> SparseTensor:
    shape, nnz = tuple(_attribute(group, "shape")), _attribute(group, "nnz")
    arrays = [read_array(group, name, start, stop) for name in _parts(len(shape))]
    arrays[-1] = arrays[-1].astype(np.float64, copy=False)
    return _tensor_of(group, arrays, len(range(*slice(start, stop).indices(nnz))), shape)


def _read_runs(
    group: zarr.Group, bounds: Sequence[int], rows: tuple[int, int] | None = None
) -> Iterator[SparseTensor]:
    """The entries between successive bounds, values as they are stored; of the sort mode a row index.

    ``rows``: those that all of these are all of, if others' are not to be read.
    """
    shape = tuple(_attribute(group, "shape"))
    sort_mode = int(np.argmax(shape))
    first, last = rows or (0, shape[sort_mode])
    ends = (bounds[0], bounds[-1]) if rows else (0, _attribute(group, "nnz"))
    # To the end of what is there, where all are read: more rows than there are is damage as well.
    row_starts = read_array(group, "indptr", first, last + 1 if rows else None)
    fits = len(row_starts) == last - first + 1 and (row_starts[0], row_starts[-1]) == ends
    if not fits or (row_starts[1:] < row_starts[:-1]).any():
        raise _damaged(group, "says of other rows where they begin")
    names = _parts(len(shape))
    del names[sort_mode]
    runs = [read_runs(group, name, bounds) for name in names]
    for start, stop in pairwise(bounds):
        arrays: list[Any] = [next(run) for run in runs]
        arrays.insert(sort_mode, RowIndex(row_starts, start, stop, first))
        yield _tensor_of(group, arrays, stop - start, shape)


def _parts(order: int) -> list[str]:
    """The names of a stored tensor's arrays."""
    return [*(f"coord_{mode}" for mode in range(order)), "values"]


def _tensor_of(
    group: zarr.Group, arrays: Sequence[Any], expected: int, shape: tuple[int, ...]
) -> SparseTensor:
    if any(len(array) != expected for array in arrays):
        raise _damaged(group, f"does not hold its {_attribute(group, 'nnz')} entries")
    return SparseTensor(tuple(arrays[:-1]), arrays[-1], shape)


def _read_features(group: zarr.Group) -> scipy.sparse.csr_array:
    rows, columns = _attribute(group, "shape")
    return _read_csr(group, (rows, columns))


def _read_csr(group: zarr.Group, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    import scipy.sparse

    parts = tuple(read_array(group, part) for part in ("data", "indices", "indptr"))
    try:
        return scipy.sparse.csr_array(parts, shape=shape)
    except ValueError as error:
        raise _damaged(group, "is no sparse matrix") from error


def _read_graph(group: zarr.Group, modality: str) -> Graph:
    rows = _attribute(group, "rows")
    laplacian = _read_csr(group, (rows, rows))
    counts = (_attribute(group, key) for key in ("edges", "components", "isolated"))
    return Graph(modality, laplacian, *counts)


def _unit(path: str | Path, unit: str, digest: str | None = None) -> zarr.Group:
    """A unit's group; with a digest, only as long as it still contains the same."""
    group = child_group(open_artefact(Path(path), FORMAT), unit)
    if digest is not None and _attribute(group, "digest") != digest:
        raise InputError(f"'{unit}' has been made anew since this store was opened; open it again", file=path)
    return group


def _units(root: zarr.Group, kind: str) -> list[tuple[str, zarr.Group]]:
    if kind == "features" and kind not in root:
        return []  # a store from before there were any
    parent = child_group(root, kind)
    order = unit_order(root)
    place = {unit: position for position, unit in enumerate(order)}
    names = sorted(parent.group_keys(), key=lambda name: (place.get(f"{kind}/{name}", len(order)), name))
    return [(name, child_group(parent, name)) for name in names]


def _attribute(group: zarr.Group, key: str) -> Any:
    try:
        return group.attrs[key]
    except KeyError:
        raise _damaged(group, f"has no attribute '{key}'") from None


def _damaged(group: zarr.Group, problem: str) -> InputError:
    store = getattr(group.store, "root", None)
    return InputError(f"'{group.path}' {problem}; delete this store and make it again", file=store)
