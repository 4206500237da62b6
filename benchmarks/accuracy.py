"""How good the answers are: real data with fixed splits, under baselines and other libraries.

``python -m benchmarks.accuracy NAME --data DIR --json FILE``, where DIR holds the raw files of the data
set NAME. Ours go through the whole library (ingestion, graphs, training, evaluation), once for each
settings file in ``benchmarks/datasets/NAME/``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import numpy as np

from benchmarks.methods import METHODS, Answer, Method
from benchmarks.output import Row, report, row_of_runs
from hyperlearn_dask.config import Dataset, load_dataset
from hyperlearn_dask.hypergraph.graphs import build_graphs
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.ingest import ingest
from hyperlearn_dask.hypergraph.store import open_hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.training.evidence import add_evidence
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.use.evaluate import evaluate, filtered_ranks, ranking_metrics, rating_metrics

SETTINGS = Path(__file__).parent / "datasets"
TASKS = {"ratings": "rating", "tagged": "tag", "depicts": "subject", "made": "artist"}  # by relation
METRICS = {
    "rating": ("rmse", "coverage@90"),
    "tag": ("mrr", "hits@10"),
    "subject": ("mrr", "hits@10"),
    "artist": ("acc@1", "acc@10", "mrr"),
}

Figures = dict[str, float | None]


@click.command()
@click.argument("name", type=click.Choice(list(METHODS)))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder of the raw files.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="Runs per method.")
@click.option("--method", "wanted", multiple=True, help="Only methods whose name contains this.")
def main(name: str, data: Path, output: Path | None, seeds: int, wanted: tuple[str, ...]) -> None:
    """Compare the accuracy of several methods on the data set NAME."""
    report(benchmark(name, data, seeds, wanted), output)


def benchmark(name: str, data: Path, seeds: int, wanted: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a data set: baselines and peers first, then ours."""

    def is_wanted(method: str) -> bool:
        return not wanted or any(part in method for part in wanted)

    files = sorted((SETTINGS / name).glob("*.toml"), key=lambda file: (file.stem != "dataset", file.stem))
    ours = {"hyperlearn" if file.stem == "dataset" else f"hyperlearn {file.stem}": file for file in files}
    others = [method for method in METHODS[name] if is_wanted(method.name)]
    with tempfile.TemporaryDirectory() as folder:
        for method in others:
            _, hypergraph = prepare(SETTINGS / name / f"{method.settings}.toml", data, Path(folder))
            yield from other_rows(name, method, hypergraph, seeds)
        for title, file in ours.items():
            if is_wanted(title):
                dataset, hypergraph = prepare(file, data, Path(folder))
                yield from our_rows(name, title, dataset, hypergraph, seeds)


def prepare(settings: Path, data: Path, folder: Path) -> tuple[Dataset, Hypergraph]:
    """Ingest the raw files as a settings file says and build the graphs, if that is still to do."""
    dataset = load_dataset(settings, folder=data)
    store = folder / f"{settings.stem}.zarr"
    if not store.exists():
        progress = partial(click.echo, err=True)
        ingest(dataset, store, progress=progress)
        build_graphs(dataset, store, progress=progress)
    return dataset, open_hypergraph(store)


def other_rows(name: str, method: Method, hypergraph: Hypergraph, seeds: int) -> Iterator[Row]:
    """The rows of a baseline or peer, or one that says which package is missing."""
    task = TASKS[method.relation]
    row = Row("accuracy", name, task, method.name, METRICS[task][0], None, details=_details(method.details))
    figures, seconds = [], []
    for seed in range(seeds if method.seeded else 1):
        click.echo(f"{method.name}, seed {seed}", err=True)
        begin = time.perf_counter()
        try:
            answer = method.run(hypergraph, seed)
        except ModuleNotFoundError as missing:
            if missing.name != method.package:
                raise
            note = f"skipped: {method.package} is not installed"
            yield replace(row, details={**row.details, "note": note})
            return
        seconds.append(time.perf_counter() - begin)
        figures.append(_figures(hypergraph.relations[method.relation], task, answer))
    yield from _rows(row, figures, seconds)


def our_rows(name: str, title: str, dataset: Dataset, hypergraph: Hypergraph, seeds: int) -> Iterator[Row]:
    """The rows of one of our settings, over every relation that has test tuples."""
    weights = {m: spec.graph.weight for m, spec in dataset.modalities.items() if spec.graph is not None}
    targets = {r: spec.target for r, spec in dataset.relations.items() if spec.target is not None}
    figures: dict[str, list[Figures]] = {}
    seconds, sweeps = [], []
    for seed in range(seeds):
        click.echo(f"{title}, seed {seed}", err=True)
        training = replace(dataset.training, seed=seed)
        begin = time.perf_counter()
        problem = problem_of(hypergraph, dataset.relations, training, weights, dataset.encoders)
        model = fit(hypergraph, problem, training, targets=targets)
        ranked = [name for name, relation in dataset.relations.items() if relation.evidence]
        model = add_evidence(model, hypergraph, ranked, training, dataset.graphs_from)
        seconds.append(time.perf_counter() - begin)
        sweeps.append(len(model.history))
        metrics = evaluate(model, hypergraph)
        for relation in dict.fromkeys(metric.relation for metric in metrics):
            figures.setdefault(relation, []).append(
                {metric.metric: metric.value for metric in metrics if metric.relation == relation}
            )
    details = _details(
        {
            "rank": sum(dataset.training.groups.values()),
            "dtype": dataset.training.dtype,
            "sweeps": max(sweeps),
        }
    )
    for relation, runs in figures.items():
        row = Row("accuracy", name, TASKS[relation], title, "", None, details=details)
        yield from _rows(row, runs, seconds)


def _figures(relation: Relation, task: str, answer: Answer) -> Figures:
    """The figures of a method's answers."""
    if isinstance(answer, np.ndarray):
        assert relation.test is not None
        return rating_metrics(relation.tensor.values, relation.test.values, answer)
    return ranking_metrics(filtered_ranks(relation, task, answer))


def _rows(row: Row, runs: Sequence[Figures], seconds: Sequence[float]) -> Iterator[Row]:
    """One row per metric of the task that the method has, over all runs."""
    for metric in METRICS[row.task]:
        if metric in runs[0]:
            yield row_of_runs(replace(row, metric=metric), [figures[metric] for figures in runs], seconds)


def _details(details: dict[str, str | int | float | None]) -> dict[str, str | int | float | None]:
    return {
        **details,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


if __name__ == "__main__":
    main()
