"""A local cluster for others to attach to, and the file that tells them where it is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlearn_dask.cluster.attach import read_scheduler_file
from hyperlearn_dask.cluster.certificates import Certificates, Tls
from hyperlearn_dask.cluster.local import Listening, local_cluster
from hyperlearn_dask.errors import InputError, refuse_foreign

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Served:
    """A cluster that runs: a client of it, the scheduler's address, the certificates it asks for.

    ``page``: the address of our page on the dashboard, where it could be put there.
    """

    client: Client
    address: str
    dashboard: str
    page: str | None
    certificates: Certificates | None

    def workers(self) -> dict[str, list[str]]:
        """What each worker owns, by its address."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: sorted(worker["resources"]) for address, worker in workers.items()}


@contextlib.contextmanager
def serving(
    kind: str,
    modalities: Sequence[str],
    *,
    workers: int | None = None,
    tls: Tls | None = None,
    listening: Listening | None = None,
    scheduler_file: Path | None = None,
) -> Iterator[Served]:
    """A cluster on this machine, for as long as the context lasts.

    Parameters
    ----------
    kind, modalities, workers
        See :func:`local_cluster`.
    scheduler_file
        Written when the cluster is up, removed at its end: what ``--scheduler`` takes. It names the
        certificates but does not hold them.

    Raises
    ------
    InputError
        When a port is taken, the scheduler file is something else, or as :func:`local_cluster`.
    """
    from distributed import Client

    from hyperlearn_dask.monitor.post import add_page

    listening = listening or Listening()
    if scheduler_file is not None:
        refuse_foreign(scheduler_file, "scheduler file", _is_scheduler_file)
    with contextlib.ExitStack() as stack:
        certificates = stack.enter_context((tls or Tls()).certificates())
        security = None if certificates is None else certificates.security()
        _require_free(listening.host, listening.port, "--port")
        _require_free(listening.host, listening.dashboard_port, "--dashboard-port")
        cluster = local_cluster(kind, modalities, workers=workers, security=security, listening=listening)
        stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        served = Served(
            client, cluster.scheduler_address, client.dashboard_link, add_page(client), certificates
        )
        if scheduler_file is not None:
            stack.enter_context(_written(scheduler_file, served))
        yield served


def _is_scheduler_file(path: Path) -> bool:
    try:
        read_scheduler_file(path)
    except InputError:
        return False
    return True


@contextlib.contextmanager
def _written(path: Path, served: Served) -> Iterator[None]:
    """A scheduler file, as Dask's own tools read it as well; whoever sees it sees all of it."""
    content: dict[str, Any] = {"type": "Scheduler", "address": served.address}
    if served.certificates is not None:
        content["tls"] = {part: str(file) for part, file in dataclasses.asdict(served.certificates).items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _require_free(host: str, port: int, option: str) -> None:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot listen at {host}:{port} ({reason}); 0 takes any free port", key=option
        ) from None
