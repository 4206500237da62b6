"""Which relations are held in memory while training, and which are read shard by shard in every pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import numpy as np

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.training.executor import ShardPlace
from hyperlearn_dask.training.memory import memory_left
from hyperlearn_dask.training.placing.placement import cut

# The part of the limit that entries may take; factors, private outputs and graphs have the rest.
SHARE = 0.5
# Shards of a streamed relation that fit that part together: one is worked on, one read, one made ready.
# Besides them, reading holds where rows begin, and of each array the chunk that a shard ends in, about a
# million entries, which is little beside shards that are worth streaming.
IN_FLIGHT = 4

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str) -> int:
    """A size such as ``2GiB``, ``500 MB`` or ``1000000`` in bytes.

    >>> bytes_of("1.5KiB")
    1536
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    size = 0 if found is None else int(float(found[1]) * _UNITS[found[2] or ""])
    if size < 1:
        raise InputError(f"'{text}' is no size of memory (expected one like 2GiB or 500MB)")
    return size


def streams(
    hypergraph: Hypergraph,
    dtype: str,
    limit: int | None = None,
    tell: Callable[[str], None] | None = None,
    held: Collection[str] = (),
) -> dict[str, list[ShardPlace]]:
    """The relations that do not fit, and the shards they are read in.

    Those that have to be ``held`` are, then small ones. One that lives in memory only is there already and
    stays.

    Parameters
    ----------
    limit
        Bytes of memory; by default what is left of the machine's.
    tell
        Hears a line for every relation that is streamed.
    """
    if hypergraph.path is None:
        return {}
    from hyperlearn_dask.hypergraph.store import read_indptr  # Zarr is heavy, and not needed without a store

    limit = memory_left() if limit is None else limit
    left, found = SHARE * limit, {}
    for name, relation in sorted(
        hypergraph.relations.items(), key=lambda item: (item[0] not in held, item[1].nnz)
    ):
        size = _size(relation, dtype)
        if size <= left or name in held:
            left -= size
            continue
        pieces = min(-(-size * IN_FLIGHT // max(1, int(SHARE * limit))), max(1, relation.nnz))
        sort_mode = int(np.argmax(relation.shape))
        indptr = read_indptr(hypergraph.path, name)
        found[name] = cut({name: indptr}, {name: sort_mode}, int(pieces), {})
        if tell is not None:
            tell(
                f"streaming relation '{name}' in {len(found[name])} shards: its {_shown(size)} do not fit "
                f"the half of {_shown(limit)} of memory that entries may take"
            )
    return found


def _size(relation: Relation, dtype: str) -> int:
    """Bytes of a relation's entries, with the values as stored (at most 8) and as the kernels take them."""
    index = sum(4 if n <= np.iinfo(np.int32).max else 8 for n in relation.shape)
    own = 0 if dtype == "float64" else np.dtype(dtype).itemsize
    return relation.nnz * (index + 8 + own)


def _shown(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
