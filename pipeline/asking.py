"""Commands that ask a trained model, hand it on, or tell what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.options import json_option, model_argument, model_path, pairs, top_option

if TYPE_CHECKING:
    from hyperlearn_dask.use.export import Format


@click.command()
@model_argument
@click.argument("target")
@click.option(
    "--given",
    multiple=True,
    callback=lambda context, parameter, values: pairs(values),
    metavar="MODALITY=ENTITY",
    help="What is known, by id or label; once per modality.",
)
@click.option("--relation", metavar="NAME", help="The relation that shall answer; else those that can.")
@top_option
@click.option("--explain", is_flag=True, help="Tell what makes up each score.")
@click.option(
    "--with-uncertainty", is_flag=True, help="Tell each score's standard deviation (needs posterior draws)."
)
@json_option
def query(
    model: Path,
    target: str,
    given: dict[str, str],
    relation: str | None,
    top: int,
    explain: bool,
    with_uncertainty: bool,
    as_json: bool,
) -> None:
    """Ask which entities of the modality TARGET go best with what is given.

    MODEL is a model.zarr or the folder that holds it.

    \b
    Examples:
      hyperlearn query out/museum subject --given artist="Claude Monet" --given decade=1870s
      hyperlearn query out/museum artist --given medium="oil on canvas" --top 3 --json
    """
    from hyperlearn_dask.factorization.model_store import open_model
    from hyperlearn_dask.use.rank import rank
    from pipeline import display

    ranking = rank(
        open_model(model_path(model)),
        target,
        given,
        relation=relation,
        top=top,
        with_uncertainty=with_uncertainty,
    )
    if as_json:
        display.print_json(display.ranking_json(ranking, explain=explain))
    else:
        display.show_ranking(display.console(), ranking, explain=explain)


@click.command()
@model_argument
@click.argument("modality")
@click.argument("entity")
@top_option
@json_option
def similar(model: Path, modality: str, entity: str, top: int, as_json: bool) -> None:
    """Ask which entities of MODALITY are most like ENTITY, an id or label.

    MODEL is a model.zarr or the folder that holds it.

    \b
    Example:
      hyperlearn similar out/museum artist "Claude Monet"
    """
    from hyperlearn_dask.factorization.model_store import open_model
    from hyperlearn_dask.use.rank import similar as nearest
    from pipeline import display

    ranking = nearest(open_model(model_path(model)), modality, entity, top)
    if as_json:
        display.print_json(display.ranking_json(ranking))
    else:
        display.show_ranking(display.console(), ranking)


@click.command()
@model_argument
@click.option("--format", "form", required=True, type=click.Choice(["npz", "parquet", "tsv"]), help="Format.")
@click.option(
    "--out",
    required=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The file (npz) or folder (parquet, tsv) to write.",
)
def export(model: Path, form: Format, out: Path) -> None:
    """Write the matrices of MODEL so that anyone can read and multiply them.

    A relation's value for some entities is the sum over all columns of the product of their rows.

    \b
    Examples:
      hyperlearn export out/museum --format npz --out museum.npz
      hyperlearn export out/museum/model.zarr --format tsv --out museum-factors
    """
    from hyperlearn_dask.factorization.model_store import open_model
    from hyperlearn_dask.use.export import export as write

    write(open_model(model_path(model)), out, form)
    click.echo(f"wrote {out}", err=True)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def info(path: Path, as_json: bool) -> None:
    """Tell what PATH holds: a data set, a hypergraph.zarr, a model.zarr or a folder of results.

    \b
    Examples:
      hyperlearn info data/museum
      hyperlearn info out/museum
    """
    from pipeline import display
    from pipeline.summary import summary

    found = summary(path)
    if as_json:
        display.print_json(found)
    else:
        display.show_summary(display.console(), found)


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The page to write; by default DIR/report.html.",
)
@click.option("--seed", default=0, show_default=True, help="Which test tuples are shown.")
def report(results: Path, out: Path | None, seed: int) -> None:
    """Write a page about the results in DIR: the hypergraph, metrics, training, and examples.

    It is one file that any browser opens, without a network.

    \b
    Example:
      hyperlearn report out/museum
    """
    from pipeline.report import write_report

    to = out or results / "report.html"
    write_report(results, to, seed=seed)
    click.echo(f"wrote {to}", err=True)


COMMANDS: Sequence[click.Command] = (query, similar, report, export, info)
