"""The command that chooses settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hyperlearn_dask.errors import InputError
from pipeline.options import (
    Where,
    dataset_argument,
    json_option,
    scheduler_options,
    with_training,
)

BEST = "best.toml"


@click.command()
@dataset_argument
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the search: trials.jsonl, best.toml and the data that trials read.",
)
@click.option(
    "--trials",
    default=50,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="How many, those of earlier calls included.",
)
@click.option("--time", "seconds", type=click.FloatRange(0), metavar="SECONDS", help="Begin none after that.")
@click.option("--relation", metavar="R", help="What they are judged by; else the first with a test table.")
@click.option("--metric", metavar="M", help="rmse, mae; mrr, hits@10, acc@1, acc@10. By default the first.")
@click.option("--seed", type=int, help="Of what is put aside, of trainings and of what is tried.")
@click.option(
    "--write",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a copy of dataset.toml with the best settings, beside it.",
)
@scheduler_options
@json_option
def tune(
    dataset: Path,
    out: Path,
    trials: int,
    seconds: float | None,
    relation: str | None,
    metric: str | None,
    seed: int | None,
    write: Path | None,
    where: Where,
    as_json: bool,
) -> None:
    """Choose settings of DATASET: columns, weights, ridge and neighbours, by trials on training data.

    A share of a relation's training hyperedges (training.held_out) is put aside; the test tables play
    no part. Trials try the settings that a [tune] table names, or the usual ones around where they are.
    Interrupted, the same command goes on. The best settings go to DIR/best.toml.

    \b
    Examples:
      hyperlearn tune data/museum --out out/museum-tuned --trials 20
      hyperlearn tune data/museum --out out/museum-tuned --scheduler local --write data/museum/tuned.toml
    """
    from hyperlearn_dask.cluster import check_scheduler, open_scheduler
    from hyperlearn_dask.config import load_dataset
    from hyperlearn_dask.tuning.search import search
    from hyperlearn_dask.tuning.writing import found_values, snippet, written_into
    from pipeline import display, stages

    check_scheduler(where.scheduler, where.workers, where.tls)
    spec = with_training(load_dataset(dataset), {"seed": seed})
    if write is not None:
        _check_place(write, spec.path)
    notes = display.Notes()
    with (
        stages.output_folder(out),
        open_scheduler(
            where.scheduler, list(spec.modalities), workers=where.workers, tls=where.tls, tell=notes.line
        ) as client,
    ):
        found = search(
            spec,
            out,
            trials=trials,
            seconds=seconds,
            relation=relation,
            metric=metric,
            client=client,
            tell=notes.passing,
            on_trial=lambda trial: notes.line(display.trial_line(trial)),
        )
    written: dict[str, Any] = {}
    if found.ranked:
        written["best"] = out / BEST
        written["best"].write_text(snippet(found, spec.training.held_out), encoding="utf-8")
        if write is not None:
            text = spec.path.read_text(encoding="utf-8-sig")
            write.write_text(written_into(text, found_values(found.ranked[0])), encoding="utf-8")
            written["dataset"] = write
    display.search_results(found, written, as_json=as_json)


def _check_place(write: Path, dataset: Path) -> None:
    if write.exists():
        raise InputError("is there already; --write makes a new file", file=write)
    if write.resolve().parent != dataset.parent:
        raise InputError(
            f"belongs in {dataset.parent}: the tables in it are named from there", file=write, key="--write"
        )


COMMANDS: Sequence[click.Command] = (tune,)
