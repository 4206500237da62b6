"""What training knows before its first sweep: start values, and which entities it knows anything about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyperlearn_dask.backend import Array, Device, array_module, to_host
from hyperlearn_dask.config import TrainingSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.kernels import arrays
from hyperlearn_dask.factorization.problem import Problem
from hyperlearn_dask.factorization.shards import Shard
from hyperlearn_dask.factorization.starts import SAMPLE, evenly, start_factors
from hyperlearn_dask.hypergraph.tensor import RowIndex, SparseTensor
from hyperlearn_dask.training.encoding import described
from hyperlearn_dask.training.executor import Executor, Handle, ShardPlace, entry_places
from hyperlearn_dask.training.heats import better_start


def require_range(problem: Problem, squares: Mapping[str, float], dtype: str) -> None:
    """Refuse values that start values cannot be made of in a precision.

    ``squares``: of every relation, the sum of its values' squares. Smaller values can leave what a precision
    holds as well, by products of several factors; :func:`.objective.best_step` tells of that.

    Raises
    ------
    InputError
        With the relation's name.
    """
    most = float(np.finfo(dtype).max) ** 0.4
    for name, total in squares.items():
        size = np.sqrt(problem.terms[name].weight * total)
        if not size < most:
            others = ', or use training.dtype = "float64"' if dtype == "float32" else ""
            raise InputError(
                f"its values are too large for {dtype}: expected the root of their weighted sum of squares "
                f"below {most:.0e}, got {size:.1e}; divide them by a number{others}",
                key=f"relations.{name}",
            )


def start_values(problem: Problem, executor: Executor, training: TrainingSpec) -> dict[str, Handle]:
    """Start values, made at one modality from a sample of every relation and split by modality."""
    samples: dict[str, list[Handle]] = {name: [] for name in problem.terms}
    for place in entry_places(executor):
        total = max(p.stop for p in executor.places if p.relation == place.relation)
        samples[place.relation].append(executor.at_shard("sample", place, _sample, place, total))
    first = next(iter(problem.sizes))
    start = executor.at_modality(
        "start",
        first,
        _start_step,
        problem,
        samples,
        training.start,
        training.seed,
        training.dtype,
        executor.device,
    )
    return {m: executor.settle(f"start-{m}", m, executor.pick(start, m)) for m in problem.sizes}


def _sample(shard: Shard, place: ShardPlace, total: int) -> list[SparseTensor]:
    """The shard's part of an evenly spaced sample of the whole relation, whatever the shards are."""
    entries = evenly(total, SAMPLE)
    start = place.start

    def of_part(part: Any) -> SparseTensor:
        nonlocal start
        stop = start + part.tensor.nnz
        own = entries[(entries >= start) & (entries < stop)] - start
        tensor = part.tensor[array_module(part.tensor.values).asarray(own)]
        coords = [to_host(c) for c in tensor.coords]
        coords[tensor.sort_mode] = coords[tensor.sort_mode] + part.first_row
        start = stop
        return SparseTensor(tuple(coords), to_host(tensor.values), tensor.shape, tensor.sorted_by)

    return list(shard.each(of_part))


def _start_step(
    _: Array | None,
    problem: Problem,
    samples: Mapping[str, list[list[SparseTensor]]],
    kind: str,
    seed: int,
    dtype: str,
    device: Device,
) -> dict[str, np.ndarray]:
    whole = {}
    for name, of_shards in samples.items():
        parts = [part for of_shard in of_shards for part in of_shard]
        shape = tuple(problem.sizes[m] for m in problem.terms[name].modalities)
        coords = tuple(np.concatenate([p.coords[mode] for p in parts]) for mode in range(len(shape)))
        whole[name] = SparseTensor(coords, np.concatenate([p.values for p in parts]), shape)
    only_zero = kind == "auto"
    if only_zero:
        kind = better_start(problem, whole, seed, device)
    factors = start_factors(problem, whole, kind, seed, dtype, only_zero=only_zero)
    arrays.forget()  # sweeps need the memory
    return factors


def informed_entities(
    problem: Problem, executor: Executor, features: Mapping[str, Handle]
) -> dict[str, np.ndarray]:
    """Per modality, the entities with a hyperedge or, where its graph counts, a neighbour.

    Or with features, where it is encoded from them; and then, without own rows, hyperedges alone say nothing.
    """
    places = entry_places(executor)
    shapes = {p: tuple(problem.sizes[m] for m in term.modalities) for p, term in problem.terms.items()}
    seen = [executor.at_shard("seen", place, _seen, shapes[place.relation]) for place in places]
    linked = {
        m: executor.at_modality(f"linked-{m}", m, _linked) for m in problem.sizes if problem.uses_graph(m)
    }
    seen, linked = executor.gather([seen, linked])
    informed = {m: np.zeros(n, dtype=bool) for m, n in problem.sizes.items()}
    for place, rows in zip(places, seen):
        for modality, index in zip(problem.terms[place.relation].modalities, rows):
            informed[modality][index] = True
    for modality, rows in described(executor, features).items():
        informed[modality] = informed[modality] & problem.encoders[modality].own | rows
    for modality, rows in linked.items():
        informed[modality] |= rows
    return informed


def _seen(shard: Shard, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Per mode, the rows that have entries."""
    seen = [np.zeros(size, dtype=bool) for size in shape]

    def of_part(part: Any) -> None:
        tensor = part.tensor
        for mode, (index, size) in enumerate(zip(tensor.coords, tensor.shape)):
            first = part.first_row if mode == tensor.sort_mode else 0
            seen[mode][first : first + size] |= _has_entries(index, size)

    for _ in shard.each(of_part):
        pass
    return [np.flatnonzero(rows) for rows in seen]


def _has_entries(index: Array | RowIndex, rows: int) -> np.ndarray:
    if isinstance(index, RowIndex):
        return np.diff(index.starts) > 0
    seen = array_module(index).zeros(rows, dtype=bool)
    seen[index] = True
    return to_host(seen)


def _linked(laplacian: Array) -> np.ndarray:
    return to_host(laplacian.diagonal()) > 0
