"""Certificates are checked before they are used, and nothing on disk is ever unpickled."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from hyperlearn_dask.cluster import Tls, check_scheduler, open_scheduler
from hyperlearn_dask.cluster.certificates import Certificates, temporary_certificates
from hyperlearn_dask.errors import InputError
from tests.test_layering import modules

# What executes, or makes objects from, whatever a file holds.
UNPICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "numcodecs"}
BYTES_TO_BYTES = {"numcodecs.blosc"}
READS_PICKLES = {"read_pickle", "memmap", "fromfile", "unpickle", "loadtxt"}


def copied(made: Certificates, folder: Path) -> Certificates:
    """The files in another folder, to be spoiled."""
    folder.mkdir()
    return Certificates(*(Path(shutil.copy(getattr(made, part), folder)) for part in ("ca", "cert", "key")))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    with temporary_certificates() as made:
        return copied(made, tmp_path / "own")


@pytest.fixture
def foreign(tmp_path: Path) -> Certificates:
    with temporary_certificates() as made:
        return copied(made, tmp_path / "foreign")


def test_good_certificates_require_encryption(certificates: Certificates) -> None:
    security = certificates.security()
    assert security.require_encryption
    assert security.get_connection_args("client")["ssl_context"] is not None


@pytest.mark.parametrize("part", ["ca", "cert", "key"])
def test_a_missing_or_empty_file_is_named(certificates: Certificates, part: str) -> None:
    path = getattr(certificates, part)
    path.write_text("no certificate\n")
    with pytest.raises(InputError, match=f"{part}.pem.*PEM format"):
        certificates.security()
    path.unlink()
    with pytest.raises(InputError, match=f"{part}.pem, --tls-{part}: there is no such file"):
        certificates.security()


def test_somebody_elses_key_is_refused(certificates: Certificates, foreign: Certificates) -> None:
    with pytest.raises(InputError, match=r"foreign/key.pem, --tls-key: is not the key of the certificate"):
        replace(certificates, key=foreign.key).security()


def test_certificates_that_a_killed_process_left_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "hyperlearn-tls-left"  # nobody holds its lock any more
    left.mkdir()
    (left / "key.pem").write_text("secret\n")
    with temporary_certificates() as others:
        assert not left.exists()
        with temporary_certificates() as ours:
            assert others.key.is_file() and ours.key.is_file()
            assert ours.key.parent.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())


def test_without_the_package_temporary_certificates_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cryptography" else find(name)
    )
    with pytest.raises(InputError, match=r"hyperlearn-dask\[tls\]"), Tls(temporary=True).certificates():
        pass


@pytest.mark.parametrize(
    ("scheduler", "tls", "says"),
    [
        ("none", Tls(temporary=True), "--tls: makes certificates for --scheduler local and cuda"),
        ("tcp://h:1", Tls(temporary=True), "--tls: makes certificates for --scheduler local and cuda"),
        ("none", Tls(ca=Path("ca.pem")), "there is none without --scheduler"),
    ],
)
def test_certificates_go_with_a_cluster(scheduler: str, tls: Tls, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_scheduler(scheduler, tls=tls)


@pytest.mark.parametrize("content", ["", "[]", '{"address": 3}', '{"address": "http://h:1"}', '{"tls": {}}'])
def test_a_file_that_is_no_scheduler_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(content)
    with (
        pytest.raises(InputError, match=r"cluster\.json: is no scheduler file"),
        open_scheduler(str(file), ["a"]),
    ):
        pass


def test_a_scheduler_file_may_name_certificates_that_are_gone(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    tls = {part: str(tmp_path / f"{part}.pem") for part in ("ca", "cert", "key")}
    file.write_text(json.dumps({"address": "tls://127.0.0.1:1", "tls": tls}))
    with pytest.raises(InputError, match=r"ca\.pem.*no such file"), open_scheduler(str(file), ["a"]):
        pass


def test_strangers_are_refused_by_a_cluster_with_given_certificates(
    certificates: Certificates, foreign: Certificates
) -> None:
    own = Tls(ca=certificates.ca, cert=certificates.cert, key=certificates.key)
    with open_scheduler("local", ["a"], workers=1, tls=own) as client:
        assert client is not None
        address = client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        with open_scheduler(address, [], tls=own) as other:
            assert other is not None
            assert other.submit(sum, (1, 2)).result() == 3
        strange = Tls(ca=foreign.ca, cert=foreign.cert, key=foreign.key)
        with (
            pytest.raises(InputError, match="no TLS connection: certificate verify failed"),
            open_scheduler(address, [], tls=strange),
        ):
            pass
        with pytest.raises(InputError, match="speaks TLS only"), open_scheduler("tcp" + address[3:], []):
            pass


@pytest.mark.parametrize("module", modules())
def test_nothing_that_lies_on_disk_is_unpickled(module: str) -> None:
    for node in ast.walk(modules()[module]):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & UNPICKLES
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).split(".")[0] not in UNPICKLES or node.module in BYTES_TO_BYTES
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in READS_PICKLES
            if ast.unparse(node.func) in ("np.load", "numpy.load"):
                assert "allow_pickle=False" in ast.unparse(node)
