"""Which entity of a modality each row of a table is about."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from hyperlearn_dask.hypergraph.reading import cells
from hyperlearn_dask.hypergraph.reading.tables import Batch
from hyperlearn_dask.hypergraph.reading.vocabulary import as_vocabulary, closest
from hyperlearn_dask.hypergraph.tensor import Modality


class Entities:
    """The entities of a modality, found by their ids.

    ``closed``: all there can be are known (the modality has a table), so that an id which is none of
    them is a mistake wherever it occurs.
    """

    def __init__(self, modality: Modality, *, closed: bool) -> None:
        self.modality = modality.name
        self.closed = closed
        self._vocabulary = as_vocabulary(modality)

    def __len__(self) -> int:
        return len(self._vocabulary)

    def of(self, batch: Batch, column: str, *, known: bool) -> np.ndarray:
        """The index of the entity that each record of a table names, -1 for none.

        Raises
        ------
        InputError
            When a cell holds no id or, where ids must be ``known``, one that is no entity.
        """
        ids = cells.ids(batch, column)
        found = pc.fill_null(pc.index_in(ids.dictionary, self._vocabulary), -1).to_numpy()
        indices = found.astype(np.int64)[ids.indices.to_numpy()]
        if known and indices.min(initial=0) < 0:
            record = int(np.argmin(indices))
            id = ids[record].as_py()
            raise batch.wrong(f"'{id}' is no {self.modality}{closest(self._vocabulary, id)}", record, column)
        return indices
