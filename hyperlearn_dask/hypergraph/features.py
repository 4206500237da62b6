"""What the entities of a modality are like, as rows of a matrix: one block of columns per feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.preprocessing import normalize

from hyperlearn_dask.config import FeatureSpec, GraphSpec, Metric, ModalitySpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.reading.entities import Entities
from hyperlearn_dask.hypergraph.reading.feature_cells import (
    read_categories,
    read_flags,
    read_numbers,
    read_texts,
    read_vectors,
    read_vectors_file,
)
from hyperlearn_dask.hypergraph.tensor import SparseTensor

Matrix: TypeAlias = np.ndarray | sp.csr_array


@dataclass(frozen=True)
class Block:
    """One feature: its columns (entities x columns), and which entities it describes.

    An entity that it does not describe has a row of zeros.
    """

    columns: Matrix
    given: np.ndarray


@dataclass(frozen=True)
class Features:
    """All features of a modality: the matrix, which entities it describes, and what to report.

    ``widths``: the columns of each feature.
    """

    matrix: Matrix
    widths: tuple[int, ...]
    informed: np.ndarray
    notes: tuple[str, ...]


def read_features(
    modality: ModalitySpec,
    graph: GraphSpec,
    entities: Entities,
    relation: Callable[[str], tuple[SparseTensor, int]],
    part: str = "graph",
) -> Features:
    """Read the features that a graph is made from.

    A row is made of one block per feature, multiplied by the feature's weight. Texts, categories and
    relations have unit length in their block whatever the metric, so that long texts or many
    categories do not count for more.

    - ``cosine``: numbers and vectors have unit length as well. Two entities that all features
      describe have the similarity sum_b w_b^2 cos_b / sum_b w_b^2: a weight counts by its square.
      A feature that is missing for one of two entities adds nothing to their similarity.
    - ``euclidean``: d^2 = sum_b w_b^2 d_b^2. Numbers are in standard deviations, vectors as given. A
      number that is missing counts as the mean, a vector as zeros, and of the other kinds one that
      is missing is at distance 1 from all that are there.

    Parameters
    ----------
    modality, graph, entities
        The modality, its graph with features, and its entities.
    relation
        A relation's training tensor, and the place of the modality among its modes.
    part
        Of the modality's settings, that the features stand in.

    Raises
    ------
    InputError
        When a file is missing or a cell is wrong (with file, row and column), or when a feature says
        nothing about any entity.
    """
    blocks, notes = [], []
    informed = np.zeros(len(entities), dtype=bool)
    for number, feature in enumerate(graph.features):
        block = _read_block(modality, feature, entities, relation, graph.metric)
        if not block.given.any():
            raise InputError(
                "says nothing about any entity",
                file=feature.file or (feature.tables[0].path if feature.tables else None),
                column=feature.column,
                key=f"modalities.{modality.name}.{part}.features[{number}]",
            )
        blocks.append(feature.weight * block.columns)
        missing = len(entities) - int(block.given.sum())
        if missing:
            notes.append(f"{_name(feature)} missing for {missing:,}")
        informed |= block.given
    if all(isinstance(block, np.ndarray) for block in blocks):
        matrix: Matrix = np.hstack(blocks)
    else:
        matrix = sp.csr_array(sp.hstack([sp.csr_array(block) for block in blocks], format="csr"))
    return Features(matrix, tuple(int(block.shape[1]) for block in blocks), informed, tuple(notes))


def _read_block(
    modality: ModalitySpec,
    feature: FeatureSpec,
    entities: Entities,
    relation: Callable[[str], tuple[SparseTensor, int]],
    metric: Metric,
) -> Block:
    n = len(entities)
    if feature.kind == "relation":
        assert feature.relation is not None
        return relation_block(*relation(feature.relation))
    if feature.file is not None:
        return vector_block(*read_vectors_file(feature.file, modality, entities), n, metric)
    if feature.kind == "text":
        return text_block(*read_texts(feature, entities), n)
    if feature.kind == "category":
        return category_block(*read_categories(feature, entities), n)
    if feature.kind == "flags":
        return category_block(*read_flags(feature, entities), n)
    if feature.kind == "number":
        return number_block(*read_numbers(feature, entities), n, metric)
    return vector_block(*read_vectors(feature, entities), n, metric)


def text_block(owners: np.ndarray, texts: pa.Array, n: int) -> Block:
    """Words by tf-idf, rows of unit length; the texts of an entity are joined.

    Parameters
    ----------
    owners, texts
        Which entity each text is about.
    n
        The number of entities.
    """
    documents = [""] * n
    for owner, text in zip(owners.tolist(), texts.to_pylist()):
        documents[owner] = f"{documents[owner]}\n{text}" if documents[owner] else text or ""
    vectorizer = TfidfVectorizer(strip_accents="unicode", sublinear_tf=True)
    if not any(map(vectorizer.build_analyzer(), documents)):
        return _bag(sp.csr_array((n, 0)))
    return _bag(vectorizer.fit_transform(documents))


def category_block(owners: np.ndarray, categories: pa.Array, n: int) -> Block:
    """One column per category, rows of unit length; an entity may have several, each counts once."""
    coded = categories.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False)
    hot = sp.csr_array((np.ones(len(codes)), (owners, codes)), shape=(n, len(coded.dictionary)))
    hot.data[:] = 1
    return _bag(hot)


def relation_block(tensor: SparseTensor, mode: int) -> Block:
    """The entity's row of a relation's unfolding along its mode, as a bag of words by tf-idf.

    The words are the entities of the other modalities that it meets, one after the other: not their
    combinations, two of which are rarely the same.
    """
    counts = [
        sp.csr_array((np.ones(tensor.nnz), (tensor.coords[mode], other)), shape=(tensor.shape[mode], size))
        for place, (other, size) in enumerate(zip(tensor.coords, tensor.shape))
        if place != mode
    ]
    return _bag(TfidfTransformer(sublinear_tf=True).fit_transform(sp.hstack(counts, format="csr")))


def number_block(owners: np.ndarray, numbers: np.ndarray, n: int, metric: Metric) -> Block:
    """A number in standard deviations from the mean; NaN is missing, several are averaged.

    For the cosine, which knows only directions, a number x becomes (1, x) at unit length, so that
    similarity falls with the difference: cos(atan x - atan y).
    """
    known = ~np.isnan(numbers)
    values, given = _means(owners[known], numbers[known, None], n)
    x = values[:, 0]
    if given.any():
        x = np.where(given, (x - x[given].mean()) / (x[given].std() or 1.0), 0.0)
    if metric == "euclidean":
        return Block(x[:, None], given)
    return Block(_unit(np.column_stack([given, x])), given)


def vector_block(owners: np.ndarray, vectors: np.ndarray, n: int, metric: Metric) -> Block:
    """Vectors of one length, several of an entity averaged; for the cosine at unit length."""
    values, given = _means(owners, vectors, n)
    if metric == "euclidean":
        return Block(values, given)
    return Block(_unit(values), np.any(values, axis=1))


def _unit(rows: Matrix) -> Matrix:
    """Rows of unit length; those of zeros stay."""
    return normalize(rows) if rows.shape[1] else rows  # scikit-learn refuses to do nothing


def _bag(counts: sp.csr_array) -> Block:
    bag = sp.csr_array(_unit(counts))
    bag.eliminate_zeros()
    return Block(bag, np.diff(bag.indptr) > 0)


def _means(owners: np.ndarray, values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each entity's rows of values (n x columns; zeros where there are none), and who has any."""
    count = np.bincount(owners, minlength=n)
    belongs = sp.csr_array((np.ones(len(owners)), (owners, np.arange(len(owners)))), shape=(n, len(owners)))
    return belongs @ values / np.maximum(count, 1)[:, None], count > 0


def _name(feature: FeatureSpec) -> str:
    if feature.file is not None:
        return feature.file.name
    return str(feature.column or feature.relation or ", ".join(feature.columns))
