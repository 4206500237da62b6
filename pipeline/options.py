"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from hyperlearn_dask.backend import Device
    from hyperlearn_dask.cluster import Tls
    from hyperlearn_dask.config import Dataset

Command = TypeVar("Command", bound=Callable[..., Any])

dataset_argument = click.argument("dataset", type=click.Path(path_type=Path))
model_argument = click.argument("model", type=click.Path(path_type=Path))
out_option = click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the results: hypergraph.zarr, model.zarr, metrics.json.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
top_option = click.option("--top", default=10, show_default=True, metavar="N", help="How many answers.")


device_option = click.option(
    "--device",
    "device_name",
    metavar="cpu|cuda",
    help="What computes: CPUs, or the GPU of this process or of each worker; "
    "by default cuda with --scheduler cuda, else cpu.",
)


@dataclass(frozen=True)
class Where:
    """Where to compute, as the options say it."""

    scheduler: str = "none"
    workers: int | None = None
    tls: Tls | None = None

    def device(self, name: str | None) -> Device:
        """What is to compute there; refused in one line if this process cannot."""
        from hyperlearn_dask.backend import check_device

        if name is None:
            return "cuda" if self.scheduler == "cuda" else "cpu"
        if name not in ("cpu", "cuda"):
            raise InputError(f"'{name}' is not a device (expected cpu or cuda)", key="--device")
        if name == "cuda" and self.scheduler == "none":
            check_device(name)
        return cast("Device", name)


def scheduler_options(command: Command) -> Command:
    """``--scheduler``, ``--workers`` and the certificates, as one argument ``where``."""
    workers = click.option(
        "--workers",
        type=int,
        metavar="N",
        help="Workers of --scheduler local; by default one per modality, at most 8.",
    )
    scheduler = click.option(
        "--scheduler",
        default="none",
        show_default=True,
        metavar="none|local|cuda|ADDRESS|FILE",
        help="Where to compute: in this process, on workers of this machine, on its GPUs, on a Dask cluster.",
    )

    @functools.wraps(command)
    def with_where(*args: Any, scheduler: str, workers: int | None, tls: Tls, **options: Any) -> Any:
        return command(*args, where=Where(scheduler, workers, tls), **options)

    return cast(Command, scheduler(workers(tls_options(with_where))))


def tls_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--tls`` and the three files, as one argument ``tls``."""

    @functools.wraps(command)
    def with_tls(
        *args: Any,
        tls: bool,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        **options: Any,
    ) -> Any:
        from hyperlearn_dask.cluster import Tls

        return command(*args, tls=Tls(tls, tls_ca, tls_cert, tls_key), **options)

    decorated: Callable[..., Any] = with_tls
    for part, text in (("key", "its key"), ("cert", "our certificate"), ("ca", "the authority all trust")):
        file = click.Path(path_type=Path)
        option = click.option(f"--tls-{part}", type=file, metavar="PEM", help=f"Certificates: {text}.")
        decorated = option(decorated)
    temporary = click.option("--tls", is_flag=True, help="Encrypt the cluster, with temporary certificates.")
    return temporary(decorated)


@dataclass(frozen=True)
class How:
    """How training proceeds, which changes nothing of what it learns."""

    log: Path | None = None
    checkpoint_every: float | None = None  # seconds
    memory_limit: int | None = None  # bytes
    restart: bool = False


def how_options(command: Command) -> Command:
    """``--log``, ``--checkpoint-every`` and ``--memory-limit``, as one argument ``how``."""
    log = click.option(
        "--log",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Append all that happens in training to a file, as one JSON object a line.",
    )
    checkpoints = click.option(
        "--checkpoint-every",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="How often the state of training is written, unless that takes more than 2 % of the time; "
        "by default every 30.",
    )
    memory = click.option(
        "--memory-limit",
        metavar="SIZE",
        help="Memory for training in this process, such as 2GiB; by default what is left of the machine's. "
        "Relations that take more than their share of it are read from the store in every sweep.",
    )

    @functools.wraps(command)
    def with_how(
        *args: Any,
        log: Path | None,
        checkpoint_every: float | None,
        memory_limit: str | None,
        **options: Any,
    ) -> Any:
        from hyperlearn_dask.training.streaming import bytes_of

        limit = None if memory_limit is None else bytes_of(memory_limit)
        return command(*args, how=How(log, checkpoint_every, limit), **options)

    return cast(Command, log(checkpoints(memory(with_how))))


_OVERRIDES = {
    "rank": (int, "Columns per entity"),
    "sweeps": (int, "Sweeps at most"),
    "seed": (int, "Seed of the start values"),
    "schedule": (str, "parallel or sequential"),
    "tolerance": (float, "Stop when sweeps gain less than this fraction"),
    "dtype": (str, "float32 or float64"),
}


def training_options(command: Command) -> Command:
    """One option per training setting that may be overridden, and the placement's scheme."""
    scheme = "On a cluster: 'shards', or as published 'owner', each worker walking whole relations."
    command = click.option("--placement", help=f"{scheme} By default what the data set says.")(command)
    for name, (kind, text) in reversed(_OVERRIDES.items()):
        option = click.option(f"--{name}", type=kind, help=f"{text}; by default what the data set says.")
        command = option(command)
    return command


def with_training(dataset: Dataset, overrides: dict[str, Any]) -> Dataset:
    """The data set with the training settings that were given; those left out are None."""
    from hyperlearn_dask.config import placement_from, training_from

    if scheme := overrides.pop("placement", None):
        placement = dataclasses.asdict(dataset.placement) | {"scheme": scheme}
        dataset = dataclasses.replace(dataset, placement=placement_from(placement, dataset.modalities))
    given = {name: value for name, value in overrides.items() if value is not None}
    if not given:
        return dataset
    settings = dataclasses.asdict(dataset.training)
    groups = settings["groups"]
    if "rank" in given:
        if list(groups) != ["all"]:
            named = ", ".join(f"{name} = {width}" for name, width in groups.items())
            raise InputError(
                f"the data set's columns come in groups of their own ({named}); change them in dataset.toml",
                key="--rank",
            )
        del settings["groups"]
    return dataclasses.replace(dataset, training=training_from(settings | given))


def pairs(values: Iterable[str]) -> dict[str, str]:
    """Texts of the form NAME=VALUE as a dict."""
    found = {}
    for value in values:
        name, equals, right = value.partition("=")
        if not equals or not name or not right:
            raise click.BadParameter(f"'{value}' is not of the form NAME=VALUE")
        if name in found:
            raise click.BadParameter(f"'{name}' is given twice")
        found[name] = right
    return found


def model_path(path: Path) -> Path:
    """The model's store, given itself or the folder that ``run`` left it in."""
    from pipeline.stages import MODEL

    if (path / MODEL).exists():
        return path / MODEL
    if path.is_dir() and not (path / "zarr.json").exists():
        raise InputError(f"no {MODEL} in this folder; make one: hyperlearn run DATASET --out DIR", file=path)
    return path
