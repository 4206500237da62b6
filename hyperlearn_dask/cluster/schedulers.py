"""A client by the name of its scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlearn_dask.cluster.attach import (
    CONNECT_SECONDS,
    PROTOCOLS,
    attach,
    is_scheduler_file,
    read_scheduler_file,
)
from hyperlearn_dask.cluster.certificates import Tls
from hyperlearn_dask.cluster.local import local_cluster
from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

_OURS = ("local", "cuda")


@contextlib.contextmanager
def open_scheduler(
    scheduler: str,
    modalities: Sequence[str],
    *,
    workers: int | None = None,
    tls: Tls | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Client | None]:
    """A Dask client for as long as it is needed; a cluster started here ends with it.

    Parameters
    ----------
    scheduler
        ``none``: no cluster, the client is None. ``local``: worker processes on this machine, bound
        to 127.0.0.1. ``cuda``: one worker per GPU of this machine. ``tcp://HOST:PORT`` or
        ``tls://HOST:PORT``: a scheduler that is already there, or the file it has written.
    modalities
        The modalities that workers own, one each; with fewer workers some own several, with more the
        others hold shards only.
    workers
        How many workers ``local`` starts; by default one per modality and at most ``MOST_WORKERS``.
    tls
        Certificates: temporary ones for ``local`` and ``cuda``, given ones for all.
    tell
        Called with a line about the cluster that was opened, with the addresses of the dashboard and of
        our own page on it, which is put there.

    Raises
    ------
    InputError
        When the name is unknown, the scheduler cannot be reached within ``CONNECT_SECONDS`` or has
        no workers, ``cuda`` is asked for where it cannot be had, or a certificate is none.
    """
    tls = tls or Tls()
    check_scheduler(scheduler, workers, tls)
    if scheduler == "none":
        yield None
        return
    from dask import config
    from distributed import Client

    # After a worker's death others try to reach it for this long before they go on: by default 30 s.
    with contextlib.ExitStack() as stack:
        stack.enter_context(config.set({"distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}))
        certificates = stack.enter_context(tls.certificates())
        if scheduler in _OURS:
            security = None if certificates is None else certificates.security()
            cluster = local_cluster(scheduler, modalities, workers=workers, security=security)
            stack.enter_context(cluster)
            client = Client(cluster, set_as_default=False)
        elif is_scheduler_file(scheduler):
            address, named = read_scheduler_file(Path(scheduler))
            client = attach(address, certificates or named)
        else:
            client = attach(scheduler, certificates)
        stack.enter_context(client)
        if tell is not None:
            from hyperlearn_dask.monitor.post import add_page

            count, page = len(client.scheduler_info(n_workers=-1)["workers"]), add_page(client)
            training = "" if page is None else f", training at {page}"
            tell(f"{count} Dask worker{'s' * (count != 1)}, dashboard at {client.dashboard_link}{training}")
        yield client


def check_scheduler(scheduler: str, workers: int | None = None, tls: Tls | None = None) -> None:
    """Refuse a scheduler that is none, and what does not go with it, without trying to reach it."""
    if (
        scheduler not in ("none", *_OURS)
        and not scheduler.startswith(PROTOCOLS)
        and not is_scheduler_file(scheduler)
    ):
        raise InputError(
            f"unknown scheduler '{scheduler}' (expected none, local, cuda, tcp://HOST:PORT, tls://HOST:PORT "
            "or a scheduler file)",
            key="--scheduler",
        )
    if workers is not None and scheduler != "local":
        raise InputError(f"goes with --scheduler local only, not with '{scheduler}'", key="--workers")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers are too few (expected 1 or more)", key="--workers")
    if tls is not None and tls.temporary and scheduler not in _OURS:
        raise InputError(
            f"makes certificates for --scheduler local and cuda, not for '{scheduler}'", key="--tls"
        )
    if tls is not None and tls.given and scheduler == "none":
        raise InputError("encrypt a cluster; there is none without --scheduler", key="--tls-ca, -cert, -key")
