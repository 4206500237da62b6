"""A model's matrices in files that anyone can read and multiply.

The rule that holds for every export: the model's value for entities i of a relation is

    sum_r prod_{m in M_p} A_m[i_m, r]

where the A_m are the exported matrices of the relation's modalities, over *all* their columns. To make
it hold, columns in which a modality is fixed are exported as 1, a relation's offset is a column of its
own (the offset in the first modality, 1 in the others, 0 elsewhere), and entities training knew nothing
about have the mean row, as they have in predictions. Of a model with posterior draws the matrices are
those of the optimum, while its predictions are means over the draws.

Mostly one matrix per modality serves all relations. Where it cannot (a column the relation does not
use would not vanish from its product, or one in which a modality is fixed for it has other entries for
another relation) the relation has matrices of its own for all its modalities, named
``<relation>/<modality>``. What to multiply is said in a description that comes with every export.

npz
    One file: ``about`` (the description, JSON text), ``columns`` (their names) and per modality
    ``<m>/ids``, ``<m>/labels`` (if there are any), ``<m>/informed`` and ``<m>/matrix``; for a relation
    with matrices of its own ``<relation>/columns`` and ``<relation>/<m>/matrix``.
parquet
    A folder: ``export.json`` (the description) and per modality ``<m>.parquet`` with the columns ``id``,
    ``label``, ``informed`` and then those of the matrix; likewise ``<relation>/<m>.parquet``.
tsv
    The same with ``.tsv`` files that have a header; numbers read back exactly.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from hyperlearn_dask.errors import InputError, refuse_foreign
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import Term
from hyperlearn_dask.storage import replacing

if TYPE_CHECKING:
    import pyarrow

Format = Literal["npz", "parquet", "tsv"]

_FORMAT = "hyperlearn-export"


@dataclass(frozen=True)
class Matrices:
    """One exported matrix (entities x columns) per modality, for all relations or for one."""

    columns: list[str]
    by_modality: dict[str, np.ndarray]


def export(model: Model, path: str | Path, format: Format) -> None:
    """Write a model's matrices, whole or not at all; an earlier export at ``path`` is replaced.

    Raises
    ------
    InputError
        When the format is unknown, or something that is no export is in the way.
    """
    if format not in get_args(Format):
        raise InputError(f"unknown format '{format}' (expected one of {', '.join(get_args(Format))})")
    path = Path(path)
    refuse_foreign(path, "export", _is_export)
    shared, own = matrices(model)
    about = json.dumps(_about(model, shared, own), indent=2, ensure_ascii=False)
    with replacing(path) as staging:
        if format == "npz":
            _write_npz(model, staging, about, shared, own)
        else:
            _write_tables(model, staging, about, shared, own, format)


def matrices(model: Model) -> tuple[Matrices, dict[str, Matrices]]:
    """The matrices that serve all relations, and those of the relations they cannot serve."""
    problem = model.problem
    offsets = [term for term in problem.terms.values() if term.offset != 0]
    names = [f"{group}.{column}" for group, width in problem.groups.items() for column in range(width)]
    rows = {m: np.where(model.informed[m][:, None], a, model.mean_rows[m]) for m, a in model.factors.items()}
    shared = Matrices(
        names + [f"offset.{term.name}" for term in offsets],
        {m: np.hstack([a, *(_offset(term, m, len(a)) for term in offsets)]) for m, a in rows.items()},
    )
    own = {}
    for name, term in problem.terms.items():
        if not _serves(shared, term):
            own[name] = Matrices(
                [names[c] for c in term.columns] + ([f"offset.{name}"] if term.offset != 0 else []),
                {
                    m: np.hstack(
                        [
                            term.effective(mode, rows[m]),
                            *[_offset(term, m, len(rows[m]))] * (term.offset != 0),
                        ]
                    )
                    for mode, m in enumerate(term.modalities)
                },
            )
    return shared, own


def _offset(term: Term, modality: str, entities: int) -> np.ndarray:
    """A modality's entries (entities x 1) in the column that adds the offset of a relation."""
    if modality not in term.modalities:
        return np.zeros((entities, 1))
    return np.full((entities, 1), term.offset if modality == term.modalities[0] else 1.0)


