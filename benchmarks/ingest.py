"""How fast raw tables become a stored hypergraph, beside what only numbers the ids.

``python -m benchmarks.ingest`` makes tables of three string columns whose ids follow a power law, as
those of ratings and tags do, in CSV and in Parquet. Every run is a process of its own, and its peak of
memory is reported. Ours is the whole stage: reading, hashing, id mapping, sorting, writing a
checksummed store. The others only read and number the ids, in memory: the least one can do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from benchmarks.output import Row, table, write_rows
from hyperlearn_dask.config import load_dataset
from hyperlearn_dask.hypergraph.ingest import ingest

ROWS, QUICK = 10_000_000, 300_000
SIZES = {"user": 480_000, "movie": 17_770, "tag": 2_182}  # ids that a column has at most
SKEW = 2.5  # ranks are uniform numbers to this power
KINDS = ("csv", "parquet")


@click.command()
@click.option("--rows", type=click.IntRange(1_000), default=ROWS, show_default=True, help="Of a table.")
@click.option("--quick", is_flag=True, help=f"Tables of {QUICK:,} rows.")
@click.option("--repeats", type=click.IntRange(1), default=1, show_default=True, help="The best counts.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the rows to this file.")
def main(rows: int, quick: bool, repeats: int, output: Path | None) -> None:
    """Compare the speed and the memory of ingestion."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(benchmark(Path(folder), QUICK if quick else rows, repeats))
    click.echo(table(found))
    if output is not None:
        write_rows(found, output)


def benchmark(folder: Path, rows: int, repeats: int) -> Iterator[Row]:
    """The figures of every method on every kind of table."""
    made = make_columns(rows)
    for kind in KINDS:
        path = write_table(made, folder / f"tagged.{kind}")
        for name, (_, needs) in METHODS.items():
            if find_spec(needs) is None:
                yield _row(rows, kind, name, "Mrows/s", None, {"note": f"{needs} is not installed"})
                continue
            click.echo(f"{kind}: {name}", err=True)
            runs = [measured(name, path) for _ in range(repeats)]
            seconds, peak = min(run[0] for run in runs), max(run[1] for run in runs)
            details = {"seconds": seconds, "bytes": path.stat().st_size, "repeats": repeats}
            yield _row(rows, kind, name, "Mrows/s", rows / seconds / 1e6, details)
            yield _row(rows, kind, name, "peak GiB", peak, details)
        path.unlink()


def make_columns(rows: int) -> pa.Table:
    """Three columns of ids, the popular ones far more often than the others."""
    random = np.random.default_rng(1)
    columns = {}
    for name, size in SIZES.items():
        ranks = np.minimum(size * random.random(rows) ** SKEW, size - 1).astype(np.int32)
        # Which ids are popular has nothing to do with their order.
        ids = pa.array([f"{name}-{number}" for number in random.permutation(size)])
        columns[name] = pa.DictionaryArray.from_arrays(ranks, ids).dictionary_decode()
    return pa.table(columns)


def write_table(columns: pa.Table, path: Path) -> Path:
    """Write columns as the kind of file that a path's suffix says."""
    if path.suffix == ".csv":
        pa.csv.write_csv(columns, path, pa.csv.WriteOptions(quoting_style="none"))
    else:
        pa.parquet.write_table(columns, path)
    return path


def measured(method: str, path: Path) -> tuple[float, float]:
    """Seconds and peak of memory (GiB) of a method, run in a process of its own.

    Importing is not timed, but what it takes of memory counts.
    """
    script = f"from benchmarks.ingest import run; run({method!r}, {str(path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{method}: {done.stderr.strip()}")
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def run(method: str, path: str) -> None:
    """What the process of a method does: print its seconds and its peak of memory."""
    import resource

    function, needs = METHODS[method]
    __import__(needs)
    began = time.perf_counter()
    function(Path(path))
    seconds = time.perf_counter() - began
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30]))


def with_ours(path: Path) -> None:
    """The whole stage, without a cluster."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        columns = ", ".join(f'{name} = "{name}"' for name in SIZES)
        (Path(folder) / path.name).symlink_to(path)
        settings = [f"[modalities.{name}]" for name in SIZES]
        settings += ["[relations.tagged]", f'table = "{path.name}"', f"columns = {{ {columns} }}"]
        (Path(folder) / "dataset.toml").write_text("\n".join(settings), encoding="utf-8")
        ingest(load_dataset(folder), Path(folder) / "hypergraph.zarr")


def with_pandas(path: Path) -> None:
    """Read, and ``factorize`` each column."""
    import pandas as pd

    frame = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_parquet(path)
    for name in SIZES:
        pd.factorize(frame[name])


def with_arrow(path: Path) -> None:
    """Read with all threads, and ``dictionary_encode`` each column."""
    read = pa.csv.read_csv if path.suffix == ".csv" else pa.parquet.read_table
    columns = read(path)
    for name in SIZES:
        columns[name].dictionary_encode().unify_dictionaries()


def with_polars(path: Path) -> None:
    """Read with all threads, and make each column categorical."""
    import polars as pl

    frame = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    frame.select(pl.col(*SIZES).cast(pl.Categorical).to_physical())


# By name: the function, and the package it needs.
METHODS: dict[str, tuple[Callable[[Path], None], str]] = {
    "hyperlearn": (with_ours, "hyperlearn_dask"),
    "pandas factorize": (with_pandas, "pandas"),
    "pyarrow dictionary_encode": (with_arrow, "pyarrow"),
    "polars Categorical": (with_polars, "polars"),
}


def _row(rows: int, kind: str, method: str, metric: str, value: float | None, details: dict) -> Row:
    data = f"{rows:,} rows of 3 string columns"
    seconds = details.get("seconds")
    rest = {name: value for name, value in details.items() if name != "seconds"}
    return Row("ingest", data, kind, method, metric, value, seconds=seconds, details=rest)


if __name__ == "__main__":
    main()
