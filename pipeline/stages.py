"""The stages from raw tables to judged model: paths in, artefacts out, nothing done twice.

Every artefact says what it was made from, as digests of its inputs and the settings that matter. A
stage compares that with what it would use now: it does nothing if they agree, and says why if not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlearn_dask.backend import Device
from hyperlearn_dask.config import Dataset, GraphSpec, TableSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.metrics import trained_on
from hyperlearn_dask.factorization.model import kept_row
from hyperlearn_dask.factorization.model_store import model_attrs, open_model, save_model
from hyperlearn_dask.hypergraph.graphs import build_graphs, graphs_up_to_date
from hyperlearn_dask.hypergraph.ingest import ingest, ingest_up_to_date
from hyperlearn_dask.hypergraph.store import open_hypergraph, stored_order, unit_digests
from hyperlearn_dask.hypergraph.units import units_of
from hyperlearn_dask.storage import UnitReport, hash_arrays, hash_of, recover, replacing
from hyperlearn_dask.training.checkpoint import EVERY_SECONDS, Checkpoints
from hyperlearn_dask.training.events import OnEvent
from hyperlearn_dask.training.evidence import add_evidence
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.placing.placement import Placement, WorkerShare
from hyperlearn_dask.training.report import OnSweep, SweepReport
from hyperlearn_dask.use.evaluate import evaluate

if TYPE_CHECKING:
    from distributed import Client

HYPERGRAPH = "hypergraph.zarr"
MODEL = "model.zarr"
METRICS = "metrics.json"
CHECKPOINTS = "checkpoints"  # of an unfinished training
# Settings that say where training ends, which makes no difference to how it gets there.
ENDS = {"training.sweeps", "training.tolerance", "training.patience"}

# Settings of a relation that are in the digest of its unit, or that only evaluation and queries use.
_NOT_TRAINED_ON = {"name", "table", "columns", "value", "duplicates", "test", "unseen", "target", "evidence"}

_REASONS_SHOWN = 3


@dataclass(frozen=True)
class Job:
    """What stages work on and with.

    ``client`` opens the scheduler when it is first called, None is this process; ``watch``, given the
    number of sweeps, is a context that is told about each; ``tell`` hears how the work proceeds, and
    ``note`` what is worth a line that stays. ``restart``: an interrupted training is not gone on with;
    ``checkpoint_every``: seconds between the writing of its states. ``device``: what computes, in this
    process or on each worker. ``on_event`` is told of all that happens in training.
    ``memory_limit``: bytes for training in this process.
    """

    dataset: Dataset
    out: Path
    client: Callable[[], Client | None] | None
    watch: Callable[[int], contextlib.AbstractContextManager[OnSweep]]
    tell: Callable[[str], None]
    note: Callable[[str], None]
    restart: bool = False
    device: Device = "cpu"
    on_event: OnEvent | None = None
    checkpoint_every: float = EVERY_SECONDS
    memory_limit: int | None = None

    @property
    def store(self) -> Path:
        return self.out / HYPERGRAPH


@dataclass(frozen=True)
class StageReport:
    """What a stage did.

    ``why``: the reason it did something, or that it is up to date; ``units``: the parts of the
    hypergraph it made or kept; ``parts``: seconds by step of training; ``placement``: what each worker
    had, by its name, at the end of training.
    """

    stage: str
    done: bool
    why: str
    seconds: float = 0.0
    units: tuple[UnitReport, ...] = ()
    parts: Mapping[str, float] = field(default_factory=dict)
    placement: Mapping[str, WorkerShare] = field(default_factory=dict)


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder of the results and keep it to ourselves; it goes again if nothing was put there."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    for store in (out.resolve(), *out.resolve().parents):
        if (store / "zarr.json").is_file():
            raise InputError("is a Zarr store; results go to a folder outside of it", file=store)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError("is in the way: a file, where a folder is needed", file=out) from None
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(
            "another hyperlearn command is working in this folder; wait for it", file=out
        ) from None
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # not empty: something was made
            for folder in made:
                folder.rmdir()


def ingest_stage(job: Job) -> StageReport:
    """Raw tables to modalities, relations and test tuples."""
    return _units("ingest", ingest, ingest_up_to_date, job)


def graph_stage(job: Job) -> StageReport:
    """Features or edge tables to graphs."""
    _require_hypergraph(job)
    return _units("graph", partial(build_graphs, device=job.device), graphs_up_to_date, job)


def train_stage(job: Job) -> StageReport:
    """The hypergraph to a model; only labels or targets that changed are put right without training."""
    _require_hypergraph(job)
    began = time.perf_counter()
    dataset, path = job.dataset, job.out / MODEL
    asked = _training_inputs(dataset, unit_digests(job.store))
    targets = {name: spec.target for name, spec in dataset.relations.items() if spec.target is not None}
    hypergraph = open_hypergraph(job.store)
    shown = {
        "labels": {
            n: m.labels is not None and hash_arrays(m.labels) for n, m in hypergraph.modalities.items()
        },
        "targets": targets,
    }
    settings, fingerprint = {"asked": asked, "shown": shown}, hash_of(asked)

    recover(path)
    before = _settings_of(path) if path.exists() else None
    if before is not None and before["asked"] == asked:
        if before["shown"] == shown:
            return StageReport("train", False, "up to date")
        model = dataclasses.replace(open_model(path), modalities=hypergraph.modalities, targets=targets)
        save_model(model, path, fingerprint=fingerprint, settings=settings)
        why = "only labels or targets have changed; they were put right without training"
        return StageReport("train", True, why, time.perf_counter() - began)

    weights = {m: s.graph.weight for m, s in dataset.modalities.items() if s.graph is not None}
    problem = problem_of(hypergraph, dataset.relations, dataset.training, weights, dataset.encoders)
    ways = hash_of({name: value for name, value in asked.items() if name not in ENDS})
    checkpoints = Checkpoints(job.out / CHECKPOINTS, ways, tell=job.note, every=job.checkpoint_every)
    if job.restart:
        checkpoints.clear()
    seconds: dict[str, float] = defaultdict(float)
    placements: list[Placement] = []

    def on_placement(placement: Placement) -> None:
        placements.append(placement)
        for line in placement.lines():
            job.note(f"{'':<10}{line}")

    client = job.client() if job.client else None
    with job.watch(dataset.training.sweeps) as show:
        fit_began = time.perf_counter()

        def on_sweep(report: SweepReport) -> None:
            seconds.setdefault("before the first sweep", time.perf_counter() - fit_began - report.seconds)
            for name, value in report.seconds_by.items():
                seconds[name] += value
            show(report)

        model = fit(
            hypergraph,
            problem,
            dataset.training,
            targets=targets,
            client=client,
            on_sweep=on_sweep,
            checkpoints=checkpoints,
            tell=job.note,
            device=job.device,
            on_event=job.on_event,
            placement=dataset.placement,
            on_placement=on_placement,
            memory_limit=job.memory_limit,
        )
    ranked = [name for name, relation in dataset.relations.items() if relation.evidence]
    if ranked:
        job.tell(f"weighing local evidence for {', '.join(ranked)}")
        evidence_began = time.perf_counter()
        model = add_evidence(model, hypergraph, ranked, dataset.training, dataset.graphs_from)
        seconds["local evidence"] = time.perf_counter() - evidence_began
    save_model(model, path, fingerprint=fingerprint, settings=settings)
    checkpoints.clear()
    why = "there was no model" if before is None else _changes(before["asked"], asked)
    shares = placements[-1].by_worker() if placements else {}
    return StageReport("train", True, why, time.perf_counter() - began, parts=dict(seconds), placement=shares)


def evaluate_stage(job: Job) -> StageReport:
    """Model and test tuples to ``metrics.json``."""
    _require_hypergraph(job)
    began = time.perf_counter()
    path, digests = job.out / METRICS, unit_digests(job.store)
    attributes = model_attrs(job.out / MODEL)
    _require_same_data(job, attributes["settings"]["asked"], digests)
    asked = {
        "the model": _identity(attributes),
        "the targets": attributes["targets"],
        **{unit: digest for unit, digest in digests.items() if unit.startswith("tests/")},
    }
    recover(path)
    before = read_metrics(path) if path.exists() else None
    if before is not None and before["asked"] == asked:
        return StageReport("evaluate", False, "up to date")
    hypergraph = open_hypergraph(job.store)
    metrics = evaluate(open_model(job.out / MODEL), hypergraph)
    content = {
        "format": "hyperlearn-metrics",
        "version": 1,
        "metrics": [dataclasses.asdict(metric) for metric in metrics],
        "training": training_summary(attributes),
        "asked": asked,
    }
    with replacing(path) as staging:
        staging.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, relation in hypergraph.relations.items():
        if relation.test is not None and (known := trained_on(relation.test, relation.tensor)):
            tuples = f"{known:,} of {relation.test.nnz:,} test tuples of '{name}'"
            job.note(f"{'':<10}{tuples} are training hyperedges as well: figures flatter the model")
    why = "there were no metrics" if before is None else _changes(before["asked"], asked)
    return StageReport("evaluate", True, why, time.perf_counter() - began)


STAGES: Mapping[str, Callable[[Job], StageReport]] = {
    "ingest": ingest_stage,
    "graph": graph_stage,
    "train": train_stage,
    "evaluate": evaluate_stage,
}


def training_summary(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a stored model tells about its training: columns, sweeps, F and seconds."""
    history = attributes["history"]
    kept = kept_row(history) if history else {}
    judged = {"best_sweep": kept["sweep"], "validation": kept["validation"]} if "validation" in kept else {}
    return {
        "rank": sum(width for _, width in attributes["problem"]["groups"]),
        "sweeps": len(history),
        **judged,
        "objective": kept.get("objective"),
        "seconds": sum(row["seconds"] for row in history),
    }


