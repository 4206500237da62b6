"""The multimodal hypergraph: modalities, relations and graphs, in memory or from a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperlearn_dask.hypergraph.tensor import Graph, Modality, Relation

if TYPE_CHECKING:
    import scipy.sparse

    from hyperlearn_dask.config.specs import Duplicates, Unseen


@dataclass(frozen=True)
class Hypergraph:
    """A multimodal hypergraph. ``path`` is its store, None while it lives only in memory.

    ``features``: what the entities of some modalities are like, for encoders: CSR (entities x columns);
    ``feature_blocks``: how many of their columns are of one feature each time, where there are several.
    """

    modalities: dict[str, Modality]
    relations: dict[str, Relation]
    graphs: Mapping[str, Graph]  # of a store: each is read when first asked for
    path: Path | None = None
    features: Mapping[str, scipy.sparse.csr_array] = field(default_factory=dict)
    feature_blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def from_frames(
        cls,
        relations: Mapping[str, Sequence[Any]],
        *,
        modalities: Mapping[str, Any] | None = None,
        tests: Mapping[str, Any] | None = None,
        graphs: Mapping[str, Any] | None = None,
        features: Mapping[str, Any] | None = None,
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
        features
            ``{modality: matrix}``: what its entities are like, for an encoder; NumPy or SciPy sparse, the
            rows follow the ids in ``modalities``.
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

        entities, made, laplacians, described = from_frames(
            relations,
            modalities=modalities,
            tests=tests,
            graphs=graphs,
            features=features,
            duplicates=duplicates,
            unseen=unseen,
        )
        return cls(entities, made, laplacians, features=described)
