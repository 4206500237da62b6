"""What is kept on disk: Zarr v3 stores that are written whole or not at all and read with suspicion."""

from hyperlearn_dask.storage.arrays import read_array, read_runs, write_array
from hyperlearn_dask.storage.artefacts import (
    Progress,
    UnitReport,
    child_group,
    create_artefact,
    link_unit,
    open_artefact,
)
from hyperlearn_dask.storage.hashes import hash_arrays, hash_file, hash_of
from hyperlearn_dask.storage.whole import recover, remove, replacing

__all__ = [
    "Progress",
    "UnitReport",
    "child_group",
    "create_artefact",
    "hash_arrays",
    "hash_file",
    "hash_of",
    "link_unit",
    "open_artefact",
    "read_array",
    "read_runs",
    "recover",
    "remove",
    "replacing",
    "write_array",
]
