"""What a multimodal hypergraph is made of: modalities, relations (sparse tensors) and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import scipy.sparse


@dataclass(frozen=True, eq=False)
class RowIndex:
    """The sort mode's coordinates as where each of its rows begins: they need not be held one by one.

    NumPy makes them where it needs them, all or some. ``whole``: where each row begins, (rows + 1,), in a
    list of entries of which these are ``begin`` to ``end``; ``first``: the first of those rows.
    """

    whole: np.ndarray
    begin: int
    end: int
    first: int = 0

    def __len__(self) -> int:
        return self.end - self.begin

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        rows = np.arange(self.first, self.first + len(self.whole) - 1, dtype=dtype or self.dtype)
        return np.repeat(rows, np.diff(self.starts))

    def __getitem__(self, entries: slice | np.ndarray) -> np.ndarray:
        if isinstance(entries, slice):
            entries = np.arange(*entries.indices(len(self)))
        elif entries.dtype == bool:
            entries = np.flatnonzero(entries)
        assert not len(entries) or (entries.min() >= 0 and entries.max() < len(self))
        # The last row that begins no later: those without entries begin where the next one does.
        rows = np.searchsorted(self.whole, entries + self.begin, side="right") - 1
        return (self.first + rows).astype(self.dtype)

    @property
    def starts(self) -> np.ndarray:
        """Where each row begins in these entries, and where the last one ends."""
        if self.begin == 0 and self.end == self.whole[-1]:
            return self.whole
        return np.clip(self.whole, self.begin, self.end) - self.begin

    @property
    def dtype(self) -> np.dtype:
        return narrowest(self.first + len(self.whole) - 1)

    def of_rows(self, first: int, stop: int) -> RowIndex:
        """The same entries, all of which are in these rows, with rows counted from the first of them."""
        own = self.whole[first - self.first : stop + 1 - self.first]
        some = RowIndex(own, self.begin, self.end)
        return RowIndex(some.starts, 0, len(self))


def narrowest(size: int) -> np.dtype:
    """What indices of a mode of so many rows are kept as: 32 bits, where more are not needed."""
    return np.dtype(np.int32 if size <= np.iinfo(np.int32).max else np.int64)


@dataclass(frozen=True)
class SparseTensor:
    """A sparse tensor in coordinate form.

    ``coords``: one integer array of length nnz per mode, or that of the sort mode as a :class:`RowIndex`;
    ``values``: float array of length nnz;
    ``shape``: the number of entities per mode. In a stored relation entries are unique and sorted
    by the longest mode first, then by the others in order, so a range of entries is a shard.
    ``sorted_by``: that mode, where it is not the (first) longest of ``shape``: a shard's own tensor
    has only some of its rows.
    """

    coords: tuple[Any, ...]
    values: np.ndarray
    shape: tuple[int, ...]
    sorted_by: int | None = None

    @property
    def nnz(self) -> int:
        return len(self.values)

    @property
    def order(self) -> int:
        return len(self.shape)

    @property
    def sort_mode(self) -> int:
        """The mode that entries are sorted by first."""
        return int(np.argmax(self.shape)) if self.sorted_by is None else self.sorted_by

    @cached_property
    def row_starts(self) -> np.ndarray:
        """Where each row of the sort mode begins in the entries, and where the last one ends."""
        index, rows = self.coords[self.sort_mode], self.shape[self.sort_mode]
        if isinstance(index, RowIndex):
            return index.starts
        new = np.ones(len(index), dtype=bool)
        new[1:] = index[1:] != index[:-1]
        firsts = np.flatnonzero(new)
        # Rows without entries begin where the next one with some does.
        return np.repeat(np.append(firsts, len(index)), np.diff(index[firsts], prepend=-1, append=rows))

    def __getitem__(self, entries: slice | np.ndarray) -> SparseTensor:
        """The same tensor with only some entries."""
        coords = tuple(c[entries] for c in self.coords)
        return SparseTensor(coords, self.values[entries], self.shape, self.sorted_by)

    def of_rows(self, first: int, stop: int) -> SparseTensor:
        """The same entries, all in these rows of the sort mode, with rows counted from the first of them.

        Coordinates are as narrow as they can be; what need not change is not copied.
        """
        mode, coords, shape = self.sort_mode, list(self.coords), list(self.shape)
        shape[mode] = stop - first
        for at, index in enumerate(coords):
            if isinstance(index, RowIndex):
                coords[at] = index.of_rows(first, stop)
                continue
            if at == mode and first:
                index = index - index.dtype.type(first)
            coords[at] = index.astype(narrowest(shape[at]), copy=False)
        return SparseTensor(tuple(coords), self.values, tuple(shape), mode)

    def by_entry(self) -> SparseTensor:
        """The same with an array of every mode's coordinates."""
        coords = tuple(np.asarray(c) if isinstance(c, RowIndex) else c for c in self.coords)
        return replace(self, coords=coords)

    def __iter__(self) -> Iterator[np.ndarray]:
        raise TypeError("a SparseTensor is not a sequence; use .coords and .values")


