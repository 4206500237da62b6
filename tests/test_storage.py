import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.storage import (
    create_artefact,
    hash_arrays,
    hash_file,
    hash_of,
    link_unit,
    open_artefact,
    read_array,
    read_runs,
    recover,
    replacing,
    write_array,
)
from hyperlearn_dask.storage.chunks import Chunks

FORMAT = "test-format"


def make(path, data=None):
    with replacing(path) as staging:
        group = create_artefact(staging, FORMAT)
        write_array(group, "x", np.arange(10.0) if data is None else data)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "data",
    [
        np.arange(2_500_000, dtype=np.int32),  # several chunks
        np.zeros(1_200_000),  # nothing but fill values
        np.arange(12.0).reshape(4, 3),
        np.zeros(0),
        np.zeros((0, 3)),
        np.array(["a", "", "Gogh, Vincent van", "北斎"]),
        np.array([], dtype=str),
    ],
    ids=["chunks", "zeros", "matrix", "empty", "empty matrix", "text", "no text"],
)
def test_arrays_come_back(tmp_path, data):
    make(tmp_path / "a.zarr", data)
    found = read_array(open_artefact(tmp_path / "a.zarr", FORMAT), "x")
    assert found.shape == data.shape
    assert found.tolist() == data.tolist()
    if data.dtype.kind != "U":
        assert found.dtype == data.dtype


def test_a_range_is_read(tmp_path):
    data = np.arange(2_500_000)
    make(tmp_path / "a.zarr", data)
    group = open_artefact(tmp_path / "a.zarr", FORMAT)
    np.testing.assert_array_equal(read_array(group, "x", 1_048_570, 1_048_580), data[1_048_570:1_048_580])
    np.testing.assert_array_equal(read_array(group, "x", 2_499_999), data[2_499_999:])
    assert len(read_array(group, "x", 5, 5)) == 0


@pytest.mark.parametrize("data", [np.zeros(2_000_000), np.arange(2_000_000), np.array(["abc", "def"])])
def test_a_flipped_byte_is_found(tmp_path, data):
    make(tmp_path / "a.zarr", data)
    flip(tmp_path / "a.zarr" / "x" / "c" / "0")
    with pytest.raises(InputError, match=r"a\.zarr: 'x' is damaged"):
        read_array(open_artefact(tmp_path / "a.zarr", FORMAT), "x")


def test_a_missing_chunk_is_found_where_it_matters(tmp_path):
    make(tmp_path / "a.zarr", np.arange(2_000_000))
    (tmp_path / "a.zarr" / "x" / "c" / "1").unlink()
    group = open_artefact(tmp_path / "a.zarr", FORMAT)
    with pytest.raises(InputError, match=r"'x' lacks its chunk 1"):
        read_array(group, "x")
    assert read_array(group, "x", 0, 10).tolist() == list(range(10))


def test_runs_are_those_rows_and_no_chunk_is_decoded_twice(tmp_path, monkeypatch):
    data = np.arange(2_500_000)
    make(tmp_path / "a.zarr", data)
    group = open_artefact(tmp_path / "a.zarr", FORMAT)
    decoded = []
    decode = Chunks._decode
    monkeypatch.setattr(
        Chunks, "_decode", lambda self, number, into: decoded.append(number) or decode(self, number, into)
    )
    bounds = [700, 700, 5000, 1 << 20, 1_100_000, 2_400_000, 2_400_000, 2_500_000]
    runs = list(read_runs(group, "x", bounds))
    for run, start, stop in zip(runs, bounds[:-1], bounds[1:], strict=True):
        np.testing.assert_array_equal(run, data[start:stop])
    assert decoded == [0, 1, 2]


def test_damage_is_found_in_the_run_that_has_it(tmp_path):
    make(tmp_path / "a.zarr", np.arange(2_000_000))
    flip(tmp_path / "a.zarr" / "x" / "c" / "1")
    runs = read_runs(open_artefact(tmp_path / "a.zarr", FORMAT), "x", [0, 10, 1_500_000])
    assert len(next(runs)) == 10
    with pytest.raises(InputError, match=r"'x' is damaged"):
        next(runs)


