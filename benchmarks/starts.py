"""Where training ends from many starts: plain CP of the Tate collection's tensor, no graphs, no ridge.

``python -m benchmarks.starts --tate tate4.tns.gz --json FILE``: F over ||X||^2 at the end, from each of
``--seeds`` seeds, with both schedules and each start, beside as many runs of pygenten on the same tensor.
``of_best`` is a method's worst (median) end over the best end of all methods; ``collapsed`` counts ends
within a thousandth of ||X||^2, which is what A = 0 leaves. For the schedules: how many sweeps the parallel
one takes to come within 0.1 % of where the sequential one ends, over those that it took, seed by seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks.alternating import quiet
from benchmarks.growth import hypergraph_of
from benchmarks.output import Row, table, write_rows
from benchmarks.sweep import read_frostt
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.factorization.problem import build_problem
from hyperlearn_dask.hypergraph.tensor import SparseTensor
from hyperlearn_dask.training.fit import fit

STARTS = ("auto",)
SCHEDULES = ("parallel", "sequential")
TOLERANCE = 1e-5
SWEEPS = 300
CLOSE = 1.001


@dataclass(frozen=True)
class Run:
    """F over ||X||^2 after each sweep (of pygenten: at the end alone), and the seconds of all."""

    objective: Sequence[float]
    seconds: float


@click.command()
@click.option("--tate", required=True, type=click.Path(path_type=Path, exists=True), help="FROSTT text.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
@click.option("--seeds", type=click.IntRange(1), default=20, show_default=True)
@click.option("--rank", type=click.IntRange(1), default=32, show_default=True)
@click.option("--start", "starts", multiple=True, default=STARTS, show_default=True)
@click.option("--peers/--no-peers", default=True, help="Whether pygenten runs too.")
def main(tate: Path, output: Path | None, seeds: int, rank: int, starts: Sequence[str], peers: bool) -> None:
    """Where training ends from many starts."""
    tensor = read_frostt(tate)
    runs: dict[str, list[Run]] = {}
    for seed in range(seeds):
        for start in starts:
            for schedule in SCHEDULES:
                found = our_run(tensor, rank, seed, start, schedule)
                runs.setdefault(f"hyperlearn {schedule}, start {start}", []).append(found)
        if peers:
            runs.setdefault("pygenten cp_als", []).append(pygenten_run(tensor, rank, seed))
        ends = "; ".join(f"{name} {of[-1].objective[-1]:.4f}" for name, of in runs.items())
        click.echo(f"seed {seed}: {ends}", err=True)
        rows = [*rows_of(runs, rank), *(row for s in starts for row in rows_of_schedules(runs, s, rank))]
        if output is not None:
            write_rows(rows, output)
    click.echo(table(rows))


def our_run(tensor: SparseTensor, rank: int, seed: int, start: str, schedule: str) -> Run:
    """Training as a user would have it, but for the graphs and the ridge."""
    hypergraph = hypergraph_of(tensor)
    names = tuple(hypergraph.modalities)
    problem = build_problem(dict(zip(names, tensor.shape)), {"entries": names}, {}, {"all": rank}, {}, 0.0)
    training = TrainingSpec(
        groups={"all": rank},
        schedule=schedule,  # type: ignore[arg-type]
        sweeps=SWEEPS,
        tolerance=TOLERANCE,
        ridge=0.0,
        start=start,  # type: ignore[arg-type]
        seed=seed,
    )
    began = time.perf_counter()
    model = fit(hypergraph, problem, training)
    total = float(tensor.values @ tensor.values)
    return Run([float(row["objective"]) / total for row in model.history], time.perf_counter() - began)


def pygenten_run(tensor: SparseTensor, rank: int, seed: int) -> Run:
    """pygenten's alternating least squares from its own start."""
    import pygenten

    subscripts = np.stack(tensor.coords, axis=1).astype(np.int64)
    theirs = pygenten.Sptensor(tensor.shape, subscripts, tensor.values.astype(np.float64))
    began = time.perf_counter()
    with quiet():
        found, *_ = pygenten.cp_als(theirs, rank=rank, maxiters=SWEEPS, tol=TOLERANCE, seed=seed, printitn=0)
    seconds = time.perf_counter() - began
    factors = [np.array(factor) for factor in found.factor_matrices]
    factors[0] = factors[0] * np.array(found.weights)
    return Run([residual(tensor, factors)], seconds)


def residual(tensor: SparseTensor, factors: Sequence[np.ndarray]) -> float:
    """||X - [[A]]||^2 over ||X||^2."""
    total = float(tensor.values @ tensor.values)
    grams = np.prod([factor.T @ factor for factor in factors], axis=0)
    inner = 0.0
    for at in range(0, tensor.nnz, 100_000):  # no more than that many rows of the product at once
        part = slice(at, at + 100_000)
        rows = np.prod([f[c[part]] for f, c in zip(factors, tensor.coords)], axis=0)
        inner += float(tensor.values[part] @ rows.sum(axis=1))
    return (total - 2 * inner + float(grams.sum())) / total


def rows_of(runs: Mapping[str, Sequence[Run]], rank: int) -> Iterator[Row]:
    """Where each method ends."""
    ends = {name: np.array([run.objective[-1] for run in of]) for name, of in runs.items()}
    best = min(float(of.min()) for of in ends.values())
    theirs = ends.get("pygenten cp_als")
    for name, of in ends.items():
        seconds = float(np.mean([run.seconds for run in runs[name]]))
        figures = {
            "objective_best": of.min(),
            "objective_median": np.median(of),
            "objective_worst": of.max(),
            "median_of_best": np.median(of) / best,
            "worst_of_best": of.max() / best,
            "collapsed": (of > 0.999).sum(),
        }
        if theirs is not None:
            figures["median_of_best_pygenten"] = np.median(of) / theirs.min()
        for metric, value in figures.items():
            yield _row(name, metric, float(value), len(of), seconds, rank)


def rows_of_schedules(runs: Mapping[str, Sequence[Run]], start: str, rank: int) -> Iterator[Row]:
    """How much slower, in sweeps, the parallel schedule gets to where the sequential one ends."""
    parallel, sequential = (runs[f"hyperlearn {schedule}, start {start}"] for schedule in SCHEDULES)
    needed = [_sweeps_to(p, s.objective[-1] * CLOSE) / len(s.objective) for p, s in zip(parallel, sequential)]
    name = f"hyperlearn parallel, start {start}"
    reached = [ratio for ratio in needed if np.isfinite(ratio)]
    yield _row(name, "reached_sequential", len(reached) / len(needed), len(needed), None, rank)
    if reached:
        yield _row(name, "sweeps_of_sequential", float(np.median(reached)), len(needed), None, rank)
    rises = sum(int((np.diff(run.objective) > 1e-12).sum()) for run in [*parallel, *sequential])
    yield _row(name, "sweeps_that_rose", float(rises), len(needed), None, rank)


def _sweeps_to(run: Run, objective: float) -> float:
    """The first sweep that is no higher than that; infinite if none is."""
    low = np.flatnonzero(np.array(run.objective) <= objective)
    return float(low[0] + 1) if len(low) else float("inf")


def _row(method: str, metric: str, value: float, seeds: int, seconds: float | None, rank: int) -> Row:
    return Row("starts", "Tate", "zero", method, metric, value, None, seeds, seconds, {"rank": rank})


if __name__ == "__main__":
    main()
