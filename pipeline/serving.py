"""The command that starts a cluster for others to attach to."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hyperlearn_dask.errors import InputError
from pipeline.options import json_option, tls_options

if TYPE_CHECKING:
    from hyperlearn_dask.cluster import Tls

_PORT = click.IntRange(0, 65535)
TICK = 0.2  # seconds between looks whether the cluster shall end


@click.command()
@click.argument("dataset", required=False, type=click.Path(path_type=Path))
@click.option(
    "--modalities",
    metavar="NAME,…",
    help="What workers own, one each: those of DATASET, or these. Without any they own what they are given.",
)
@click.option("--cuda", is_flag=True, help="One worker per GPU, instead of worker processes on the CPU.")
@click.option("--workers", type=int, metavar="N", help="How many; by default one per modality, at most 8.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option(
    "--port",
    default=8786,
    type=_PORT,
    show_default=True,
    help="Port of the scheduler; 0 is any that is free.",
)
@click.option(
    "--dashboard-port",
    default=8787,
    type=_PORT,
    show_default=True,
    help="Port of the dashboard; 0 is any that is free.",
)
@click.option(
    "--scheduler-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Written when the cluster is up: --scheduler FILE attaches, with its certificates.",
)
@tls_options
@json_option
def cluster(
    dataset: Path | None,
    modalities: str | None,
    cuda: bool,
    workers: int | None,
    host: str,
    port: int,
    dashboard_port: int,
    scheduler_file: Path | None,
    tls: Tls,
    as_json: bool,
) -> None:
    """Start a cluster on this machine that other commands attach to; it runs until it is interrupted.

    It listens on loopback only. Who can reach it can run anything as you: elsewhere, let --tls or
    certificates of your own keep others out.

    \b
    Examples:
      hyperlearn cluster data/museum --workers 2
      hyperlearn cluster data/museum --tls --scheduler-file cluster.json
      hyperlearn run data/museum --out out/museum --scheduler cluster.json
    """
    from hyperlearn_dask.cluster import Listening, check_scheduler, serving
    from pipeline import display

    kind = "cuda" if cuda else "local"
    check_scheduler(kind, workers, tls)
    starting = serving(
        kind,
        _names(dataset, modalities),
        workers=workers,
        tls=tls,
        listening=Listening(host, port, dashboard_port),
        scheduler_file=scheduler_file,
    )
    with contextlib.suppress(KeyboardInterrupt), _told_to_end() as told, _if_told(told), starting as served:
        if not tls and host not in ("127.0.0.1", "::1", "localhost"):
            click.echo(f"Who can reach {host} can run anything as you; --tls keeps others out", err=True)
        found = {
            "scheduler": served.address,
            "scheduler_file": None if scheduler_file is None else str(scheduler_file),
            "dashboard": served.dashboard,
            "training": served.page,
            "workers": served.workers(),
        }
        if not told:
            if as_json:
                display.print_json(found)
            else:
                display.show_cluster(display.console(), found)
            sys.stdout.flush()  # somebody may wait for it
        while not told:
            time.sleep(TICK)
    click.echo("The cluster has ended", err=True)


@contextlib.contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """A list that Ctrl-C and SIGTERM put themselves in, to be looked at now and then.

    An exception can come where Python has to drop it or in the middle of a cluster's start, and what waits
    for a lock does not wake up for a signal that has come just before. The second and more are exceptions.
    """
    told: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)

    def heed(number: int, _: object) -> None:
        told.append(number)
        if len(told) >= 2:
            raise KeyboardInterrupt

    before = [signal.signal(number, heed) for number in signals]
    try:
        yield told
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


@contextlib.contextmanager
def _if_told(told: list[int]) -> Iterator[None]:
    """No failure of a cluster that is to end: a terminal tells its processes too, while they start."""
    try:
        yield
    except Exception:
        if not told:
            raise


def _names(dataset: Path | None, modalities: str | None) -> list[str]:
    """The modalities that workers shall own."""
    from hyperlearn_dask.config import load_dataset

    if modalities is None:
        return [] if dataset is None else list(load_dataset(dataset).modalities)
    if dataset is not None:
        raise InputError("are those of the data set already; name one or the other", key="--modalities")
    names = [name.strip() for name in modalities.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"'{modalities}' has an empty name, or one twice", key="--modalities")
    return names


COMMANDS: Sequence[click.Command] = (cluster,)
