"""One trial: the settings of a data set to how well it then tells hyperedges that were put aside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hyperlearn_dask.config import Dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.store import open_hypergraph, read_graph
from hyperlearn_dask.training.evidence import add_evidence
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.use.evaluate import evaluate

LOWER_IS_BETTER = ("rmse", "mae")
RATING = ("rmse", "mae")
RANKING = ("mrr", "hits@10", "acc@1", "acc@10")


@dataclass(frozen=True)
class Question:
    """What a trial is judged by: a metric of a relation, on what was put aside of it.

    ``store``: the hypergraph without that, with it as the test tuples; ``graphs``: the stores of
    graphs that are to take the place of those there.
    """

    store: Path
    relation: str
    metric: str
    graphs: Mapping[str, Path]

    @property
    def lower(self) -> bool:
        """Whether lower figures are better."""
        return self.metric in LOWER_IS_BETTER


@dataclass(frozen=True)
class Outcome:
    """What a trial came to: its figure, or the problem there was with it.

    ``sweep``: the one that was best by validation, whose factors were judged.
    """

    figure: float | None
    sweep: int = 0
    seconds: float = 0.0
    problem: str | None = None


def run_trial(dataset: Dataset, question: Question) -> Outcome:
    """Train in this process with the data set's settings and judge the model.

    Training stops with patience, so the number of sweeps is found and not searched. Settings that
    cannot be trained with are no error but an outcome.
    """
    began = time.perf_counter()
    try:
        figure, sweep = _train_and_judge(dataset, question)
    except InputError as error:
        return Outcome(None, 0, time.perf_counter() - began, str(error))
    return Outcome(figure, sweep, time.perf_counter() - began)


def _train_and_judge(dataset: Dataset, question: Question) -> tuple[float, int]:
    name = question.relation
    hypergraph = _opened(question)
    weights = {m: s.graph.weight for m, s in dataset.modalities.items() if s.graph is not None}
    targets = {r: s.target for r, s in dataset.relations.items() if s.target is not None}
    training = replace(dataset.training, validation=name)
    problem = problem_of(hypergraph, dataset.relations, training, weights, dataset.encoders)
    model = fit(hypergraph, problem, training, targets=targets, apart=True)
    sweep = int(model.kept["sweep"])
    ranked = [name] if dataset.relations[name].evidence else []
    model = add_evidence(model, hypergraph, ranked, training, dataset.graphs_from)
    for metric in evaluate(model, hypergraph):
        if metric.metric == question.metric and metric.value is not None:
            return metric.value, sweep
    raise InputError("there is nothing to judge by", key=f"relations.{name}")


def _opened(question: Question) -> Hypergraph:
    hypergraph = open_hypergraph(question.store)
    graphs = {
        m: read_graph(question.graphs[m], m) if m in question.graphs else hypergraph.graphs[m]
        for m in hypergraph.graphs
    }
    return replace(hypergraph, graphs=graphs)
