"""Commands that make something: the stages, all of them in a row, and synthetic data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.options import (
    How,
    Where,
    dataset_argument,
    device_option,
    how_options,
    json_option,
    out_option,
    pairs,
    scheduler_options,
    training_options,
    with_training,
)

if TYPE_CHECKING:
    from distributed import Client


@click.command()
@dataset_argument
@out_option
@scheduler_options
@json_option
def ingest(dataset: Path, out: Path, where: Where, as_json: bool) -> None:
    """Read the raw tables of DATASET into DIR/hypergraph.zarr.

    \b
    Example:
      hyperlearn ingest data/museum --out out/museum
    """
    _make(["ingest"], dataset, out, where, as_json, {}, "cpu")


@click.command()
@dataset_argument
@out_option
@device_option
@scheduler_options
@json_option
def graph(dataset: Path, out: Path, where: Where, device_name: str | None, as_json: bool) -> None:
    """Build the graph of every modality that has one, in DIR/hypergraph.zarr.

    \b
    Example:
      hyperlearn graph data/museum --out out/museum
    """
    _make(["graph"], dataset, out, where, as_json, {}, device_name)


@click.command()
@dataset_argument
@out_option
@click.option(
    "--resume/--restart",
    default=True,
    help="Go on from what an interrupted training has left (the default), or begin anew.",
)
@how_options
@training_options
@device_option
@scheduler_options
@json_option
def train(
    dataset: Path,
    out: Path,
    resume: bool,
    how: How,
    where: Where,
    device_name: str | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Train DIR/model.zarr on DIR/hypergraph.zarr.

    The state of training goes to DIR/checkpoints every 30 seconds (--checkpoint-every) or, where that
    would take more than 2 % of the time, less often. The same command goes on from there after an
    interruption, if data and settings are still the same; a finished training deletes it.

    \b
    Examples:
      hyperlearn train data/museum --out out/museum --rank 32
      hyperlearn train data/museum --out out/museum --scheduler local --workers 2
    """
    how = dataclasses.replace(how, restart=not resume)
    _make(["train"], dataset, out, where, as_json, overrides, device_name, how)


@click.command()
@dataset_argument
@out_option
@json_option
def evaluate(dataset: Path, out: Path, as_json: bool) -> None:
    """Judge DIR/model.zarr by the test tables of DATASET; writes DIR/metrics.json.

    \b
    Example:
      hyperlearn evaluate data/museum --out out/museum
    """
    _make(["evaluate"], dataset, out, Where(), as_json, {}, "cpu")


@click.command()
@dataset_argument
@out_option
@how_options
@training_options
@device_option
@scheduler_options
@json_option
def run(
    dataset: Path,
    out: Path,
    how: How,
    where: Where,
    device_name: str | None,
    as_json: bool,
    **overrides: Any,
) -> None:
    """Do all stages of DATASET: ingest, graph, train, evaluate. What is up to date is left alone.

    After an interruption the same command goes on where it was, within training too.

    \b
    Examples:
      hyperlearn run data/museum --out out/museum
      hyperlearn run data/museum --out out/museum --scheduler local
      hyperlearn run data/museum --out out/museum --device cuda
      hyperlearn run data/museum --out out/museum --scheduler tcp://10.0.0.1:8786 --json
    """
    stages = ["ingest", "graph", "train", "evaluate"]
    _make(stages, dataset, out, where, as_json, overrides, device_name, how)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--sizes",
    required=True,
    callback=lambda context, parameter, value: _sizes(value),
    metavar="NAME=N,…",
    help="Modalities and their numbers of entities.",
)
@click.option("--rank", default=8, show_default=True, help="Columns of the planted model.")
@click.option(
    "--hyperedges",
    default=10_000,
    show_default=True,
    metavar="N",
    help="Hyperedges, a tenth of them for the test.",
)
@click.option("--noise", default=0.05, show_default=True, help="Share of hyperedges at random.")
@click.option(
    "--exponent", default=0.0, show_default=True, help="How steeply popularity falls; 0: not at all."
)
@click.option("--graphs/--no-graphs", default=True, show_default=True, help="Whether modalities have graphs.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same files.")
def synth(
    folder: Path,
    sizes: dict[str, int],
    rank: int,
    hyperedges: int,
    noise: float,
    exponent: float,
    graphs: bool,
    seed: int,
) -> None:
    """Make a data set in FOLDER out of a planted model, to try things on.

    \b
    Example:
      hyperlearn synth planted --sizes user=2000,movie=300,tag=50 --rank 8 --hyperedges 50000
    """
    from hyperlearn_dask.hypergraph.synthetic import write_dataset

    write_dataset(
        folder,
        sizes=sizes,
        rank=rank,
        nnz=hyperedges,
        noise=noise,
        exponent=exponent,
        graphs=graphs,
        seed=seed,
    )
    click.echo(f"wrote {folder / 'dataset.toml'} and its tables", err=True)


def _sizes(text: str) -> dict[str, int]:
    sizes = {}
    for name, value in pairs(text.split(",")).items():
        if not value.isdecimal():
            raise click.BadParameter(f"'{value}' is no number of entities")
        sizes[name] = int(value)
    return sizes


COMMANDS: Sequence[click.Command] = (run, ingest, graph, train, evaluate, synth)


def _make(
    names: Sequence[str],
    dataset_path: Path,
    out: Path,
    where: Where,
    as_json: bool,
    overrides: dict[str, Any],
    device_name: str | None,
    how: How | None = None,
) -> None:
    """Run stages in a row and show what they made."""
    from hyperlearn_dask.cluster import check_scheduler, open_scheduler
    from hyperlearn_dask.config import load_dataset
    from hyperlearn_dask.monitor.log import JsonLines
    from hyperlearn_dask.training.checkpoint import EVERY_SECONDS
    from hyperlearn_dask.training.events import record
    from pipeline import display, stages

    how = how or How()
    check_scheduler(where.scheduler, where.workers, where.tls)
    device = where.device(device_name)
    dataset = with_training(load_dataset(dataset_path), overrides)
    notes = display.Notes()
    with stages.output_folder(out), ExitStack() as cluster:
        lines = None if how.log is None else cluster.enter_context(JsonLines(how.log, notes.line))

        @functools.cache
        def client() -> Client | None:
            opening = open_scheduler(
                where.scheduler,
                list(dataset.modalities),
                workers=where.workers,
                tls=where.tls,
                tell=notes.line,
            )
            return cluster.enter_context(opening)

        job = stages.Job(
            dataset,
            out,
            None if where.scheduler == "none" else client,
            notes.training,
            notes.passing,
            notes.line,
            how.restart,
            device,
            None if lines is None else lambda event: lines(record(event)),
            how.checkpoint_every or EVERY_SECONDS,
            how.memory_limit,
        )
        reports = [notes.stage(name, job) for name in names]
    display.results(out, reports, as_json=as_json)
