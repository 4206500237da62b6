"""Shards: runs of a relation's entries, or of its contexts, and what they contribute.

A term's loss is a sum over observed entries and, with weight w0, over the *background*, the cells
whose absence means 0:
    sum_observed [x^2 - 2 x xhat + (1 - w0) xhat^2] + w0 sum_background xhat^2,
where the background is the whole tensor (``zero``; it needs no pass, only Grams), every target of
every context that occurs (``context``), or nothing (``unknown``: w0 = 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np

from hyperlearn_dask.backend import Array, Device, array_module, beside, to_device, to_host
from hyperlearn_dask.factorization import kernels
from hyperlearn_dask.factorization.grams import term_gram
from hyperlearn_dask.factorization.kernels.rows import RowGrams
from hyperlearn_dask.factorization.problem import Problem, Term
from hyperlearn_dask.hypergraph.sorting import stable_order
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Product:
    """What one shard contributes to one modality's block: rows ``first_row`` and on.

    ``right``: (rows x f) of c_i; ``gram``: (rows x f x f) of H_i, or what they are made from; ``common``:
    (f x f) of the H that all rows share. All over the term's free columns of the modality, without the
    term's weight, and None where the shard has nothing to say.
    """

    term: str
    first_row: int = 0
    right: Array | None = None
    gram: Array | RowGrams | None = None
    common: np.ndarray | None = None

    def __getitem__(self, rows: slice) -> Product:
        """What there is of some of the modality's rows, counted from the first of them."""
        first = max(rows.start - self.first_row, 0)
        stop = max(rows.stop - self.first_row, first)
        right, gram = (None if part is None else part[first:stop] for part in (self.right, self.gram))
        return Product(self.term, max(self.first_row - rows.start, 0), right, gram, self.common)


class Shard(Protocol):
    """What training asks of a shard."""

    def products(
        self,
        problem: Problem,
        factors: Mapping[str, Array],
        modalities: Sequence[str],
        grams: Mapping[str, np.ndarray],
    ) -> dict[str, Product]:
        """The contribution to the blocks of some of its modalities, all from one point."""
        ...

    def line(
        self, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
    ) -> np.ndarray:
        """The contribution to F(A + alpha D), as :func:`..objective.objective_line` expects it."""
        ...

    def each(self, work: Callable[[Any], Result]) -> Iterator[Result]:
        """What ``work`` gives for the shards it is made of: itself, or those that are read in turn."""
        ...


@dataclass(frozen=True, eq=False)
class EntryShard:
    """A run of one relation's entries, with the rows of its sort mode counted from ``first_row``."""

    term: str
    tensor: SparseTensor
    first_row: int = 0
    _by_row: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def products(
        self,
        problem: Problem,
        factors: Mapping[str, Array],
        modalities: Sequence[str],
        grams: Mapping[str, np.ndarray],
    ) -> dict[str, Product]:
        """MTTKRPs in one pass where w0 = 1; else the normal equations of each modality."""
        term = problem.terms[self.term]
        matrices = self.matrices(term, factors, fill=1.0)
        modes = tuple(mode for mode, modality in enumerate(term.modalities) if modality in modalities)
        first = {mode: self.first_row if mode == self.tensor.sort_mode else 0 for mode in modes}
        if term.background == 1:
            rows = kernels.mttkrp(self.tensor, matrices, modes)
            return {
                term.modalities[m]: Product(term.name, first[m], take_columns(rows[m], term.free(m)))
                for m in modes
            }
        products, weight = {}, 1 - term.background
        for m in modes:
            gram, right = kernels.normal_equations(
                self.by_entry, matrices, m, term.free(m), term.fixed(m), weight, *grouped(self, m)
            )
            products[term.modalities[m]] = Product(term.name, first[m], right, gram)
        return products

    def line(
        self, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
    ) -> np.ndarray:
        """sum over the entries of -2 x xhat(alpha) + (1 - w0) xhat(alpha)^2; (2 order + 1,)."""
        term = problem.terms[self.term]
        matrices = self.matrices(term, factors, fill=1.0)
        lines = self.matrices(term, directions, fill=0.0)
        tensor = self.tensor if term.background == 1 else self.by_entry
        return kernels.line(tensor, matrices, lines, 1 - term.background)

    def each(self, work: Callable[[Any], Result]) -> Iterator[Result]:
        yield work(self)

    @cached_property
    def by_entry(self) -> SparseTensor:
        """The tensor for kernels that do not go along the rows of its sort mode."""
        return self.tensor.by_entry()

    def matrices(self, term: Term, factors: Mapping[str, Array], fill: float) -> tuple[Array, ...]:
        """The effective matrices the entries index: of the sort mode only the shard's rows."""
        return tuple(
            term.effective(mode, _rows(factors[modality], self, mode), fill)
            for mode, modality in enumerate(term.modalities)
        )


