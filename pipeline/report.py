"""A folder of results as one page that opens in any browser: what there is, how good it is, examples."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hyperlearn_dask.errors import InputError, refuse_foreign
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.model_store import open_model
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph
from hyperlearn_dask.monitor.board import Point
from hyperlearn_dask.storage import replacing
from hyperlearn_dask.use.evaluate import check_entities, tasks
from hyperlearn_dask.use.examples import Answered, Rated, answered, portraits, rated
from hyperlearn_dask.use.rank import Ranking
from pipeline import display
from pipeline.stages import HYPERGRAPH, METRICS, MODEL
from pipeline.summary import results_summary

ENTITIES, TUPLES, TOP = 8, 12, 5


@dataclass(frozen=True)
class Section:
    """The examples of one relation's test tuples: its target ranked, or (without one) its values."""

    relation: str
    target: str | None
    rows: list[Answered] | list[Rated]


def write_report(out: Path, to: Path, *, seed: int = 0) -> None:
    """Write the page about a folder of results, whole or not at all.

    Raises
    ------
    InputError
        When there is no model or hypergraph, they do not belong together, or ``to`` is no place for it.
    """
    for name in (HYPERGRAPH, MODEL):
        if not (out / name).exists():
            raise InputError(
                f"no {name} in this folder; make one: hyperlearn run DATASET --out DIR", file=out
            )
    if to.is_dir():
        raise InputError("is a folder; the page needs the name of a file", file=to)
    refuse_foreign(to, "report", _is_report)
    model, hypergraph = open_model(out / MODEL), open_hypergraph(out / HYPERGRAPH)
    check_entities(model, hypergraph)
    page = _page(results_summary(out), model, hypergraph, out.resolve().name, seed)
    with replacing(to) as staging:
        staging.write_text(page, encoding="utf-8")


def _is_report(path: Path) -> bool:
    with path.open("rb") as file:
        return b"<title>HyperLearn: " in file.read(1000)


def _page(found: dict[str, Any], model: Model, hypergraph: Hypergraph, name: str, seed: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline", "."), autoescape=True, undefined=StrictUndefined
    )
    metrics = found.get("metrics", [])
    return environment.get_template("report.html").render(
        name=name,
        **found["hypergraph"],
        model=found["model"],
        metrics=[
            (*key, list(rows))
            for key, rows in groupby(
                metrics, lambda row: (row["relation"], row["task"], row["target"], row["n"])
            )
        ],
        charts=_charts(model),
        likes=_likes(model, hypergraph),
        sections=list(_sections(model, hypergraph, seed)),
        missing_metrics="" if "metrics" in found else METRICS,
        trained=display.trained(found["model"]["training"]),
    )


def _likes(model: Model, hypergraph: Hypergraph) -> dict[str, list[Ranking]]:
    return {m: portraits(model, hypergraph, m, ENTITIES, TOP) for m in model.modalities}


def _sections(model: Model, hypergraph: Hypergraph, seed: int) -> list[Section]:
    """The examples of every relation that has test tuples."""
    sections = []
    for name, relation in hypergraph.relations.items():
        if name not in model.problem.terms or relation.test is None or not relation.test.nnz:
            continue
        values, target = tasks(model, name)
        if values:
            sections.append(Section(name, None, rated(model, relation, tuples=TUPLES, seed=seed)))
        if target is not None:
            rows = answered(model, relation, target, tuples=TUPLES, top=TOP, seed=seed)
            sections.append(Section(name, target, rows))
    return sections


def _charts(model: Model) -> dict[str, str]:
    """The curves of the training, and the library that draws them: HTML that needs nothing from elsewhere."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    from hyperlearn_dask.monitor.curves import Curves

    curves = Curves()
    curves.show(
        [
            Point(row["sweep"], row["step"] is None, row["objective"], row["step"], row["seconds"])
            for row in model.history
        ]
    )
    script, division = components(curves.grid)
    return {
        "library": Resources(mode="inline", components=["bokeh"]).render(),
        "script": script,
        "div": division,
    }
