"""The multimodal hypergraph in memory: modalities, relations (sparse tensors) and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse

    from hyperlearn_dask.config.specs import Duplicates, Unseen


@dataclass(frozen=True)
class SparseTensor:
    """A sparse tensor in coordinate form.

    ``coords``: one integer array of length nnz per mode; ``values``: float array of length nnz;
    ``shape``: the number of entities per mode. In a stored relation entries are unique and sorted
    by the longest mode first, then by the others in order, so a range of entries is a shard.
    ``sorted_by``: that mode, where it is not the (first) longest of ``shape``: a shard's own tensor
    has only some of its rows.
    """

    coords: tuple[np.ndarray, ...]
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

    def __getitem__(self, entries: slice | np.ndarray) -> SparseTensor:
        """The same tensor with only some entries."""
        coords = tuple(c[entries] for c in self.coords)
        return SparseTensor(coords, self.values[entries], self.shape, self.sorted_by)

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
    """A relation: its modalities and its tensor, read when first asked for."""

    def __init__(
        self,
        name: str,
        modalities: tuple[str, ...],
        shape: tuple[int, ...],
        nnz: int,
        load: Callable[[], SparseTensor],
        load_test: Callable[[], SparseTensor] | None = None,
        mean: float | None = None,
    ) -> None:
        self.name = name
        self.modalities = modalities
        self.shape = shape
        self.nnz = nnz
        self._load = load
        self._load_test = load_test
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

    @property
    def test(self) -> SparseTensor | None:
        """The test tuples in the order of their file, or None; coordinate -1 is an id never seen."""
        if self._test is None and self._load_test is not None:
            self._test = self._load_test()
        return self._test


@dataclass(frozen=True)
class Hypergraph:
    """A multimodal hypergraph. ``path`` is its store, None while it lives only in memory."""

    modalities: dict[str, Modality]
    relations: dict[str, Relation]
    graphs: Mapping[str, Graph]  # of a store: each is read when first asked for
    path: Path | None = None

    @classmethod
    def from_frames(
        cls,
        relations: Mapping[str, Sequence[Any]],
        *,
        modalities: Mapping[str, Any] | None = None,
        tests: Mapping[str, Any] | None = None,
        graphs: Mapping[str, Any] | None = None,
        duplicates: Duplicates | Mapping[str, Duplicates] = "sum",
        unseen: Unseen | Mapping[str, Unseen] = "error",
    ) -> Hypergraph:
        """A hypergraph from tables in memory.

        A frame is a pandas, polars or Arrow table or a dict of columns. A cell that holds a list
        stands for several hyperedges.

        Parameters
        ----------
        relations
            ``{name: (frame, columns)}`` or ``{name: (frame, columns, value)}``: the columns as a list
            of names, which are the modalities' as well, or as ``{modality: column}``; the column of
            values, 1 where there is none.
        modalities
            ``{name: ids}``, ``{name: (frame, id)}`` or ``{name: (frame, id, label)}``, with the names of
            columns. A modality left out has the entities that occur in ``relations`` and ``graphs``.
        tests
            ``{relation: frame}``, with the columns of the relation.
        graphs
            ``{modality: (frame, source, target)}``, ``{modality: (frame, source, target, weight)}``, or a
            SciPy sparse matrix of weights whose rows follow the ids in ``modalities``.
        duplicates
            What equal hyperedges become: their values' "sum", the "last", or an "error"; by relation
            where rules differ.
        unseen
            An id in a test that is no entity: an "error", or "skip" to score it by the mean row.

        Raises
        ------
        InputError
            When something is wrong, with the relation, the row (from 1) and the column.

        Examples
        --------
        >>> paintings = {"artist": ["Monet", "Sisley"], "subject": [["water", "garden"], ["water", "sky"]]}
        >>> hypergraph = Hypergraph.from_frames({"shows": (paintings, ["artist", "subject"])})
        >>> hypergraph.relations["shows"].shape
        (2, 3)
        """
        from hyperlearn_dask.hypergraph.frames import from_frames

        return from_frames(
            relations,
            modalities=modalities,
            tests=tests,
            graphs=graphs,
            duplicates=duplicates,
            unseen=unseen,
        )
