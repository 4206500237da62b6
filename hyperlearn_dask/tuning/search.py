"""Choosing settings: trials on a part of the training data, the best of them back as settings.

1. A share of the judged relation's training hyperedges is put aside (``training.held_out``), by the seed;
   no test tuple is in the store that trials read.
2. Graphs are built once for each of their settings that is tried, without what was put aside.
3. The first trial has the settings as they are, each other one those that Optuna proposes. A finished trial
   is written down at once, and a search that is called again goes on from there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlearn_dask.config import Dataset
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.graphs import build_graphs
from hyperlearn_dask.hypergraph.holdout import HoldOut, write_held_out
from hyperlearn_dask.hypergraph.ingest import ingest
from hyperlearn_dask.hypergraph.store import create_hypergraph, unit_digests
from hyperlearn_dask.storage import hash_of, link_unit, recover, replacing
from hyperlearn_dask.tuning.ledger import Ledger, Trial
from hyperlearn_dask.tuning.pools import pool_of
from hyperlearn_dask.tuning.propose import load_optuna, propose
from hyperlearn_dask.tuning.space import (
    Settings,
    Space,
    lies_in,
    search_space,
    settings_of,
    with_settings,
)
from hyperlearn_dask.tuning.trial import RANKING, RATING, Outcome, Question

if TYPE_CHECKING:
    from distributed import Client

TRIALS = "trials.jsonl"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Search:
    """What a search has found: its trials in the order they finished.

    ``before``: trials that were there already; ``space``: what was searched.
    """

    relation: str
    metric: str
    lower: bool
    space: Space
    trials: Sequence[Trial]
    before: int

    @property
    def ranked(self) -> list[Trial]:
        """The trials that have a figure, best first; of equals the earlier one."""
        with_figure = [(t.outcome.figure, t) for t in self.trials if t.outcome.figure is not None]
        sign = 1 if self.lower else -1
        return [t for _, t in sorted(with_figure, key=lambda found: (sign * found[0], found[1].number))]


def search(
    dataset: Dataset,
    out: Path,
    *,
    trials: int,
    seconds: float | None = None,
    relation: str | None = None,
    metric: str | None = None,
    client: Client | None = None,
    tell: Tell = lambda text: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Search:
    """Try settings until there are ``trials``, those of earlier calls included, or time is up.

    In this process the same seed gives the same trials, interrupted or not. On workers a proposal
    depends on which trials have finished by then, and so on how quick they are.

    Parameters
    ----------
    dataset
        Its ``training.seed`` decides what is put aside, where trainings start and what is proposed.
    out
        Folder of the search: the hypergraph, what is put aside, graphs, and ``trials.jsonl``.
    seconds
        No trial begins later than this.
    relation, metric
        What settings are judged by; by default the relation of ``training.validation``, else the
        first that has a test table, else the first; and its RMSE or MRR.
    client
        Workers to run trials on, one each, that share ``out``.
    tell, on_trial
        Hear how the work proceeds, and of each trial that has finished.

    Raises
    ------
    InputError
        When something is wrong with the data or settings, Optuna is missing, or every trial failed.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    load_optuna()  # or say at once that it is missing
    relation = _judged_relation(dataset, relation)
    metric = _judged_metric(dataset, relation, metric)
    space = search_space(dataset, relation)
    if not space:
        raise InputError("has no setting to search; name some in a [tune] table", file=dataset.path)
    store = _prepare(dataset, relation, out, client, tell)
    question = Question(store, relation, metric, {})
    ledger = Ledger(out / TRIALS, _asked(dataset, question, space))
    found = Search(relation, metric, question.lower, space, ledger.trials, len(ledger.trials))
    pool, running = pool_of(client), dict[int, Settings]()

    def finish(number: int, settings: Settings, outcome: Outcome) -> None:
        ledger.add(Trial(number, settings, outcome))
        on_trial(ledger.trials[-1])

    def wanted() -> bool:
        in_time = ends is None or time.monotonic() < ends
        return in_time and len(ledger.trials) + len(running) < trials

    try:
        while True:
            while wanted() and pool.has_room():
                number, settings = _proposed(dataset, found, running)
                changed = with_settings(dataset, settings)
                try:
                    graphs = _graphs(dataset, changed, store, out / "graphs", client, tell)
                except InputError as error:  # more neighbours than entities, say
                    finish(number, settings, Outcome(None, problem=str(error)))
                else:
                    pool.begin(number, changed, dataclasses.replace(question, graphs=graphs))
                    running[number] = settings
            if not running:
                break
            number, outcome = pool.next()
            finish(number, running.pop(number), outcome)
    finally:
        pool.close()
    if ledger.trials and not found.ranked:
        raise InputError(f"every trial failed; the first: {ledger.trials[0].outcome.problem}")
    return found