def _identity(attributes: Mapping[str, Any]) -> str:
    """Of a stored model: seconds are in the history, so no two trainings are the same."""
    return hash_of([attributes["fingerprint"], attributes["history"]])


def are_of(metrics: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Whether metrics are those of the model that has these attributes."""
    return bool(metrics["asked"].get("the model") == _identity(attributes))


def read_metrics(path: Path) -> dict[str, Any]:
    """The content of a ``metrics.json``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != "hyperlearn-metrics":
        raise InputError("is not what hyperlearn writes there; move it out of the way", file=path)
    return content


def _units(
    stage: str,
    make: Callable[..., list[UnitReport]],
    up_to_date: Callable[[Dataset, Path], bool],
    job: Job,
) -> StageReport:
    began = time.perf_counter()
    recover(job.store)
    before = unit_digests(job.store) if job.store.exists() else {}
    # A cluster takes seconds to start: not for nothing.
    client = job.client() if job.client and not up_to_date(job.dataset, job.store) else None
    units = tuple(make(job.dataset, job.store, client=client, progress=job.tell))
    made = [unit.unit for unit in units if unit.action == "made"]
    changed = [f"{unit} (from {_sources(job.dataset, unit)})" for unit in made if unit in before]
    if changed:
        why = f"out of date: {'; '.join(changed)}"
    else:
        why = f"made {len(made)} units that were not there" if made else "up to date"
    return StageReport(stage, bool(made), why, time.perf_counter() - began, units)


def _sources(dataset: Dataset, unit: str) -> str:
    """The files that a unit is made from, besides its settings and other units."""
    kind, _, name = unit.partition("/")
    tables: list[TableSpec | None] = []
    if kind in ("relations", "tests"):
        relation = dataset.relations[name]
        tables = [relation.table if kind == "relations" else relation.test]
    elif kind == "modalities":
        tables = [dataset.modalities[name].table]
        if tables == [None]:
            tables = [relation.table for relation in dataset.relations.values() if name in relation.columns]
    else:
        modality = dataset.modalities[name]
        spec = modality.graph if kind == "graphs" else modality.encoder
        if spec is not None:
            tables = [spec.edges] if isinstance(spec, GraphSpec) else []
            tables += [table for feature in spec.features for table in feature.tables]
            tables += [dataset.relations[f.relation].table for f in spec.features if f.relation is not None]
    return ", ".join(dict.fromkeys(table.path.name for table in tables if table is not None))


def _training_inputs(dataset: Dataset, digests: Mapping[str, str]) -> dict[str, Any]:
    """All that the factors follow from, by name: digests of data, and settings."""
    asked: dict[str, Any] = {}
    voting = {m for relation in dataset.relations.values() if relation.evidence for m in relation.columns}
    weighted = {m: s.graph.weight for m, s in dataset.modalities.items() if s.graph and s.graph.weight > 0}
    needed = [f"modalities/{m}" for m in dataset.modalities]
    needed += [f"relations/{p}" for p in dataset.relations]
    convolved = {m for m, encoder in dataset.encoders.items() if encoder.degree > 0}
    needed += [
        f"graphs/{m}"
        for m, s in dataset.modalities.items()
        if m in weighted or m in convolved or (s.graph and m in voting)
    ]
    needed += [f"features/{m}" for m, encoder in dataset.encoders.items() if encoder.on == "features"]
    for unit in needed:
        if unit not in digests:
            raise _missing(unit, "graph")  # the others are there, or the hypergraph was refused
        asked[unit] = digests[unit]
    for modality, weight in weighted.items():
        asked[f"modalities.{modality}.graph.weight"] = weight
    for modality, encoder in dataset.encoders.items():
        asked[f"modalities.{modality}.encoder"] = {
            name: value for name, value in dataclasses.asdict(encoder).items() if name != "features"
        }
    for name, relation in dataset.relations.items():
        for field_ in dataclasses.fields(relation):
            if field_.name not in _NOT_TRAINED_ON:
                asked[f"relations.{name}.{field_.name}"] = getattr(relation, field_.name)
        if relation.absent == "context" or relation.evidence or name == dataset.training.validation:
            asked[f"relations.{name}.target"] = relation.target
        if relation.evidence:
            asked[f"relations.{name}.evidence"] = True
    for setting, value in dataclasses.asdict(dataset.training).items():
        asked[f"training.{setting}"] = value
    # As it comes back from a store: tuples are lists there.
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _settings_of(path: Path) -> dict[str, Any]:
    """What the model that lies among the results was made from."""
    try:
        settings: dict[str, Any] = model_attrs(path)["settings"]
    except InputError as error:
        raise InputError(f"{error.problem}; delete it to have it made again", file=error.file) from error
    return settings


def _require_hypergraph(job: Job) -> None:
    """Refuse a hypergraph that is not there, or has other relations and modalities than the data set."""
    recover(job.store)
    if not job.store.exists():
        raise InputError("does not exist; make it first: hyperlearn ingest DATASET --out DIR", file=job.store)
    wanted, there = units_of(job.dataset), stored_order(job.store)
    for unit in wanted:
        if unit not in there:
            raise _missing(unit, "ingest")
    for unit in there:
        if unit not in wanted:
            raise InputError(
                f"'{unit}' is no longer in the data set; have it taken out first: hyperlearn ingest",
                file=job.store,
            )


def _missing(unit: str, stage: str) -> InputError:
    return InputError(f"'{unit}' is not in {HYPERGRAPH} yet; make it first: hyperlearn {stage}")


def _require_same_data(job: Job, asked: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    for unit, digest in asked.items():
        if "/" in unit and digests.get(unit) != digest:
            raise InputError(
                f"was trained before '{unit}' changed; train again: hyperlearn train", file=job.out / MODEL
            )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is different, in words: settings with both values, data by name."""
    reasons = []
    for name in [*now, *(name for name in before if name not in now)]:
        if name not in before:
            reasons.append(f"{name} is new")
        elif name not in now:
            reasons.append(f"{name} is gone")
        elif before[name] != now[name]:
            is_setting = "." in name and "/" not in name
            values = f" from {json.dumps(before[name])} to {json.dumps(now[name])}" if is_setting else ""
            reasons.append(f"{name} changed{values}")
    more = f" and {len(reasons) - _REASONS_SHOWN} more" if len(reasons) > _REASONS_SHOWN else ""
    return "; ".join(reasons[:_REASONS_SHOWN]) + more
