"""A client of a scheduler that somebody else has started, found by its address or its file."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlearn_dask.cluster.certificates import Certificates
from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_SECONDS = 3
PROTOCOLS = ("tcp://", "tls://")


def attach(address: str, certificates: Certificates | None) -> Client:
    """A client of the scheduler at an address; certificates that are not given are those of Dask's settings.

    Raises
    ------
    InputError
        When it cannot be reached within ``CONNECT_SECONDS``, or has no workers.
    """
    from distributed import Client
    from distributed.security import Security

    security = Security() if certificates is None else certificates.security()
    if address.startswith("tls://") and not security.tls_ca_file:
        raise InputError("needs certificates: --tls-ca, --tls-cert, --tls-key", key=address)
    if address.startswith("tcp://") and certificates is not None:
        raise InputError("is not encrypted; certificates go with a tls:// address", key=address)
    # A client that fails to connect makes noise when it is collected: see first who is there.
    try:
        asyncio.run(asyncio.wait_for(_greet(address, security), CONNECT_SECONDS + 1))
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            f"no Dask scheduler can be reached there ({_reason(address, error)})", key=address
        ) from error
    client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, security=security)
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise InputError("the scheduler has no workers; start one with: dask worker ADDRESS", key=address)
    return client


def is_scheduler_file(scheduler: str) -> bool:
    """Whether this is a file, rather than the name or address of a scheduler."""
    return not scheduler.startswith(PROTOCOLS) and Path(scheduler).is_file()


def read_scheduler_file(path: Path) -> tuple[str, Certificates | None]:
    """The address in a scheduler file of ours or Dask's, and the certificates if ours names them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        address = content["address"]
        tls = content.get("tls")
        certificates = None if tls is None else Certificates(**{part: Path(tls[part]) for part in tls})
    except (ValueError, KeyError, TypeError, AttributeError):
        address = None
    if not isinstance(address, str) or not address.startswith(PROTOCOLS):
        raise InputError("is no scheduler file, of hyperlearn cluster or of dask scheduler", file=path)
    return address, certificates


async def _greet(address: str, security: Security) -> None:
    from distributed.comm import connect
    from distributed.core import rpc

    arguments = security.get_connection_args("client")
    comm = await connect(address, timeout=CONNECT_SECONDS, **arguments)
    await comm.close()
    async with rpc(address, connection_args=arguments) as other:
        if (await other.identity())["type"] != "Scheduler":
            raise ValueError("a Dask worker answers and no scheduler; give the scheduler's address")


def _reason(address: str, error: Exception) -> str:
    """The most telling words: the system's, TLS's, or those of the error."""
    from distributed.comm import get_address_host_port

    try:
        place = get_address_host_port(address)
        socket.create_connection(place, timeout=1).close()
    except OSError as refused:
        return refused.strerror or str(refused)
    except ValueError:
        return str(error)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return f"no TLS connection: {(cause.reason or str(cause)).lower().replace('_', ' ')}"
    if address.startswith("tcp://") and _speaks_tls(place):
        return "it speaks TLS only: use its tls:// address, with --tls-ca, --tls-cert and --tls-key"
    return str(error) or f"nothing that speaks its language answers within {CONNECT_SECONDS} s"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _speaks_tls(place: tuple[str, int]) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who it is does not matter here: nothing is sent
    try:
        with socket.create_connection(place, timeout=1) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False