@dataclass(frozen=True, eq=False)
class ContextShard:
    """A run of the distinct contexts of a relation with ``absent = context``.

    ``tensor``: of one order less than the relation, without its target mode; the values play no part.
    """

    term: str
    tensor: SparseTensor
    first_row: int = 0
    _by_row: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def products(
        self,
        problem: Problem,
        factors: Mapping[str, Array],
        modalities: Sequence[str],
        grams: Mapping[str, np.ndarray],
    ) -> dict[str, Product]:
        """The background's part of the blocks, with z_c the product of a context's rows.

        Target: H = w0 sum_c z_c z_c'. A context modality, with w_c the product of the other rows and
        G the target's Gram: H_i = w0 (sum_c w_c w_c') * G over the contexts of row i.
        """
        term = problem.terms[self.term]
        members = term.context_modes
        matrices = self._matrices(term, factors, fill=1.0)
        target_gram = term_gram(term, term.target_mode, grams[term.modalities[term.target_mode]])
        products = {}
        for modality in modalities:
            mode = term.mode(modality)
            free, fixed = term.free(mode), term.fixed(mode)
            if mode == term.target_mode:
                whole = term.background * _second_moment(self.tensor, (matrices,))[0]
                right = -whole[np.ix_(fixed, free)].sum(axis=0)
                xp = array_module(matrices[0])
                rows = xp.broadcast_to(xp.asarray(right), (problem.sizes[modality], len(free)))
                products[modality] = Product(term.name, 0, rows, None, whole[np.ix_(free, free)])
                continue
            at = members.index(mode)
            gram, right = kernels.context_equations(
                self.tensor, matrices, at, free, fixed, term.background * target_gram, *grouped(self, at)
            )
            first = self.first_row if at == self.tensor.sort_mode else 0
            products[modality] = Product(term.name, first, right, gram)
        return products

    def line(
        self, problem: Problem, factors: Mapping[str, Array], directions: Mapping[str, Array]
    ) -> np.ndarray:
        """sum_c z_c(alpha) z_c(alpha)', (2 order - 1, used, used): the target's Gram completes it."""
        term = problem.terms[self.term]
        return _second_moment(
            self.tensor,
            (self._matrices(term, factors, fill=1.0), self._matrices(term, directions, fill=0.0)),
        )

    def each(self, work: Callable[[Any], Result]) -> Iterator[Result]:
        yield work(self)

    def _matrices(self, term: Term, factors: Mapping[str, Array], fill: float) -> tuple[Array, ...]:
        return tuple(
            term.effective(mode, _rows(factors[term.modalities[mode]], self, at), fill)
            for at, mode in enumerate(term.context_modes)
        )


def contexts_of(tensor: SparseTensor, target_mode: int) -> SparseTensor:
    """The distinct contexts of a relation, or of some rows of it: its tuples without the target.

    Sorted by the relation's sort mode, or by the longest of the others where that is the target.
    """
    tensor = tensor.by_entry()
    modes = [mode for mode in range(tensor.order) if mode != target_mode]
    shape = tuple(tensor.shape[mode] for mode in modes)
    first = modes.index(tensor.sort_mode) if tensor.sort_mode in modes else int(np.argmax(shape))
    coords = [tensor.coords[mode] for mode in modes]
    by = [first, *(at for at in reversed(range(len(modes))) if at != first)]
    order, new = stable_order([coords[at] for at in by], [shape[at] for at in by])
    coords = [c[order] for c in coords]
    return SparseTensor(tuple(c[new] for c in coords), np.ones(int(new.sum())), shape, sorted_by=first)


# Contexts whose products are held at once, on the CPU and on a device.
CHUNK = 16384
DEVICE_CHUNK = 1 << 18


def _second_moment(contexts: SparseTensor, along: tuple[tuple[Array, ...], ...]) -> np.ndarray:
    """sum_c z_c(alpha) z_c(alpha)' as coefficients (2 modes + 1 or 1, used, used), lowest first.

    ``along``: the matrices, and the directions if there is a line.
    """
    used = along[0][0].shape[1]
    degree = contexts.order if len(along) > 1 else 0
    xp = array_module(along[0][0])
    chunk = CHUNK if xp is np else DEVICE_CHUNK
    total = xp.zeros((2 * degree + 1, used, used))
    for start in range(0, contexts.nnz, chunk):
        rows = [c[start : start + chunk] for c in contexts.coords]
        z = [along[0][0][rows[0]]]
        if degree:
            z.append(along[1][0][rows[0]])
        for mode in range(1, contexts.order):
            a = along[0][mode][rows[mode]]
            if not degree:
                z[0] = z[0] * a
                continue
            d = along[1][mode][rows[mode]]
            # (z_0 + z_1 alpha + ...) (a + d alpha)
            z = [
                *(low * a + high * d if k else low * a for k, (low, high) in enumerate(zip(z, [z[0], *z]))),
                z[-1] * d,
            ]
        for j, left in enumerate(z):
            for k, right in enumerate(z):
                if j <= k:
                    block = left.T @ right
                    total[j + k] += block if j == k else block + block.T
    return to_host(total)


def _rows(factor: Array, shard: EntryShard | ContextShard, mode: int) -> Array:
    """The rows of a factor that the shard has, if they are not all that it was given."""
    if mode != shard.tensor.sort_mode or len(factor) == shard.tensor.shape[mode]:
        return factor
    return factor[shard.first_row : shard.first_row + shard.tensor.shape[mode]]


def grouped(shard: EntryShard | ContextShard, mode: int) -> tuple[np.ndarray, np.ndarray]:
    """The shard's entries by their row in a mode, sorted once and kept between sweeps."""
    if mode not in shard._by_row:
        shard._by_row[mode] = kernels.group_by_row(shard.tensor, mode)
    return shard._by_row[mode]


def on_device(shard: Shard, device: Device) -> Shard:
    """The shard with its entries where kernels of a device can work on them."""
    assert isinstance(shard, EntryShard | ContextShard)
    if device == "cpu":
        return shard
    own = shard.tensor.by_entry()
    coords = tuple(to_device(c, device) for c in own.coords)
    tensor = SparseTensor(coords, to_device(own.values, device), own.shape, own.sort_mode)
    return type(shard)(shard.term, tensor, shard.first_row)


def take_columns(matrix: Array, columns: np.ndarray) -> Array:
    """Some columns of a matrix, without a copy where they are all."""
    return matrix if len(columns) == matrix.shape[1] else matrix[:, beside(columns, matrix)]