def test_a_truncated_chunk_and_a_missing_array_are_found(tmp_path):
    make(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "x" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:2])
    group = open_artefact(tmp_path / "a.zarr", FORMAT)
    with pytest.raises(InputError, match="'x' is damaged"):
        read_array(group, "x")
    with pytest.raises(InputError, match="'y' is missing"):
        read_array(group, "y")


def foreign(path: Path, kind: str) -> None:
    if kind == "missing":
        return
    if kind == "file":
        path.write_bytes(b"PK\x03\x04 a zip file")
    elif kind == "folder":
        path.mkdir()
    elif kind == "plain zarr":
        zarr.create_group(store=str(path), zarr_format=3)
    elif kind == "array":
        zarr.create_array(store=str(path), shape=(3,), dtype=float)
    elif kind == "zarr 2":
        zarr.create_group(store=str(path), zarr_format=2)
    elif kind == "other format":
        create_artefact(path, "another-format")
    elif kind == "newer":
        zarr.create_group(store=str(path), zarr_format=3, attributes={"format": FORMAT, "version": 99})
    else:
        path.mkdir()
        (path / "zarr.json").write_text({"broken": "{", "no json object": "[]", "not text": "\x00"}[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("file", "is a file and no folder"),
        ("folder", "is a folder without zarr.json"),
        ("plain zarr", "is a Zarr store from elsewhere"),
        ("array", "is no readable Zarr group"),
        ("zarr 2", "is a folder without zarr.json"),
        ("other format", "is a another-format store"),
        ("newer", "has format version 99"),
        ("broken", "is no readable Zarr group"),
        ("no json object", "is no readable Zarr group"),
        ("not text", "is no readable Zarr group"),
    ],
)
def test_a_store_from_elsewhere_is_one_line(tmp_path, kind, message):
    path = tmp_path / "a.zarr"
    foreign(path, kind)
    with pytest.raises(InputError, match=message) as caught:
        open_artefact(path, FORMAT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replacing_leaves_only_the_result(tmp_path):
    path = tmp_path / "out" / "deep" / "a.zarr"
    make(path)
    make(path, np.arange(3.0))
    assert read_array(open_artefact(path, FORMAT), "x").tolist() == [0, 1, 2]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.zarr"]


def test_replacing_works_for_files(tmp_path):
    for content in ("one", "two"):
        with replacing(tmp_path / "a.json") as staging:
            staging.write_text(content)
    assert (tmp_path / "a.json").read_text() == "two"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), InputError("no")])
def test_a_failure_changes_nothing(tmp_path, error):
    path = tmp_path / "a.zarr"
    make(path)
    with pytest.raises(type(error)), replacing(path) as staging:
        create_artefact(staging, FORMAT)
        raise error
    assert len(read_array(open_artefact(path, FORMAT), "x")) == 10
    assert names(tmp_path) == ["a.zarr"]


def test_a_failure_leaves_no_folders(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "new" / "folders" / "a.zarr"):
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(tmp_path):
    full = pytest.raises(InputError, match="no space left on the device while writing")
    with full as caught, replacing(tmp_path / "a.zarr") as staging:
        staging.mkdir()
        (staging / "part").write_text("x")
        Path("/dev/full").write_bytes(bytes(1 << 20))
    assert str(tmp_path / "a.zarr") in str(caught.value)
    assert names(tmp_path) == []


