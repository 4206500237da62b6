"""The command that says what training would take on a cluster that need not be there."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperlearn_dask.errors import InputError
from pipeline.options import json_option, pairs

if TYPE_CHECKING:
    from hyperlearn_dask.config import Dataset, PlacementSpec
    from hyperlearn_dask.factorization.problem import Problem
    from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
    from hyperlearn_dask.training.placing.cost import Counts, Machine
    from hyperlearn_dask.training.placing.plan import Plan

_POWERS = {"": 0, "k": 3, "m": 6, "g": 9, "b": 9, "t": 12}


def _amount(text: str, unit: str = "") -> float:
    """A number with k, M, G (or B, a billion) or T, and its unit if it likes."""
    found = re.fullmatch(r"([\d.]+)([kmgbt]?)", text.strip().lower().removesuffix("/s").removesuffix(unit))
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or number <= 0:
        raise click.BadParameter(f"'{text}' is no amount (expected, for example, 10M or 16G)")
    return float(number * 10.0 ** _POWERS[found[2]])


def _given(unit: str = "") -> Callable[..., float | None]:
    return lambda context, parameter, value: None if value is None else _amount(value, unit)


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, int]:
    return {} if value is None else {name: int(_amount(n)) for name, n in pairs(value.split(",")).items()}


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--sizes", callback=_named, metavar="NAME=N,…", help="Instead of PATH: entities by modality.")
@click.option("--nnz", callback=_given(), metavar="N", help="With --sizes: hyperedges over all of them.")
@click.option("--edges", callback=_named, metavar="NAME=N,…", help="With --sizes: edges of their graphs.")
@click.option("--rank", type=click.IntRange(1), help="Columns; by default what the data set says, or 16.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="By default what the data set says.")
@click.option("--workers", type=click.IntRange(1), help="How many; by default one per modality.")
@click.option("--threads", type=click.IntRange(1), help="Of each worker; by default all of this machine's.")
@click.option("--memory", callback=_given("b"), metavar="BYTES", help="Of each worker, as 16GB.")
@click.option("--link", callback=_given("b"), metavar="BYTES", help="A second, of each worker's link.")
@click.option("--memory-bandwidth", callback=_given("b"), metavar="BYTES", help="A second; else measured.")
@click.option("--preset", type=click.Choice(["a100", "h100"]), help="A GPU per worker, by its data sheet.")
@click.option("--placement", "scheme", help="'shards', or as published 'owner'.")
@json_option
def plan(
    path: Path | None,
    sizes: dict[str, int],
    nnz: float | None,
    edges: dict[str, int],
    rank: int | None,
    dtype: str | None,
    workers: int | None,
    threads: int | None,
    memory: float | None,
    link: float | None,
    memory_bandwidth: float | None,
    preset: str | None,
    scheme: str | None,
    as_json: bool,
) -> None:
    """Say who would own what, and what a sweep would take, on a cluster that need not be there.

    PATH is a data set (its tables are read, which may take a while), a hypergraph.zarr, or the folder of
    results it lies in. What is not given is measured here, in a few seconds.

    \b
    Examples:
      hyperlearn plan data/museum --workers 2
      hyperlearn plan --sizes user=480k,movie=17770 --nnz 10M --rank 32 --workers 4 --memory 8GB
      hyperlearn plan --sizes a=100M,b=10M,c=1M --nnz 1B --rank 32 --workers 8 --preset h100
    """
    from hyperlearn_dask.training.placing.plan import plan as make_plan
    from pipeline import display

    if (path is None) == (not sizes):
        raise InputError("expected either PATH or --sizes", key="plan")
    if sizes and nnz is None:
        raise InputError("goes with --nnz, the number of hyperedges", key="--sizes")
    if not sizes and (nnz is not None or edges):
        raise InputError("go with --sizes, not with PATH", key="--nnz, --edges")
    problem, counts, spec, indptrs = (
        _by_sizes(sizes, int(nnz or 0), edges, rank or 16, dtype or "float32")
        if sizes
        else _by_path(path, rank, dtype)  # type: ignore[arg-type]
    )
    if scheme is not None:
        from hyperlearn_dask.config import placement_from

        spec = placement_from(dataclasses.asdict(spec) | {"scheme": scheme}, problem.sizes)
    count = workers or len(problem.sizes)
    machine, assumptions = _machine(preset, threads, memory, link, memory_bandwidth)
    found = make_plan(problem, counts, machine, count, spec, indptrs)
    if as_json:
        display.print_json(as_document(found, machine, assumptions))
    else:
        display.show_plan(display.console(), found, assumptions)


def as_document(found: Plan, machine: Machine, assumptions: Sequence[str]) -> dict[str, Any]:
    """A plan as plain values; seconds and bytes are of one sweep."""
    return {
        "workers": [dataclasses.asdict(worker) for worker in found.workers],
        "seconds": found.seconds,
        "stages": dict(found.stages),
        "spent": dict(found.spent),
        "exchanged": found.exchanged,
        "bottleneck": found.bottleneck,
        "fits": not found.does_not_fit,
        "does_not_fit": found.does_not_fit or None,
        "machine": dataclasses.asdict(machine),
        "assumptions": list(assumptions),
    }


def _by_sizes(
    sizes: dict[str, int], nnz: int, edges: dict[str, int], rank: int, dtype: str
) -> tuple[Problem, Counts, PlacementSpec, None]:
    import numpy as np

    from hyperlearn_dask.config import PlacementSpec
    from hyperlearn_dask.factorization.problem import build_problem
    from hyperlearn_dask.training.placing.cost import Counts

    if len(sizes) < 2:
        raise InputError("a relation joins two modalities or more", key="--sizes")
    for modality in edges:
        if modality not in sizes:
            raise InputError(f"no modality '{modality}' (expected one of {', '.join(sizes)})", key="--edges")
    weights = dict.fromkeys(edges, 1.0)
    problem = build_problem(sizes, {"joined": tuple(sizes)}, {}, {"all": rank}, weights, 1e-2)
    links = {m: 2 * number + sizes[m] for m, number in edges.items()}
    return problem, Counts({"joined": nnz}, links, np.dtype(dtype).itemsize), PlacementSpec(), None


def _by_path(
    path: Path, rank: int | None, dtype: str | None
) -> tuple[Problem, Counts, PlacementSpec, dict[str, Any]]:
    from hyperlearn_dask.config import load_dataset
    from hyperlearn_dask.hypergraph.store import open_hypergraph
    from pipeline import display
    from pipeline.stages import HYPERGRAPH

    if not path.exists():
        raise InputError("does not exist; expected a data set, a store or a folder of results", file=path)
    if path.is_file() or (path / "dataset.toml").exists():
        from hyperlearn_dask.hypergraph.graphs import build_graphs
        from hyperlearn_dask.hypergraph.ingest import ingest

        dataset = load_dataset(path)
        notes = display.Notes()
        notes.line("reading the tables (hyperlearn plan DIR, of results that are there, need not)")
        with tempfile.TemporaryDirectory(prefix="hyperlearn-plan-") as folder:
            store = Path(folder) / HYPERGRAPH
            ingest(dataset, store, progress=notes.passing)
            build_graphs(dataset, store, progress=notes.passing)
            return _counted(open_hypergraph(store), dataset, rank, dtype)
    store = path if (path / "zarr.json").exists() else path / HYPERGRAPH
    if not store.exists():
        raise InputError(f"holds no dataset.toml and no {HYPERGRAPH}: nothing to plan for", file=path)
    return _counted(open_hypergraph(store), None, rank, dtype)


def _counted(
    hypergraph: Hypergraph, dataset: Dataset | None, rank: int | None, dtype: str | None
) -> tuple[Problem, Counts, PlacementSpec, dict[str, Any]]:
    from hyperlearn_dask.config import PlacementSpec, TrainingSpec
    from hyperlearn_dask.hypergraph.store import read_indptr
    from hyperlearn_dask.training.fit import problem_of
    from hyperlearn_dask.training.placing.arrange import counts_of
    from pipeline.options import with_training

    if dataset is not None:
        dataset = with_training(dataset, {"rank": rank, "dtype": dtype})
        training, relations, placement = dataset.training, dataset.relations, dataset.placement
        encoders = dataset.encoders
        weights = {m: s.graph.weight for m, s in dataset.modalities.items() if s.graph is not None}
    else:
        usual = TrainingSpec()
        groups = usual.groups if rank is None else {"all": rank}
        training = dataclasses.replace(usual, groups=groups, dtype=dtype or usual.dtype)  # type: ignore[arg-type]
        relations, placement, encoders = {}, PlacementSpec(), {}
        weights = dict.fromkeys(hypergraph.graphs, 1.0)
    problem = problem_of(hypergraph, relations, training, weights, encoders)
    counts = counts_of(hypergraph, training.dtype)
    assert hypergraph.path is not None
    return problem, counts, placement, {p: read_indptr(hypergraph.path, p) for p in hypergraph.relations}


def _machine(
    preset: str | None,
    threads: int | None,
    memory: float | None,
    link: float | None,
    bandwidth: float | None,
) -> tuple[Machine, list[str]]:
    """What each worker can do, and in words where that is from."""
    from hyperlearn_dask.training.memory import memory_of_machine
    from hyperlearn_dask.training.placing.cost import DEGREE, ITERATIONS
    from hyperlearn_dask.training.placing.machine import PRESETS, measure, with_bandwidth
    from hyperlearn_dask.training.placing.plan import HOPS

    cores = os.cpu_count() or 1
    if preset is not None:
        machine = PRESETS[preset]
        said = [f"each worker is one {preset}, at half the rates of its data sheet: nothing was measured"]
    else:
        count = min(threads or cores, cores)
        machine = measure(count, float(memory_of_machine()))
        if threads is not None and threads > count:
            times = threads / count
            gather = tuple((size, rate * times) for size, rate in machine.gather)
            machine = dataclasses.replace(
                machine, stream=machine.stream * times, gather=gather, arithmetic=machine.arithmetic * times
            )
        said = [f"each worker's threads ({threads or cores}) are as fast as {count} here, measured now"]
    if bandwidth is not None:
        machine = with_bandwidth(machine, bandwidth)
        said.append(f"its memory gives {bandwidth / 1e9:,.4g} GB/s, as was said")
    machine = dataclasses.replace(machine, memory=memory or machine.memory, link=link or machine.link)
    said += [
        f"it has {machine.memory / 1e9:,.4g} GB, and a link of {machine.link / 1e9:,.4g} GB/s each way",
        "entries go anywhere in each modality (with popular entities it is faster: more is in caches)",
        f"blocks with graphs take filters of degree {DEGREE}, or {ITERATIONS} conjugate gradient steps",
        f"schedule 'parallel'; Dask takes {machine.task * 1e3:.2g} ms a task, and {HOPS} times a sweep "
        f"{machine.hop * 1e3:.2g} ms until those that wait go on",
    ]
    return machine, said


COMMANDS: Sequence[click.Command] = (plan,)
