"""Tables and progress for a person: results on stdout, everything else on stderr."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from hyperlearn_dask.training.placing.plan import Plan
from hyperlearn_dask.training.progress import TrainingProgress, by_step, duration
from hyperlearn_dask.tuning.ledger import Trial
from hyperlearn_dask.tuning.search import Search
from hyperlearn_dask.use.rank import Ranking
from pipeline.stages import HYPERGRAPH, METRICS, STAGES, Job, StageReport, read_metrics
from pipeline.summary import hypergraph_summary

_PLAIN_WIDTH = 110  # where there is no terminal to ask
_STEPS_SHOWN = 10
_TRIALS_SHOWN = 10
_WORKERS_SHOWN = 16


class _Results(Console):
    def on_broken_pipe(self) -> None:
        """Whoever reads our results has enough: that is for the command line to know, and no failure."""
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console that does not cut tables to 80 columns only because it is no terminal."""
    # Without emoji: what an id holds between colons stays as it is.
    kind = Console if stderr else _Results
    made = kind(stderr=stderr, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _PLAIN_WIDTH
    return made


class Notes:
    """Progress on stderr: a spinner while a stage works, then a line on what it did."""

    def __init__(self) -> None:
        self._console = console(stderr=True)
        self._status: Status | None = None

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def passing(self, text: str) -> None:
        """What is being done at the moment; shown on terminals only."""
        if self._status is not None:
            self._status.update(Text(text))

    def training(self, sweeps: int) -> TrainingProgress:
        """The display of a training, which takes the place of the spinner."""
        if self._status is not None:
            self._status.stop()
        return TrainingProgress(self._console, sweeps)

    def stage(self, name: str, job: Job) -> StageReport:
        """Run a stage and tell about it."""
        if self._console.is_terminal:
            self._status = self._console.status(Text(name))
            self._status.start()
        try:
            report = STAGES[name](job)
        finally:
            if self._status is not None:
                self._status.stop()
                self._status = None
        self.line(f"{name:<10}{report.why}" + (f" ({duration(report.seconds)})" if report.done else ""))
        for unit in report.units:
            if unit.action == "made":
                self.line(f"{'':<10}{unit.unit}: {unit.detail} ({duration(unit.seconds)})")
        return report


def results(out: Path, reports: Sequence[StageReport], *, as_json: bool) -> None:
    """What a row of stages ended with."""
    hypergraph = hypergraph_summary(out / HYPERGRAPH)
    metrics = read_metrics(out / METRICS) if reports[-1].stage == "evaluate" else None
    if as_json:
        document: dict[str, Any] = {
            "out": str(out),
            "stages": [dataclasses.asdict(report) for report in reports],
            "hypergraph": hypergraph,
        }
        if metrics is not None:
            document |= {"metrics": metrics["metrics"], "training": metrics["training"]}
        print_json(document)
        return
    page = console()
    show_hypergraph(page, hypergraph)
    if metrics is not None:
        show_metrics(page, metrics["metrics"])
    if any(report.done for report in reports):
        show_seconds(page, reports)


def trial_line(trial: Trial) -> str:
    """What has become of a trial."""
    outcome = trial.outcome
    settings = ", ".join(f"{_short(name)} {value:g}" for name, value in trial.settings.items())
    came = outcome.problem if outcome.figure is None else f"{outcome.figure:.4f} at sweep {outcome.sweep}"
    return f"trial {trial.number:<4}{came} ({duration(outcome.seconds)}): {settings}"


def search_results(found: Search, written: Mapping[str, Path], *, as_json: bool) -> None:
    """What a search has found: its best trials, and the files that were written."""
    if as_json:
        ranked = [dataclasses.asdict(trial) for trial in found.ranked]
        files = {name: str(path) for name, path in written.items()}
        about = {"relation": found.relation, "metric": found.metric, "written": files}
        print_json({**about, "tried": len(found.trials), "trials": ranked})
        return
    page = console()
    header = ["trial", found.metric, "sweep", "seconds", *map(_short, found.space)]
    rows = [
        [
            str(trial.number),
            f"{trial.outcome.figure:.4f}",
            str(trial.outcome.sweep),
            f"{trial.outcome.seconds:.1f}",
            *(f"{trial.settings[name]:g}" for name in found.space),
        ]
        for trial in found.ranked[:_TRIALS_SHOWN]
    ]
    _table(page, header, rows)
    for path in written.values():
        page.print(Text(f"wrote {path}"), soft_wrap=True)


def _short(name: str) -> str:
    """A setting as a column is headed: ``training.ridge`` is ``ridge``."""
    return name.partition(".")[2]


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    console().print(text, soft_wrap=True, markup=False, highlight=False)


def show_hypergraph(page: Console, summary: dict[str, Any]) -> None:
    """Two tables: modalities and relations."""
    rows = [
        [row["name"], row["entities"], row["edges"], row["components"], row["isolated"]]
        for row in summary["modalities"]
    ]
    _table(page, ["modality", "entities", "graph edges", "components", "isolated"], rows)
    rows = [
        [
            row["name"],
            " × ".join(row["modalities"]),
            " × ".join(f"{size:,}" for size in row["shape"]),
            row["hyperedges"],
            f"{row['density']:.2g}",
            row["test"],
        ]
        for row in summary["relations"]
    ]
    _table(page, ["relation", "modalities", "shape", "hyperedges", "density", "test tuples"], rows)


def show_metrics(page: Console, metrics: Sequence[dict[str, Any]]) -> None:
    """One row per relation and task."""
    if not metrics:
        page.print("No relation has a test table, so there are no metrics.")
        return
    rows: dict[tuple[str, str], list[Any]] = {}
    for metric in metrics:
        task = f"{metric['task']} of {metric['target']}" if metric["target"] else metric["task"]
        row = rows.setdefault((metric["relation"], task), [metric["relation"], task, metric["n"], ""])
        value = "-" if metric["value"] is None else f"{metric['value']:.4f}"
        row[3] += f"{'  ' if row[3] else ''}{metric['metric']} {value}"
    _table(page, ["relation", "task", "test tuples", "metrics"], list(rows.values()))


def show_seconds(page: Console, reports: Sequence[StageReport]) -> None:
    """Where the time went: stages, and below training its longest steps."""
    rows: list[list[Any]] = []
    for report in reports:
        rows.append([report.stage, f"{report.seconds:.2f}" if report.done else "up to date"])
        longest = sorted(by_step(report.parts).items(), key=lambda item: -item[1])
        rows += [[f"  {name}", f"{seconds:.2f}"] for name, seconds in longest[:_STEPS_SHOWN]]
        if rest := sum(seconds for _, seconds in longest[_STEPS_SHOWN:]):
            rows.append([f"  {len(longest) - _STEPS_SHOWN} more", f"{rest:.2f}"])
    _table(page, ["where the time went", "seconds"], rows)


def ranking_json(ranking: Ranking, *, explain: bool = False) -> dict[str, Any]:
    """Answers as plain values; what makes up their scores only if that is to be explained."""
    document = dataclasses.asdict(ranking)
    for row in document["rows"]:
        if not explain:
            del row["why"]
        if row["deviation"] is None:
            del row["deviation"]
    return document


def show_ranking(page: Console, ranking: Ranking, *, explain: bool = False) -> None:
    """Answers, best first, with their deviations if they have any; explained, with a column per part."""
    given = ", ".join(f"{modality} {label}" for modality, label in ranking.given.items())
    by = f" (by {', '.join(ranking.relations)})" if ranking.relations else ""
    parts = list(ranking.rows[0].why) if explain and ranking.rows else []
    uncertain = any(row.deviation is not None for row in ranking.rows)
    rows = [
        [
            number,
            row.label,
            f"{row.score:.4f}",
            *([f"{row.deviation:.4f}"] if uncertain else []),
            *(f"{row.why[part]:.4f}" for part in parts),
        ]
        for number, row in enumerate(ranking.rows, 1)
    ]
    headings = ["score", *(["deviation"] if uncertain else []), *parts]
    asked = f"{ranking.modality} for {given}" if given else f"{ranking.modality}, nothing given"
    _table(page, ["", f"{asked}{by}", *headings], rows)


def show_summary(page: Console, found: dict[str, Any]) -> None:
    """All that ``hyperlearn info`` has found."""
    if dataset := found.get("dataset"):
        page.print(Text(dataset["title"], style="bold"))
        _table(page, ["modality", "table", "graph"], [list(row.values()) for row in dataset["modalities"]])
        rows = [[r["name"], " × ".join(r["modalities"]), *list(r.values())[2:]] for r in dataset["relations"]]
        _table(page, ["relation", "modalities", "table", "test", "absent", "target"], rows)
    if "hypergraph" in found:
        show_hypergraph(page, found["hypergraph"])
    if model := found.get("model"):
        training = model["training"]
        groups = ", ".join(f"{name} {width}" for name, width in model["groups"].items())
        rows = [
            ["columns", groups],
            ["relations", ", ".join(f"{p} (absent = {t['absent']})" for p, t in model["relations"].items())],
            ["graph weights", ", ".join(f"{m} {w:g}" for m, w in model["graph_weights"].items()) or "-"],
            ["training", trained(training)],
            ["objective", "-" if training["objective"] is None else f"{training['objective']:,.6g}"],
        ]
        _table(page, ["model", ""], rows)
    if "metrics" in found:
        show_metrics(page, found["metrics"])


def trained(training: Mapping[str, Any]) -> str:
    """How long a training took and, where it was judged, which sweep was best."""
    text = f"{training['sweeps']} sweeps in {duration(training['seconds'])}"
    if "best_sweep" in training:
        text += f", best by validation ({training['validation']:.4f}): sweep {training['best_sweep']}"
    return text


def show_cluster(page: Console, found: dict[str, Any]) -> None:
    """Where a cluster is, who is in it, and how to use it."""
    rows = [[name, found[name]] for name in ("scheduler", "dashboard", "training")]
    rows += [["worker", f"{address}  {', '.join(names)}"] for address, names in found["workers"].items()]
    rows.append(["attach with", f"--scheduler {found['scheduler_file'] or found['scheduler']}"])
    rows.append(["end with", "Ctrl-C"])
    _table(page, ["", "cluster"], rows)


def show_plan(page: Console, found: Plan, assumptions: Sequence[str]) -> None:
    """Who would do what, what a sweep takes, and on what grounds."""
    shown = found.workers[:_WORKERS_SHOWN]
    rows: list[list[Any]] = [
        [
            worker.name,
            ", ".join(worker.modalities) or None,
            worker.shards,
            worker.entries,
            f"{worker.memory / 1e9:,.2f}",
            f"{worker.seconds:.3g}",
            f"{worker.received / 1e6:,.1f}",
        ]
        for worker in shown
    ]
    if len(found.workers) > len(shown):
        rows.append([f"{len(found.workers) - len(shown)} more like the last", *[None] * 6])
    header = ["worker", "owns", "shards", "hyperedges", "GB", "s a sweep", "MB received a sweep"]
    _table(page, header, rows)
    stages = ", ".join(f"{stage} {seconds:.2g}" for stage, seconds in found.stages.items())
    verdict = f"does not fit: {found.does_not_fit}" if found.does_not_fit else "fits"
    _table(
        page,
        ["a sweep", ""],
        [
            ["seconds", f"{found.seconds:.3g} ({stages})"],
            ["exchanged", f"{found.exchanged / 1e6:,.1f} MB"],
            ["bottleneck", found.bottleneck],
            ["memory", verdict],
            *(["assumed" if at == 0 else "", text] for at, text in enumerate(assumptions)),
        ],
    )


def _table(page: Console, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers stand on the right and have thousands separated, None is a dash."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for position, name in enumerate(header):
        right = any(isinstance(row[position], int) for row in rows) or name in ("seconds", "score", "density")
        table.add_column(Text(name), justify="right" if right else "left")
    for row in rows:
        cells = ("-" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
        table.add_row(*(Text(cell) for cell in cells))
    page.print(table)
    page.print()