@dataclass(frozen=True)
class Modality:
    """The entities of one modality, in index order: ``ids`` and, if there are any, ``labels``.

    Both are NumPy arrays of str. Ids that are all integers are sorted as numbers, others as text.
    """

    name: str
    ids: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> str:
        """What to call an entity: its label, or its id where it has none."""
        if self.labels is not None and self.labels[index]:
            return str(self.labels[index])
        return str(self.ids[index])


@dataclass(frozen=True)
class Graph:
    """An intra-modal graph: L = I - D^-1/2 W D^-1/2 as CSR (entities x entities).

    An isolated entity has an empty row in L: the graph says nothing about it. Eigenvalues of L lie
    in [0, 2].
    """

    modality: str
    laplacian: scipy.sparse.csr_array
    edges: int  # undirected
    components: int  # connected parts, isolated entities not counted
    isolated: int


class Relation:
    """A relation: its modalities and its tensor, read when first asked for.

    ``load`` gives the tensor; ``load_runs``, of a stored relation, its entries between successive bounds.
    """

    def __init__(
        self,
        name: str,
        modalities: tuple[str, ...],
        shape: tuple[int, ...],
        nnz: int,
        load: Callable[..., SparseTensor],
        load_test: Callable[[], SparseTensor] | None = None,
        mean: float | None = None,
        load_runs: Callable[[Sequence[int]], Iterator[SparseTensor]] | None = None,
    ) -> None:
        self.name = name
        self.modalities = modalities
        self.shape = shape
        self.nnz = nnz
        self._load = load
        self._load_test = load_test
        self._load_runs = load_runs
        self._tensor: SparseTensor | None = None
        self._test: SparseTensor | None = None
        self._mean = mean

    @property
    def mean(self) -> float:
        """The mean of the training values; known without reading them where the store has it."""
        if self._mean is None:
            self._mean = float(self.tensor.values.mean())
        return self._mean

    @property
    def tensor(self) -> SparseTensor:
        """The training tensor."""
        if self._tensor is None:
            self._tensor = self._load()
        return self._tensor

    def read(self) -> SparseTensor:
        """The training tensor, without keeping it here."""
        return self._load() if self._tensor is None else self._tensor

    def runs(self, bounds: Sequence[int]) -> Iterator[SparseTensor]:
        """The entries between successive bounds, run after run, without keeping them here.

        Stored ones come as they are stored, maybe with values in 32 bits, and with a :class:`RowIndex`.
        """
        if self._tensor is None and self._load_runs is not None:
            return self._load_runs(bounds)
        return (self.read()[start:stop] for start, stop in pairwise(bounds))

    def untested(self) -> Relation:
        """The same without its test tuples, read from where this one is."""
        return Relation(
            self.name, self.modalities, self.shape, self.nnz, self.read, None, self._mean, self.runs
        )

    @property
    def test(self) -> SparseTensor | None:
        """The test tuples in the order of their file, or None; coordinate -1 is an id never seen."""
        if self._test is None and self._load_test is not None:
            self._test = self._load_test()
        return self._test
