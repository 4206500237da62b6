"""The files a ``dataset.toml`` names: they exist, and their names say what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperlearn_dask.config.section import Section, shown, unknown
from hyperlearn_dask.config.specs import TableSpec

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tns": "tns",
}
NOWHERE = TableSpec(Path(), "csv")  # in place of a table that is wrong, lest its absence be noted too


class Files:
    """Names of files, as found from the folder of the ``dataset.toml``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def table(
        self, section: Section, key: str, missing: str | None = None, *, tns: bool = False
    ) -> TableSpec | None:
        """The table a key names; ``tns``: whether a tensor of numbers will do.

        None where there is none and may be none, :data:`NOWHERE` where that is a mistake.
        """
        name = section.text(key, missing)
        if name is None:
            return NOWHERE if key in section or missing is not None else None
        return self._table(section, name, tns, key)

    def tables(self, section: Section, key: str) -> tuple[TableSpec, ...]:
        """The table or the list of tables a key names."""
        value: Any = section.take(key)
        if isinstance(value, str):
            return (self._table(section, value, False, key),)
        names = section.texts(key, value)
        return tuple(self._table(section, name, False, key, at) for at, name in enumerate(names))

    def npy(self, section: Section, key: str) -> Path | None:
        """The .npy file a key names."""
        name = section.text(key)
        if name is None:
            return None
        if not name.lower().endswith(".npy"):
            section.wrong(f"expected a .npy file, got {shown(name)}", key)
            return None
        return self._find(section, name, key)

    def _table(self, section: Section, name: str, tns: bool, *keys: str | int) -> TableSpec:
        stem, gzipped = name.lower(), False
        if stem.endswith(".gz"):
            stem, gzipped = stem[:-3], True
        extension = Path(stem).suffix
        valid = [ext for ext in FORMATS if tns or ext != ".tns"]
        if extension not in valid:
            told = f"{shown(name)} is no table"
            if extension == ".tns":
                told += " with named columns"
            section.wrong(f"{told} (expected {', '.join(valid)}, all but .parquet also with .gz)", *keys)
            return NOWHERE
        if gzipped and extension == ".parquet":
            section.wrong("Parquet files are compressed inside; expected .parquet without .gz", *keys)
            return NOWHERE
        return TableSpec(self._find(section, name, *keys) or Path(), FORMATS[extension], gzipped)

    def _find(self, section: Section, name: str, *keys: str | int) -> Path | None:
        path = self.folder / name
        try:
            if path.is_file():
                return path
            folder = path.is_dir()
            siblings = sorted(entry.name for entry in path.parent.iterdir() if entry.is_file())
        except (OSError, ValueError):  # no such folder, no right to look, or no possible file name
            section.wrong(f"no file {shown(name)} in {self.folder}", *keys)
            return None
        if folder:
            section.wrong(f"{shown(name)} is a folder, expected a file", *keys)
            return None
        problem = f"no file {shown(path.name)} in {path.parent}"
        # Name the files there only where one of them was probably meant.
        hint = unknown("", path.name, siblings).split(" (expected")[0]
        section.wrong(problem + hint, *keys)
        return None
