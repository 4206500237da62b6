"""Data sets out of a planted model: raw tables in which we know what there is to be found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.planted import Kind, planted_edges, planted_tensor
from hyperlearn_dask.storage import replacing

_NEIGHBORS = 8
_RELATION = "joined"
# Ids and labels are made of these names: nothing in them needs quotes in a CSV file.
_CSV = pyarrow.csv.WriteOptions(quoting_style="none", quoting_header="none")


def write_dataset(
    folder: Path,
    *,
    sizes: Mapping[str, int],
    rank: int,
    nnz: int,
    noise: float = 0.05,
    seed: int = 0,
    graphs: bool = True,
    test_fraction: float = 0.1,
    kind: Kind = "zero",
    exponent: float = 0.0,
) -> int:
    """Write a data set with one relation over all modalities, whole or not at all.

    An entity's label ends with the number of its cluster. See :func:`.planted.planted_tensor` for
    ``sizes``, ``rank``, ``nnz``, ``noise``, ``kind`` and ``exponent``.

    Parameters
    ----------
    graphs
        Whether every modality has a graph; the share ``noise`` of its edges is at random.
    test_fraction
        Of the entries, drawn at random, that are kept for the test table; less than 1.

    Returns
    -------
    int
        How many entries were written, those of the test included.

    Raises
    ------
    InputError
        When the numbers make no data set, ``folder`` is there already or cannot be written.
    """
    if folder.exists():
        raise InputError("is there already; choose another name or remove it", file=folder)
    for name in sizes:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name == _RELATION:
            problem = f"'{name}' cannot name a modality (expected letters, digits, _ and -)"
            raise InputError(problem, key="sizes")
    if seed < 0:
        raise InputError(f"{seed} is negative (expected 0 or more)", key="seed")
    if not 0.0 <= test_fraction < 1.0:
        raise InputError(
            f"{test_fraction} is out of range (expected 0 or more, below 1)", key="test_fraction"
        )
    rng = np.random.default_rng(seed)
    tensor, factors = planted_tensor(rng, sizes, rank, nnz, noise, kind, exponent=exponent)
    order = rng.permutation(tensor.nnz)
    tested = int(test_fraction * tensor.nnz)
    ids = {name: _numbered(f"{name}-", np.arange(size)) for name, size in sizes.items()}
    with replacing(folder) as staging:
        staging.mkdir()
        for name, factor in factors.items():
            clusters = np.argmax(factor, axis=1)
            ends = _numbered("of ", clusters)
            labels = pyarrow.compute.binary_join_element_wise(ids[name], ends, " ")
            _write(staging / f"{name}.csv", {name: ids[name], "label": labels})
            if graphs:
                source, target = planted_edges(rng, clusters, _NEIGHBORS, min(noise, 1.0))
                edges = {"source": _named(ids[name], source), "target": _named(ids[name], target)}
                _write(staging / f"{name}_graph.csv", edges)
        for part, entries in (("test", order[:tested]), ("train", order[tested:])):
            columns = {name: _named(ids[name], c[entries]) for name, c in zip(sizes, tensor.coords)}
            columns["value"] = pa.array(tensor.values[entries])
            if part == "train" or tested:
                _write(staging / f"{_RELATION}_{part}.csv", columns)
        text = _settings(sizes, rank, kind, graphs, tested > 0, f"seed {seed}")
        (staging / "dataset.toml").write_text(text, encoding="utf-8")
    return tensor.nnz


def _settings(
    sizes: Mapping[str, int], rank: int, kind: Kind, graphs: bool, tested: bool, origin: str
) -> str:
    lines = [f'title = "A planted model of rank {rank}, {origin}"', ""]
    for name in sizes:
        lines += [f"[modalities.{name}]", f'table = "{name}.csv"', f'id = "{name}"', 'label = "label"', ""]
        if graphs:
            lines += [f"[modalities.{name}.graph]", f'edges = "{name}_graph.csv"']
            lines += ['source = "source"', 'target = "target"', ""]
    columns = ", ".join(f'{name} = "{name}"' for name in sizes)
    lines += [f"[relations.{_RELATION}]", f'table = "{_RELATION}_train.csv"']
    lines += [f"columns = {{ {columns} }}", 'value = "value"', f'absent = "{kind}"']
    lines += [f'test = "{_RELATION}_test.csv"'] if tested else []
    lines += [f'target = "{list(sizes)[-1]}"', "", "[training]", f"rank = {rank}"]
    return "\n".join(lines) + "\n"


def _numbered(prefix: str, numbers: np.ndarray) -> pa.Array:
    digits = pa.array(numbers).cast(pa.string())
    return pyarrow.compute.binary_join_element_wise(prefix, digits, "")


def _named(ids: pa.Array, entities: np.ndarray) -> pa.Array:
    """The ids of entities, kept as numbers until they are written."""
    return pa.DictionaryArray.from_arrays(entities, ids)


def _write(path: Path, columns: Mapping[str, pa.Array]) -> None:
    pyarrow.csv.write_csv(pa.table(dict(columns)), path, _CSV)
