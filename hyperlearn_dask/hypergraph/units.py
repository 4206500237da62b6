"""Which units of a stored hypergraph follow from which files and settings, and are up to date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hyperlearn_dask.config import Dataset, RelationSpec, TableSpec
from hyperlearn_dask.hypergraph import store
from hyperlearn_dask.storage import hash_file, hash_of

_MADE_BY = 1  # counts up when the same tables would give another store


class Stored:
    """The units that are there already: their attributes by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units: dict[str, dict[str, Any]] = store.unit_attributes(path) if path.exists() else {}
        self.order = store.stored_order(path) if path.exists() else []

    def has(self, unit: str, fingerprint: str) -> bool:
        return unit in self.units and self.units[unit]["fingerprint"] == fingerprint

    def is_all_of(self, dataset: Dataset, wanted: Fingerprints) -> bool:
        """Whether nothing has to be done."""
        digests = {}
        for name in dataset.modalities:
            unit = f"modalities/{name}"
            if not self.has(unit, wanted.modality(name)):
                return False
            digests[name] = self.units[unit]["digest"]
        for spec in dataset.relations.values():
            if not self.has(f"relations/{spec.name}", wanted.relation(spec, digests)):
                return False
            if spec.test is not None and not self.has(f"tests/{spec.name}", wanted.test(spec, digests)):
                return False
        later = {f"graphs/{name}" for name, spec in dataset.modalities.items() if spec.graph is not None}
        later |= {
            f"features/{name}" for name, encoder in dataset.encoders.items() if encoder.on == "features"
        }
        return self.order == wanted.units and set(self.units) <= {*wanted.units, *later}

    def detail(self, unit: str) -> str:
        attributes = self.units[unit]
        count = attributes["count"] if "count" in attributes else attributes["nnz"]
        return count_of(unit, count)


def units_of(dataset: Dataset) -> list[str]:
    """The units that ingest makes of a data set, in order."""
    units = [f"modalities/{name}" for name in dataset.modalities]
    for spec in dataset.relations.values():
        units += [f"relations/{spec.name}"] + [f"tests/{spec.name}"] * (spec.test is not None)
    return units


class Fingerprints:
    """What each unit of a data set follows from, as hashes; files are read once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._hashes: dict[Path, str] = {}
        self.units = units_of(dataset)

    def modality(self, name: str) -> str:
        spec = self._dataset.modalities[name]
        if spec.table is not None:
            return hash_of([_MADE_BY, self._contents(spec.table), spec.id, spec.label])
        mentions: list[Any] = [
            [self._contents(relation.table), asdict(relation.columns[name])]
            for relation in self._dataset.relations.values()
            if name in relation.columns
        ]
        if spec.graph is not None and spec.graph.edges is not None:
            mentions.append([self._contents(spec.graph.edges), [spec.graph.source, spec.graph.target]])
        return hash_of([_MADE_BY, sorted(map(hash_of, mentions))])

    def relation(self, spec: RelationSpec, digests: Mapping[str, str]) -> str:
        return hash_of(["relation", spec.duplicates, *self._tuples(spec, spec.table, digests)])

    def test(self, spec: RelationSpec, digests: Mapping[str, str]) -> str:
        assert spec.test is not None
        return hash_of(["test", spec.unseen, *self._tuples(spec, spec.test, digests)])

    def _tuples(self, spec: RelationSpec, table: TableSpec, digests: Mapping[str, str]) -> list[Any]:
        entities = {modality: digests[modality] for modality in spec.columns}
        return [_MADE_BY, self._contents(table), spec.columns, spec.value, entities]

    def _contents(self, table: TableSpec) -> list[str]:
        if table.path not in self._hashes:
            self._hashes[table.path] = hash_file(table.path)
        return [self._hashes[table.path], table.format]


def count_of(unit: str, count: int) -> str:
    """How many things a unit has, in words."""
    one, many = {
        "modalities": ("entity", "entities"),
        "relations": ("hyperedge", "hyperedges"),
        "tests": ("test tuple", "test tuples"),
    }[unit.split("/")[0]]
    return f"{count:,} {one if count == 1 else many}"
