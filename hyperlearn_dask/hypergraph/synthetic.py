"""Data sets out of a planted model: raw tables in which we know what there is to be found."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.storage import replacing

_NOISE = 0.05  # of the hyperedges join entities at random
_TEST = 0.1  # of the hyperedges are kept for the test table
_ATTEMPTS = 20  # rounds of drawing until there are enough distinct hyperedges


def planted(
    sizes: Mapping[str, int], *, rank: int, hyperedges: int, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Hyperedges of a planted mixture: a column is drawn, then an entity of each modality within it.

    Each entity belongs to one column, in which its weight falls off like 1 / position^0.7.

    Returns
    -------
    tuple
        The distinct hyperedges (n x modalities, n at most ``hyperedges``) in random order, and per
        modality the column (entities,) that each entity belongs to.
    """
    generator = np.random.default_rng(seed)
    column_of = {name: generator.permutation(np.arange(size) % rank) for name, size in sizes.items()}
    edges = np.empty((0, len(sizes)), dtype=np.int64)
    for _ in range(_ATTEMPTS):
        if len(edges) >= hyperedges:
            break
        missing = hyperedges - len(edges)
        columns = generator.integers(rank, size=missing)
        noisy = generator.random(missing) < _NOISE
        drawn = np.empty((missing, len(sizes)), dtype=np.int64)
        for mode, (name, size) in enumerate(sizes.items()):
            for column in range(rank):
                members = np.flatnonzero(column_of[name] == column)
                weights = np.arange(1, len(members) + 1) ** -0.7
                wanted = columns == column
                drawn[wanted, mode] = generator.choice(members, wanted.sum(), p=weights / weights.sum())
            drawn[noisy, mode] = generator.integers(size, size=noisy.sum())
        edges = np.unique(np.concatenate([edges, drawn]), axis=0)
    return generator.permutation(edges), column_of


def write_planted(folder: Path, sizes: Mapping[str, int], *, rank: int, hyperedges: int, seed: int) -> int:
    """Write a data set with one relation over all modalities; how many hyperedges it has.

    The label of an entity says which column it belongs to.

    Raises
    ------
    InputError
        When the sizes make no data set, or ``folder`` is there already.
    """
    _check(folder, sizes, rank, hyperedges, seed)
    edges, column_of = planted(sizes, rank=rank, hyperedges=hyperedges, seed=seed)
    names = {m: [f"{m}-{number}" for number in range(size)] for m, size in sizes.items()}
    rows = [[names[m][i] for m, i in zip(sizes, edge)] for edge in edges.tolist()]
    test = max(1, int(_TEST * len(rows)))
    with replacing(folder) as staging:
        staging.mkdir()
        for modality, columns in column_of.items():
            entities = ([name, f"{name} of {column}"] for name, column in zip(names[modality], columns))
            _write(staging / f"{modality}.csv", [modality, "label"], entities)
        _write(staging / "joined_train.csv", list(sizes), rows[test:])
        _write(staging / "joined_test.csv", list(sizes), rows[:test])
        (staging / "dataset.toml").write_text(_settings(sizes, rank, seed), encoding="utf-8")
    return len(rows)


def _check(folder: Path, sizes: Mapping[str, int], rank: int, hyperedges: int, seed: int) -> None:
    if folder.exists():
        raise InputError("is there already; choose another name or remove it", file=folder)
    if len(sizes) < 2:
        raise InputError(f"{len(sizes)} modalities make no relation (expected 2 or more)", key="sizes")
    for name, size in sizes.items():
        if not name.replace("_", "").replace("-", "").isalnum() or name == "joined":
            raise InputError(
                f"'{name}' cannot name a modality (expected letters, digits, _ and -)", key="sizes"
            )
        if size < rank:
            raise InputError(f"{name} = {size} is less than the rank, {rank}", key="sizes")
    if rank < 1:
        raise InputError(f"{rank} columns are too few (expected 1 or more)", key="rank")
    if seed < 0:
        raise InputError(f"{seed} is negative (expected 0 or more)", key="seed")
    cells = float(np.prod([float(size) for size in sizes.values()]))
    if not 10 <= hyperedges <= cells / 2:
        raise InputError(
            f"{hyperedges} is out of range (expected 10 or more, at most half of the {cells:.3g} possible)",
            key="hyperedges",
        )


def _settings(sizes: Mapping[str, int], rank: int, seed: int) -> str:
    tables = [f'[modalities.{m}]\ntable = "{m}.csv"\nid = "{m}"\nlabel = "label"\n' for m in sizes]
    columns = ", ".join(f'{m} = "{m}"' for m in sizes)
    return "\n".join(
        [
            f'title = "A planted model of rank {rank}, seed {seed}"\n',
            *tables,
            f'[relations.joined]\ntable = "joined_train.csv"\ncolumns = {{ {columns} }}\n'
            f'test = "joined_test.csv"\ntarget = "{list(sizes)[-1]}"\n',
            f"[training]\nrank = {rank}\n",
        ]
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