def _proposed(dataset: Dataset, found: Search, running: Mapping[int, Settings]) -> tuple[int, Settings]:
    """The next trial's number and settings; trials that run or have failed count as the worst so far."""
    number = 1 + max([*running, *(trial.number for trial in found.trials)], default=-1)
    usual = settings_of(dataset, found.space)
    if number == 0 and lies_in(usual, found.space):
        return number, usual
    worst = (found.ranked[-1].outcome.figure if found.ranked else None) or 0.0
    figures = [(trial.settings, trial.outcome.figure) for trial in found.trials]
    told = [(settings, worst if figure is None else figure) for settings, figure in figures]
    told += [(settings, worst) for settings in running.values()]
    return number, propose(found.space, told, dataset.training.seed, number, lower=found.lower)


def _prepare(dataset: Dataset, relation: str, out: Path, client: Client | None, tell: Tell) -> Path:
    """The store that trials read: without what is put aside, and with the graphs as they are set."""
    whole, store = out / "hypergraph.zarr", out / "without-held-out.zarr"
    ingest(dataset, whole, client=client, progress=tell)
    what = HoldOut(relation, dataset.training.held_out, dataset.training.seed)
    if client is None:
        write_held_out(whole, store, what)
    else:
        client.submit(write_held_out, whole.resolve(), store.resolve(), what, pure=False).result()
    build_graphs(dataset, store, client=client, progress=tell)
    return store.resolve()


def _graphs(
    dataset: Dataset, changed: Dataset, store: Path, folder: Path, client: Client | None, tell: Tell
) -> dict[str, Path]:
    """The stores of the graphs that are not those of ``store``, made if they are not there."""
    stores = {}
    for name, modality in changed.modalities.items():
        usual = dataset.modalities[name].graph
        if modality.graph is None or usual is None or modality.graph.k == usual.k:
            continue
        path = folder / f"{name}-{modality.graph.k}.zarr"
        units = [f"modalities/{name}", *(f"relations/{r}" for r in dict.fromkeys(modality.graph.relations))]
        recover(path)
        digests = unit_digests(store)
        if not path.exists() or any(unit_digests(path).get(unit) != digests[unit] for unit in units):
            with replacing(path) as staging:
                create_hypergraph(staging, units)
                for unit in units:
                    link_unit(store, staging, unit)
        alone = {
            m: dataclasses.replace(spec, graph=spec.graph if m == name else None, encoder=None)
            for m, spec in changed.modalities.items()
        }
        build_graphs(dataclasses.replace(changed, modalities=alone), path, client=client, progress=tell)
        stores[name] = path.resolve()
    return stores


def _asked(dataset: Dataset, question: Question, space: Space) -> dict[str, str]:
    """What trials can be compared under: data, settings, what is searched and what they are judged by."""
    settings = [dataset.modalities, dataset.relations, dataset.training, space]
    data = unit_digests(question.store)
    return {
        "relation": question.relation,
        "metric": question.metric,
        "fingerprint": hash_of([sorted(data.items()), settings]),
    }


def _judged_relation(dataset: Dataset, name: str | None) -> str:
    tested = [r for r, spec in dataset.relations.items() if spec.test is not None]
    name = name or dataset.training.validation or [*tested, *dataset.relations][0]
    if name not in dataset.relations:
        raise InputError(
            f"no relation '{name}' (expected one of {', '.join(dataset.relations)})", key="--relation"
        )
    return name


def _judged_metric(dataset: Dataset, relation: str, metric: str | None) -> str:
    spec = dataset.relations[relation]
    valid = RANKING if spec.absent != "unknown" else (*RATING, *(RANKING if spec.target else ()))
    if metric is not None and metric not in valid:
        raise InputError(f"no metric '{metric}' of '{relation}' (it has {', '.join(valid)})", key="--metric")
    return metric or valid[0]