def test_a_disk_that_fills_while_zarr_writes(tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    usual = LocalStore.set

    async def full(self, key, value, *args, **more):
        if "/c/" in key:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        await usual(self, key, value, *args, **more)

    make(tmp_path / "a.zarr")
    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(InputError, match="no space left on the device"):
        make(tmp_path / "a.zarr", np.zeros(3))
    assert len(read_array(open_artefact(tmp_path / "a.zarr", FORMAT), "x")) == 10


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(InputError, match=r"while writing .*out/a\.zarr"):
        make(tmp_path / "out" / "a.zarr")


GONE = 2**22 + 1  # larger than any process id


def test_an_interruption_between_the_renames_is_mended(tmp_path):
    path = tmp_path / "a.zarr"
    make(path)
    path.rename(tmp_path / f".a.zarr.old-{GONE}")
    (tmp_path / f".a.zarr.partial-{GONE}").mkdir()
    assert len(read_array(open_artefact(path, FORMAT), "x")) == 10
    assert names(tmp_path) == ["a.zarr"]


def test_leftovers_are_removed_but_not_those_of_others(tmp_path):
    make(tmp_path / "a.zarr")
    alive = tmp_path / f".a.zarr.partial-{os.getppid()}"
    for folder in (tmp_path / f".a.zarr.old-{GONE}", tmp_path / f".a.zarr.partial-{GONE}", alive):
        folder.mkdir()
    recover(tmp_path / "a.zarr")
    assert names(tmp_path) == [alive.name, "a.zarr"]


def test_units_are_linked_or_copied(tmp_path, monkeypatch):
    old, new, copied = (tmp_path / name for name in ("old.zarr", "new.zarr", "copied.zarr"))
    group = create_artefact(old, FORMAT).create_group("relations/made", attributes={"digest": "d"})
    write_array(group, "x", np.arange(5))
    for path in (new, copied):
        create_artefact(path, FORMAT).create_group("relations")
    link_unit(old, new, "relations/made")
    assert (old / "relations/made/x/c/0").samefile(new / "relations/made/x/c/0")

    def refuse(*paths):
        raise OSError(errno.EXDEV, "cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_unit(old, copied, "relations/made")
    for path in (new, copied):
        unit = open_artefact(path, FORMAT)["relations/made"]
        assert unit.attrs["digest"] == "d"
        assert read_array(unit, "x").tolist() == [0, 1, 2, 3, 4]


@dataclass(frozen=True)
class Spec:
    path: Path
    numbers: tuple[int, ...] = (1, 2)


def test_hashes_tell_what_matters(tmp_path):
    assert hash_of(Spec(Path("/a/x.csv"))) == hash_of(Spec(Path("/b/x.csv")))
    different = [
        Spec(Path("y")),
        Spec(Path("x"), (2, 1)),
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},
        "1",
        1,
        1.5,
        None,
    ]
    assert len({hash_of(value) for value in different}) == len(different)
    with pytest.raises(TypeError):
        hash_of(object())
    text = np.array(["a", "bc"])
    assert hash_arrays(text) == hash_arrays(text.astype(np.dtypes.StringDType()))
    assert hash_arrays(text) != hash_arrays(np.array(["ab", "c"]))
    assert hash_arrays(np.zeros(2)) != hash_arrays(np.zeros(2, np.float32))
    assert hash_arrays(np.zeros((2, 3))) != hash_arrays(np.zeros((3, 2)))
    (tmp_path / "x").write_text("x")
    assert hash_file(tmp_path / "x").startswith("2d711642b726b044")
    with pytest.raises(InputError, match="cannot be read"):
        hash_file(tmp_path / "y")


def test_arrays_of_another_make_are_left_to_zarr(tmp_path):
    data = np.arange(24.0).reshape(6, 4)
    with replacing(tmp_path / "a.zarr") as staging:
        group = create_artefact(staging, FORMAT)
        ours = (BloscCodec(cname="lz4"), Crc32cCodec())
        big = BytesCodec(endian="big")
        group.create_array("columns", data=data, chunks=(4, 2), compressors=ours)
        group.create_array("turned", data=data, chunks=(4, 4), compressors=ours, serializer=big)
        group.create_array("plain", data=data, chunks=(4, 4), compressors=None)
    group = open_artefact(tmp_path / "a.zarr", FORMAT)
    for name in ("columns", "turned", "plain"):
        np.testing.assert_array_equal(read_array(group, name, 1, 5), data[1:5])


def test_a_chunk_of_another_array_is_found(tmp_path):
    with replacing(tmp_path / "a.zarr") as staging:
        group = create_artefact(staging, FORMAT)
        write_array(group, "x", np.arange(10.0))
        write_array(group, "y", np.arange(20.0))
    (tmp_path / "a.zarr/y/c/0").replace(tmp_path / "a.zarr/x/c/0")
    with pytest.raises(InputError, match="'x' is missing or damaged"):
        read_array(open_artefact(tmp_path / "a.zarr", FORMAT), "x")
