"""Other libraries on the same tasks. Each is imported when it is asked for, and may be missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import scipy.sparse

from benchmarks.baselines import incidence
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.use.evaluate import Scorer


def implicit_als(
    relation: Relation, target: str, given: str, *, rank: int, alpha: float, seed: int
) -> Scorer:
    """Confidence-weighted factorisation (implicit) of the table of one given modality and the target."""
    from implicit.als import AlternatingLeastSquares

    row, column = relation.modalities.index(given), relation.modalities.index(target)
    table = scipy.sparse.csr_matrix(incidence(relation.tensor, row, column), dtype=np.float32)
    model = AlternatingLeastSquares(factors=rank, alpha=alpha, iterations=15, random_state=seed)
    model.fit(table, show_progress=False)
    rows = _with_mean_row(model.user_factors, relation, row)
    return lambda context: rows[context[given]] @ model.item_factors.T


def implicit_tfidf(relation: Relation, target: str, given: str, *, neighbors: int) -> Scorer:
    """The targets like those of the given entity (implicit's item-kNN on tf-idf weights)."""
    from implicit.nearest_neighbours import TFIDFRecommender

    row, column = relation.modalities.index(given), relation.modalities.index(target)
    table = scipy.sparse.csr_matrix(incidence(relation.tensor, row, column), dtype=np.float64)
    model = TFIDFRecommender(K=neighbors)
    model.fit(table, show_progress=False)
    return lambda context: np.where(
        context[given][:, None] >= 0, (table[context[given]] @ model.similarity).toarray(), 0.0
    )


def logistic_regression(
    relation: Relation, target: str, given: str, features: scipy.sparse.csr_array, *, inverse_ridge: float
) -> Scorer:
    """Multinomial logistic regression (scikit-learn) of an entity's one target on its features.

    By SAGA, twenty passes in float32: with thousands of classes and features L-BFGS' history takes gigabytes.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = relation.tensor.coords[relation.modalities.index(given)]
    mode = relation.modalities.index(target)
    table = scipy.sparse.csr_matrix(features[rows], dtype=np.float32)
    table.indices, table.indptr = table.indices.astype(np.int32), table.indptr.astype(np.int32)
    model = LogisticRegression(C=inverse_ridge, solver="saga", max_iter=20, tol=1e-3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(table, relation.tensor.coords[mode])

    def score(context: Mapping[str, np.ndarray]) -> np.ndarray:
        scores = np.full((len(context[given]), relation.shape[mode]), -1e9)
        scores[:, model.classes_] = model.decision_function(features[context[given]])
        return scores

    return score


def pygenten_cp(relation: Relation, target: str, *, rank: int, seed: int) -> Scorer:
    """Plain CP by alternating least squares (pygenten), absent = zero."""
    import pygenten

    tensor = relation.tensor
    coords = np.stack(tensor.coords, axis=1).astype(np.int64)
    found, *_ = pygenten.cp_als(
        pygenten.Sptensor(tensor.shape, coords, tensor.values.astype(np.float64)),
        rank=rank,
        maxiters=50,
        tol=1e-4,
        seed=seed,
        printitn=0,
    )
    # Copies: what pygenten made must be gone before the interpreter ends.
    weights = np.array(found.weights)
    factors = {m: np.array(f) for m, f in zip(relation.modalities, found.factor_matrices)}
    rows = {
        m: _with_mean_row(factors[m], relation, mode)
        for mode, m in enumerate(relation.modalities)
        if m != target
    }

    def score(context: Mapping[str, np.ndarray]) -> np.ndarray:
        product = weights
        for modality, matrix in rows.items():
            product = product * matrix[context[modality]]
        return product @ factors[target].T

    return score


def myfm_rating(relation: Relation, *, rank: int, seed: int, sweeps: int = 200) -> np.ndarray:
    """Test values by a Bayesian factorisation machine (myfm) over one-hot entities, Gibbs sampled."""
    import myfm

    test = relation.test
    assert test is not None
    model = myfm.MyFMRegressor(rank=rank, random_seed=seed)
    train = _one_hot(relation.tensor.coords, relation.shape)
    model.fit(train, relation.tensor.values, n_iter=sweeps, n_kept_samples=sweeps * 9 // 10)
    return model.predict(_one_hot(test.coords, relation.shape))


def myfm_with_features(
    hypergraph: Hypergraph, name: str, *, rank: int, seed: int, sweeps: int = 300, ordered: bool = False
) -> np.ndarray:
    """The same with the features of the entities beside the one-hot ones, each block with ridges of its own.

    ``ordered``: values are classes in order, drawn by a probit, and their mean is what is predicted.
    """
    import myfm

    relation = hypergraph.relations[name]
    test, train = relation.test, relation.tensor
    assert test is not None
    tables, widths = [], []
    for modality, size in zip(relation.modalities, relation.shape):
        features = hypergraph.features[modality]
        table = scipy.sparse.hstack([scipy.sparse.eye_array(size), features])
        nothing = scipy.sparse.csr_array((1, table.shape[1]))  # of what is no entity
        tables.append(scipy.sparse.csr_matrix(scipy.sparse.vstack([table, nothing])))
        widths += [size, *(hypergraph.feature_blocks.get(modality) or (features.shape[1],))]

    def blocks(coords: tuple[np.ndarray, ...]) -> list[object]:
        return [
            myfm.RelationBlock(np.where(index < 0, table.shape[0] - 1, index).tolist(), table)
            for index, table in zip(coords, tables)
        ]

    kinds, classes = np.unique(train.values, return_inverse=True)
    model = (myfm.MyFMOrderedProbit if ordered else myfm.MyFMRegressor)(rank=rank, random_seed=seed)
    model.fit(
        None,
        classes if ordered else train.values,
        X_rel=blocks(train.coords),
        group_shapes=widths,
        n_iter=sweeps,
        n_kept_samples=sweeps * 3 // 4,
    )
    there = blocks(test.coords)
    return model.predict_proba(None, there) @ kinds if ordered else model.predict(None, there)


def _with_mean_row(factor: np.ndarray, relation: Relation, mode: int) -> np.ndarray:
    """A factor with the mean row for entities without a hyperedge, and once more at its end, for -1."""
    seen = np.bincount(relation.tensor.coords[mode], minlength=len(factor)) > 0
    mean = factor[seen].mean(axis=0)
    return np.vstack([np.where(seen[:, None], factor, mean), mean])


def _one_hot(coords: tuple[np.ndarray, ...], shape: tuple[int, ...]) -> scipy.sparse.csr_matrix:
    blocks = []
    for index, size in zip(coords, shape):
        rows = np.flatnonzero(index >= 0)
        at = (rows, index[rows])
        blocks.append(scipy.sparse.csr_matrix((np.ones(len(rows)), at), shape=(len(index), size)))
    return scipy.sparse.hstack(blocks, format="csr")
