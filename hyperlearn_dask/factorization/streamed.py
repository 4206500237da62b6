"""A relation larger than memory: its shards are read one after the other, in every pass anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, array_module
from hyperlearn_dask.factorization.grams import add_scaled
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.kernels.rows import RowGrams
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Product, Result, Shard
from hyperlearn_dask.hypergraph.tensor import SparseTensor


@dataclass(frozen=True, eq=False)
class StreamedShard:
    """Some shards as one; two of them are in memory at a time, one worked on and one being read.

    ``read`` gives the entries of one shard after the other, and is asked for them in a thread of its
    own; ``shard_of`` makes the shard with that number of them.
    """

    read: Callable[[], Iterator[SparseTensor]]
    shard_of: Callable[[int, SparseTensor], Shard]

    def each(self, work: Callable[[Any], Result]) -> Iterator[Result]:
        """What ``work`` gives for the shards, in order."""
        with ThreadPoolExecutor(1, "read-ahead") as reader:
            read = self.read()
            ahead = reader.submit(next, read, None)
            for number in itertools.count():
                entries = ahead.result()
                if entries is None:
                    return
                ahead = reader.submit(next, read, None)
                part = self.shard_of(number, entries)
                del entries
                yield work(part)
                del part

    def products(
        self,
        problem: Problem,
        factors: Mapping[str, Array],
        modalities: Sequence[str],
        grams: Mapping[str, np.ndarray],
    ) -> dict[str, Product]:
        """The sums of what the shards contribute."""
        total: dict[str, Product] = {}
        for products in self.each(lambda part: part.products(problem, factors, modalities, grams)):
            for modality, product in products.items():
                total[modality] = _added(total.get(modality), product, problem.sizes[modality])
            del products, product  # some refer to their shard's entries
        return total

    def line(
        self, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
    ) -> np.ndarray:
        """The sum of what the shards contribute."""
        lines = self.each(lambda part: part.line(problem, factors, directions))
        return np.asarray(sum(lines))


def _added(total: Product | None, more: Product, rows: int) -> Product:
    """A sum over all rows of a modality; its arrays are ours and added to in place."""
    gram = more.gram.formed() if isinstance(more.gram, RowGrams) else more.gram
    if total is None:
        total = Product(more.term, 0, _zeros(more.right, rows), _zeros(gram, rows))
    sums_of: list[tuple[Any, Any]] = [(total.right, more.right), (total.gram, gram)]
    for sums, part in sums_of:
        if sums is not None and part is not None:
            add_scaled(sums[more.first_row : more.first_row + len(part)], 1.0, part)
    common = more.common if total.common is None else total.common + more.common
    return Product(total.term, 0, total.right, total.gram, common)


def _zeros(like: Array | None, rows: int) -> Array | None:
    if like is None:
        return None
    zeros = arrays.zeros if array_module(like) is np else array_module(like).zeros
    return zeros((rows, *like.shape[1:]), like.dtype)
