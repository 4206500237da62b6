"""TLS between client, scheduler and workers, with certificates that are given or made for the occasion.

Every side shows a certificate and accepts only those that the one authority has signed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperlearn_dask.errors import InputError

if TYPE_CHECKING:
    from distributed.security import Security

_PREFIX = "hyperlearn-tls-"


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority that all sides trust, and a certificate it has signed with its key."""

    ca: Path
    cert: Path
    key: Path

    def security(self) -> Security:
        """What Dask needs to encrypt every connection; unencrypted ones are refused.

        Raises
        ------
        InputError
            When a file is not there or not what it should be, or needs a password.
        """
        from distributed.security import Security

        for option, path in self._files.items():
            if not path.is_file():
                raise InputError("there is no such file", file=path, key=option)
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError:
            raise InputError("holds no certificate in PEM format", file=self.ca, key="--tls-ca") from None
        try:
            context.load_cert_chain(self.cert, self.key, password="")  # never asks for one
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise InputError(
                    f"is not the key of the certificate {self.cert}", file=self.key, key="--tls-key"
                ) from None
            raise InputError(
                f"with {self.key} it is no certificate and key in PEM format without a password",
                file=self.cert,
                key="--tls-cert",
            ) from None
        sides = ("client", "scheduler", "worker")
        return Security(
            require_encryption=True,
            tls_ca_file=str(self.ca),
            **{f"tls_{side}_cert": str(self.cert) for side in sides},
            **{f"tls_{side}_key": str(self.key) for side in sides},
        )

    @property
    def _files(self) -> dict[str, Path]:
        return {"--tls-ca": self.ca, "--tls-cert": self.cert, "--tls-key": self.key}


@dataclass(frozen=True)
class Tls:
    """What is asked for: temporary certificates, given ones, or neither."""

    temporary: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __bool__(self) -> bool:
        return self.temporary or self.given

    @property
    def given(self) -> bool:
        return any((self.ca, self.cert, self.key))

    @contextlib.contextmanager
    def certificates(self) -> Iterator[Certificates | None]:
        """The certificates that are asked for; temporary ones are gone at the end."""
        if self.temporary and self.given:
            raise InputError("makes temporary certificates; leave out either it or the files", key="--tls")
        if self.temporary:
            with temporary_certificates() as made:
                yield made
        elif self.ca and self.cert and self.key:
            yield Certificates(self.ca.absolute(), self.cert.absolute(), self.key.absolute())
        elif self.given:
            files = {"--tls-ca": self.ca, "--tls-cert": self.cert, "--tls-key": self.key}
            missing = ", ".join(option for option, path in files.items() if path is None)
            raise InputError(f"is missing; {', '.join(files)} go together", key=missing)
        else:
            yield None


@contextlib.contextmanager
def temporary_certificates() -> Iterator[Certificates]:
    """A certificate that signs itself, in a folder that only this user can look into.

    Raises
    ------
    InputError
        When the package that makes certificates is not installed.
    """
    if importlib.util.find_spec("cryptography") is None:
        raise InputError(
            "needs the package cryptography (pip install 'hyperlearn-dask[tls]'), or give certificates: "
            "--tls-ca, --tls-cert, --tls-key",
            key="--tls",
        )
    from distributed.security import Security

    made = Security.temporary()
    with _private_folder() as folder:
        files = Certificates(*(folder / f"{part}.pem" for part in ("ca", "cert", "key")))
        _write_private(files.ca, made.tls_ca_file)
        _write_private(files.cert, made.tls_scheduler_cert)
        _write_private(files.key, made.tls_scheduler_key)
        yield files


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can look into; those that killed processes have left are deleted.

    It is locked for as long as it is used, by the open folder itself: the system takes the lock away
    from a process that is killed, and it counts between containers that share their temporary files.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _delete_if_left(folder)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as made:  # with mode 0700
        handle = os.open(made, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # where there are no locks, nobody deletes it either
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(made)
        finally:
            os.close(handle)


def _delete_if_left(folder: Path) -> None:
    """Delete a folder of ours that is locked no more; one that is empty may not be locked yet."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is gone, or somebody else's
        return
    try:
        with contextlib.suppress(OSError):  # it is in use
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_uid == os.getuid() and any(os.scandir(handle)):
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _write_private(path: Path, text: str) -> None:
    """Write a file that nobody else could read at any time."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
