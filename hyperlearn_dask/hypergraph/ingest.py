"""Raw tables to the stored hypergraph, as a graph of Dask tasks.

1. A unit (modality, relation, test) whose fingerprint is the stored one is kept.
2. ``read``: the parts of a relation's table become hyperedges with ids.
3. ``merge``: the ids of a modality without a table become its entities. Only distinct ids are looked
   at: a part knows its ids by codes into a dictionary of its own.
4. ``look-up``, ``encode``: codes become indices. The client sorts the hyperedges and writes them.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import zarr

from hyperlearn_dask.config import Dataset, ModalitySpec, RelationSpec, TableSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph import store
from hyperlearn_dask.hypergraph.coordinates import Repeat, get_ready, in_order
from hyperlearn_dask.hypergraph.pace import Pace
from hyperlearn_dask.hypergraph.reading.hyperedges import (
    Chunk,
    Coded,
    code,
    dictionaries,
    look_up,
    look_up_test,
    needed_columns,
    read_chunks,
    row_at,
    value_column,
)
from hyperlearn_dask.hypergraph.reading.tables import BLOCK, plan
from hyperlearn_dask.hypergraph.reading.vocabulary import (
    as_modality,
    as_vocabulary,
    merge,
    read_edge_ids,
    read_modality,
)
from hyperlearn_dask.hypergraph.tasks import Handle, Tasks
from hyperlearn_dask.hypergraph.tensor import Modality, SparseTensor
from hyperlearn_dask.hypergraph.units import Fingerprints, Stored, count_of
from hyperlearn_dask.storage import Progress, UnitReport, link_unit, replacing

if TYPE_CHECKING:
    from distributed import Client


def ingest(
    dataset: Dataset,
    path: str | Path,
    *,
    client: Client | None = None,
    progress: Progress | None = None,
    block: int = BLOCK,
) -> list[UnitReport]:
    """Make the units of a stored hypergraph that are not up to date, all of them or none.

    Parameters
    ----------
    dataset
        What the tables mean.
    path
        The store; graphs that are there stay there as long as their modality is the same.
    client
        Whose workers read and encode the tables, from a file system they share with this process;
        None is Dask's threads in this process.
    progress
        Called with a short text as work proceeds.
    block
        Bytes of a text table per task. The result does not depend on it.

    Returns
    -------
    list of UnitReport
        What was made and what was kept, in the order of the settings.

    Raises
    ------
    InputError
        When a table is wrong, with file, row and column; ``path`` is as it was then.
    """
    path = Path(path).absolute()
    stored = Stored(path)
    wanted = Fingerprints(dataset)
    if stored.is_all_of(dataset, wanted):
        return [UnitReport(unit, "kept", stored.detail(unit), 0.0) for unit in wanted.units]
    with replacing(path) as staging:
        root = store.create_hypergraph(staging, wanted.units)
        return _Ingest(dataset, stored, wanted, staging, root, Tasks(client), progress, block).run()


def ingest_up_to_date(dataset: Dataset, path: Path) -> bool:
    """Whether :func:`ingest` has nothing to do."""
    return Stored(path).is_all_of(dataset, Fingerprints(dataset))


class _Ingest:
    """One run: the steps of the module's docstring, into a store that is being made."""

    def __init__(
        self,
        dataset: Dataset,
        stored: Stored,
        wanted: Fingerprints,
        staging: Path,
        root: zarr.Group,
        tasks: Tasks,
        progress: Progress | None,
        block: int,
    ) -> None:
        self.dataset = dataset
        self.stored = stored
        self.wanted = wanted
        self.staging = staging
        self.root = root
        self.tasks = tasks
        self.progress = progress
        self.block = block
        self.reports: list[UnitReport] = []
        self.digests: dict[str, str] = {}  # of modalities
        self.sizes: dict[str, int] = {}
        self.vocabularies: dict[str, Handle] = {}
        # For modality and relation, what the codes of each part's chunks mean, where merging told.
        self.translations: dict[tuple[str, str], list[Handle]] = {}
        self.training: dict[str, list[Handle]] = {}  # the chunks of relations that were read

    def run(self) -> list[UnitReport]:
        for spec in self.dataset.modalities.values():
            self._modality(spec)
        for relation in self.dataset.relations.values():
            self._relation(relation)
            if relation.test is not None:
                self._test(relation)
            self.training.pop(relation.name, None)
        self._graphs()
        return self.reports

    def _modality(self, spec: ModalitySpec) -> None:
        began, unit, fingerprint = (
            time.perf_counter(),
            f"modalities/{spec.name}",
            self.wanted.modality(spec.name),
        )
        if self.stored.has(unit, fingerprint):
            attributes = self.stored.units[unit]
            self._keep(unit)
            self.vocabularies[spec.name] = self._task(
                f"vocabulary-{spec.name}", _stored_vocabulary, self.stored.path, spec.name
            )
        else:
            self._say(f"{unit}: reading")
            modality = self._read_modality(spec)
            store.write_modality(self.root, modality, fingerprint)
            attributes = dict(self.root[unit].attrs)
            self._made(unit, count_of(unit, len(modality)), began)
        self.digests[spec.name], self.sizes[spec.name] = attributes["digest"], attributes["count"]

    def _read_modality(self, spec: ModalitySpec) -> Modality:
        name = spec.name
        if spec.table is not None:
            entities = self._task(f"read-{name}", read_modality, spec, self.block)
            self.vocabularies[name] = self._task(f"vocabulary-{name}", as_vocabulary, entities)
            return self.tasks.gather([entities])[0]
        sources = [
            (relation, number, chunks)
            for relation in self.dataset.relations
            if name in self.dataset.relations[relation].columns
            for number, chunks in enumerate(self._training_chunks(relation))
        ]
        # By the time the ids are merged, which one thread does; what goes wrong will do so again.
        threading.Thread(target=get_ready, daemon=True).start()
        parts = [
            self.tasks.submit(f"distinct-{name}-{relation}-{number}", dictionaries, chunks, name)
            for relation, number, chunks in sources
        ]
        if spec.graph is not None and spec.graph.edges is not None:
            parts.append(self.tasks.submit(f"distinct-{name}-edges", read_edge_ids, spec.graph, self.block))
        merged = self._task(f"merge-{name}", merge, parts)
        for place, (relation, number, _) in enumerate(sources):
            self.translations.setdefault((name, relation), []).append(
                self.tasks.submit(f"translation-{name}-{relation}-{number}", _translation, merged, place)
            )
        self.vocabularies[name] = self._task(f"vocabulary-{name}", _merged_ids, merged)
        (ids,) = self.tasks.gather([self.vocabularies[name]])
        if not len(ids):
            raise InputError(
                "has no entities: no cell of its columns has an id",
                file=self.dataset.path,
                key=f"modalities.{name}",
            )
        return as_modality(name, ids)

    def _relation(self, spec: RelationSpec) -> None:
        began, unit = time.perf_counter(), f"relations/{spec.name}"
        fingerprint = self.wanted.relation(spec, self.digests)
        if self.stored.has(unit, fingerprint):
            self._keep(unit)
            return
        chunks = self._training_chunks(spec.name)
        translations = {
            modality: self.translations.pop((modality, spec.name), [])
            or self._look_up(chunks, modality, spec.name, look_up)
            for modality in spec.columns
        }
        coded = self._encode(chunks, translations, spec.name)
        self._say(f"{unit}: sorting and writing {sum(len(part.values) for part in coded):,} hyperedges")
        coords, values = _joined(coded)
        if not len(values):
            raise InputError(
                "has no hyperedges: cells that may hold several ids hold none", file=spec.table.path
            )
        ordered = in_order(coords, values, self._shape(spec), spec.duplicates)
        if isinstance(ordered, Repeat):
            raise self._repeated(spec, ordered, coded, chunks)
        tensor, merged = ordered
        store.write_relation(self.root, spec.name, tuple(spec.columns), tensor, fingerprint)
        detail = count_of(unit, tensor.nnz)
        if merged:
            rule = "summed" if spec.duplicates == "sum" else "replaced by later ones"
            detail += f", {merged:,} duplicate{'s' * (merged > 1)} {rule}"
        self._made(unit, detail, began)

    def _test(self, spec: RelationSpec) -> None:
        assert spec.test is not None
        began, unit = time.perf_counter(), f"tests/{spec.name}"
        fingerprint = self.wanted.test(spec, self.digests)
        if self.stored.has(unit, fingerprint):
            self._keep(unit)
            return
        chunks = self._chunks(spec, spec.test, f"read-{spec.name}-test")
        translations = {
            modality: self._look_up(chunks, modality, f"{spec.name}-test", look_up_test, spec.unseen)
            for modality in spec.columns
        }
        coords, values = _joined(self._encode(chunks, translations, f"{spec.name}-test"))
        tensor = SparseTensor(tuple(c.astype(np.int64) for c in coords), values, self._shape(spec))
        store.write_test(self.root, spec.name, tuple(spec.columns), tensor, fingerprint)
        never = int(np.any([coord < 0 for coord in coords], axis=0).sum())
        self._made(
            unit, count_of(unit, tensor.nnz) + (f", {never:,} with an id never seen" if never else ""), began
        )

    def _graphs(self) -> None:
        """Take over graphs and features whose rows still mean the same; their own stage sees to the rest."""
        for name, spec in self.dataset.modalities.items():
            before = self.stored.units.get(f"modalities/{name}", {})
            for kind, wanted in (("graphs", spec.graph), ("features", spec.encoder)):
                unit = f"{kind}/{name}"
                if wanted and unit in self.stored.units and before["digest"] == self.digests[name]:
                    link_unit(self.stored.path, self.staging, unit)

    def _training_chunks(self, relation: str) -> list[Handle]:
        if relation not in self.training:
            spec = self.dataset.relations[relation]
            self.training[relation] = self._chunks(spec, spec.table, f"read-{relation}")
        return self.training[relation]

    def _chunks(self, spec: RelationSpec, table: TableSpec, name: str) -> list[Handle]:
        parts = plan(table, needed_columns(spec), block=self.block)
        self._say(
            f"relations/{spec.name}: reading {table.path.name} in {len(parts)} part{'s' * (len(parts) > 1)}"
        )
        pace = Pace(f"reading {table.path.name}", sum(part.records for part in parts), "rows", self._say)
        handles = [
            self.tasks.submit(f"{name}-{number}", read_chunks, part, dict(spec.columns), value_column(spec))
            for number, part in enumerate(parts)
        ]
        return self.tasks.keep(handles, lambda number: pace.add(parts[number].records))

    def _look_up(
        self, chunks: list[Handle], modality: str, name: str, function: Any, *more: Any
    ) -> list[Handle]:
        """What the codes of each part's chunks mean, for a modality whose ids are known."""
        return [
            self.tasks.submit(
                f"look-up-{modality}-{name}-{number}",
                function,
                part,
                modality,
                self.vocabularies[modality],
                *more,
            )
            for number, part in enumerate(chunks)
        ]

    def _encode(self, chunks: list[Handle], translations: dict[str, list[Handle]], name: str) -> list[Coded]:
        modalities = list(translations)
        return self.tasks.gather(
            [
                self.tasks.submit(f"encode-{name}-{number}", _code, part, modalities, list(known))
                for number, (part, *known) in enumerate(zip(chunks, *translations.values()))
            ]
        )

    def _repeated(
        self, spec: RelationSpec, repeat: Repeat, coded: list[Coded], chunks: list[Handle]
    ) -> InputError:
        ends = np.cumsum([len(part.values) for part in coded])
        rows = []
        for number, hyperedge in enumerate((repeat.first, repeat.second)):
            part = int(np.searchsorted(ends, hyperedge, side="right"))
            within = hyperedge - (int(ends[part - 1]) if part else 0)
            rows += self.tasks.gather(
                [self.tasks.submit(f"row-{spec.name}-{number}", row_at, chunks[part], within)]
            )
        problem = f'repeats row {rows[0]}, which duplicates = "sum" or "last" would allow'
        return InputError(problem, file=spec.table.path, row=rows[1])

    def _shape(self, spec: RelationSpec) -> tuple[int, ...]:
        return tuple(self.sizes[modality] for modality in spec.columns)

    def _task(self, name: str, function: Any, *arguments: Any) -> Handle:
        """A task whose result is used more than once."""
        return self.tasks.keep([self.tasks.submit(name, function, *arguments)])[0]

    def _keep(self, unit: str) -> None:
        link_unit(self.stored.path, self.staging, unit)
        self.reports.append(UnitReport(unit, "kept", self.stored.detail(unit), 0.0))

    def _made(self, unit: str, detail: str, began: float) -> None:
        self.reports.append(UnitReport(unit, "made", detail, time.perf_counter() - began))
        self._say(f"{unit}: {detail}")

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)


def _merged_ids(merged: tuple[pa.Array, list[list[pa.Array]]]) -> pa.Array:
    return merged[0]


def _translation(merged: tuple[pa.Array, list[list[pa.Array]]], place: int) -> list[pa.Array]:
    return merged[1][place]


def _code(chunks: list[Chunk], modalities: list[str], translations: list[list[pa.Array]]) -> Coded:
    return code(chunks, dict(zip(modalities, translations)))


def _joined(coded: list[Coded]) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    coords = tuple(np.concatenate(columns) for columns in zip(*(part.coords for part in coded)))
    return coords, np.concatenate([part.values for part in coded])


def _stored_vocabulary(path: Path, modality: str) -> pa.Array:
    return as_vocabulary(store.read_modality(path, modality))