def _serves(shared: Matrices, term: Term) -> bool:
    """Whether the shared matrices give a relation's values: exactly its columns, and nothing else."""
    for position, column in enumerate(shared.columns):
        parts = [shared.by_modality[m][:, position] for m in term.modalities]
        if position < len(term.used) and term.used[position]:
            right = all((part == 1).all() for part, own in zip(parts, term.coupled[:, position]) if not own)
        elif column == f"offset.{term.name}":
            right = True
        else:
            right = any((part == 0).all() for part in parts)
        if not right:
            return False
    return True


def _about(model: Model, shared: Matrices, own: dict[str, Matrices]) -> dict[str, Any]:
    """The description that comes with an export."""
    return {
        "format": _FORMAT,
        "version": 1,
        "rule": "value = sum over columns of the product of the rows of a relation's matrices",
        "columns": shared.columns,
        "relations": {
            name: {
                "modalities": list(term.modalities),
                "matrices": [f"{name}/{m}" if name in own else m for m in term.modalities],
                "offset": term.offset,
            }
            for name, term in model.problem.terms.items()
        },
    }


def _write_npz(model: Model, path: Path, about: str, shared: Matrices, own: dict[str, Matrices]) -> None:
    arrays: dict[str, np.ndarray] = {"about": np.array(about), "columns": np.array(shared.columns)}
    for name, modality in model.modalities.items():
        arrays[f"{name}/ids"] = np.array(modality.ids.tolist(), dtype=str)
        if modality.labels is not None:
            arrays[f"{name}/labels"] = np.array(modality.labels.tolist(), dtype=str)
        arrays[f"{name}/informed"] = model.informed[name]
        arrays[f"{name}/matrix"] = shared.by_modality[name]
    for relation, special in own.items():
        arrays[f"{relation}/columns"] = np.array(special.columns)
        for name, matrix in special.by_modality.items():
            arrays[f"{relation}/{name}/matrix"] = matrix
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_tables(
    model: Model, path: Path, about: str, shared: Matrices, own: dict[str, Matrices], format: str
) -> None:
    path.mkdir(exist_ok=True)
    (path / "export.json").write_text(about + "\n", encoding="utf-8")
    for folder, matrices in [(path, shared), *((path / name, special) for name, special in own.items())]:
        folder.mkdir(exist_ok=True)
        for name in matrices.by_modality:
            table = _table(model, name, matrices)
            if format == "parquet":
                import pyarrow.parquet

                pyarrow.parquet.write_table(table, folder / f"{name}.parquet")
            else:
                _write_tsv(table, folder / f"{name}.tsv")


def _table(model: Model, name: str, matrices: Matrices) -> pyarrow.Table:
    import pyarrow

    modality = model.modalities[name]
    columns: dict[str, Any] = {"id": pyarrow.array(modality.ids.tolist(), pyarrow.string())}
    if modality.labels is not None:
        columns["label"] = pyarrow.array(modality.labels.tolist(), pyarrow.string())
    columns["informed"] = pyarrow.array(model.informed[name])
    for column, values in zip(matrices.columns, matrices.by_modality[name].T):
        columns[column] = pyarrow.array(np.ascontiguousarray(values))
    return pyarrow.table(columns)


def _write_tsv(table: pyarrow.Table, path: Path) -> None:
    import pyarrow.compute
    import pyarrow.csv

    texts = [table[name] for name in ("id", "label") if name in table.column_names]
    quotes = any(
        pyarrow.compute.any(pyarrow.compute.match_substring_regex(t, '[\t\r\n"]')).as_py() for t in texts
    )
    options = pyarrow.csv.WriteOptions(
        include_header=False, delimiter="\t", quoting_style="needed" if quotes else "none"
    )
    with path.open("wb") as file:
        file.write(("\t".join(table.column_names) + "\n").encode())
        pyarrow.csv.write_csv(table, file, options)


def _is_export(path: Path) -> bool:
    """Whether something we wrote earlier is there."""
    try:
        if path.is_dir():
            about = json.loads((path / "export.json").read_text(encoding="utf-8"))
        else:
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"]))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return False
    return isinstance(about, dict) and about.get("format") == _FORMAT
