"""Which targets a description points to: regressions of targets on sparse features.

- :func:`regress`, where a context has several targets: the ridge regression

      W = argmin ||Y - F W||^2 + ridge ||W||^2,   the known target t having no weight for t itself

  (Steck 2019).
- :func:`classify`, where it has one as a rule: the softmax regression

      W = argmin -sum_c sum_t Y_ct log softmax(sharpness f(c)' W + b)_t,   b_t the log of t's share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from hyperlearn_dask.compiling.in_runs import in_runs
from hyperlearn_dask.factorization.kernels.symbols import FLAGS

FEATURES = 3072  # in the ridge regression, at most: the most frequent
RIDGE = 2.0
SMALL = 0.01  # weights of the ridge regression below it are let go ...
LINKS = 128  # ... but for so many, the largest, of each target: those of rare ones are all small

SHARPNESS = 4.0
EPOCHS = 16  # of 8 to 24 the likeliest on held-out hyperedges of Tate
BATCH = 256  # contexts that share a step, at most: there are 64 steps or more in an epoch
RATE = 1.0
FADING = 0.02  # weights of the softmax regression below it are let go
UNLIKELY = 1e-4  # probabilities below it are none

_CELLS = 1 << 24  # weights or probabilities worked on at once in float32: 64 MiB
_WEIGHTS = 1 << 26  # weights held at once: 256 MiB


@dataclass(frozen=True, eq=False)
class Regression:
    """``links``: W (features x targets); ``bias``: b (targets,), None of a ridge regression."""

    links: sp.csr_array
    bias: np.ndarray | None = None

    def found(self, features: sp.csr_array) -> sp.csr_array:
        """What features (contexts x features) point to, none negative; of a softmax, its probabilities."""
        scores = sp.csr_array(features @ self.links)
        if self.bias is None:
            return sp.csr_array(scores.maximum(0))
        step = max(1, _CELLS // max(1, len(self.bias)))
        parts = []
        for at in range(0, scores.shape[0], step):
            likely = _softmax(scores[at : at + step].toarray() + self.bias)
            parts.append(sp.csr_array(np.where(likely >= UNLIKELY, likely, 0)))
        return sp.csr_array(sp.vstack(parts, format="csr")) if parts else scores


def regress(features: sp.csr_array, targets: sp.csr_array, own: np.ndarray | None) -> Regression:
    """The ridge regression, small weights let go.

    With C = (F'F + ridge I)^-1 and B = F'Y, W = C B; and with W_jt = 0 asked for, j the feature that a
    target t is itself, column t is C b_t - c_j (C b_t)_j / C_jj.

    Parameters
    ----------
    features, targets
        F (contexts x features) and Y (contexts x targets).
    own
        The feature (targets,) that each target is itself; None where none is.
    """
    used = _most_frequent(features, FEATURES, least=1)
    chosen = sp.csr_array(features[:, used])
    system = (chosen.T @ chosen).toarray().astype(np.float64)
    system[np.diag_indices(len(used))] += RIDGE
    inverse = scipy.linalg.inv(system, overwrite_a=True, check_finite=False).astype(np.float32)
    right = sp.csc_array(chosen.T @ targets, dtype=np.float32)
    place = np.full(features.shape[1], -1)
    place[used] = np.arange(len(used))
    parts = []
    step = max(1, _CELLS // max(1, len(used)))
    for at in range(0, targets.shape[1], step):
        weights = inverse @ right[:, at : at + step].toarray()
        if own is not None:
            itself = place[own[at : at + step]]
            (columns,) = np.nonzero(itself >= 0)
            j = itself[columns]
            weights[:, columns] -= inverse[:, j] * (weights[j, columns] / inverse[j, j])
            weights[j, columns] = 0
        parts.append(_without_small(weights))
    return Regression(_spread(sp.csr_array(sp.hstack(parts)), used, features.shape[1]))


def classify(features: sp.csr_array, targets: sp.csr_array) -> Regression:
    """The softmax regression, by AdaGrad (Duchi et al. 2011) with a step length per feature.

    A few passes over the contexts end it before it knows them by heart: that is its regularisation.

    Parameters
    ----------
    features, targets
        F (contexts x features) and Y (contexts x targets), not negative; rows of Y are scaled to sum 1.
    """
    share = np.asarray(targets.sum(axis=0), dtype=np.float64)
    seen = np.flatnonzero(share > 0)
    used = _most_frequent(features, _WEIGHTS // max(1, len(seen)), least=2)
    chosen = sp.csr_array(features[:, used] * np.float32(SHARPNESS), dtype=np.float32)
    answers = sp.csr_array(targets[:, seen], dtype=np.float32)
    rows = np.flatnonzero(np.diff(answers.indptr))
    bias = np.log(share[seen] / share.sum()).astype(np.float32)
    weights = np.zeros((len(used), len(seen)), dtype=np.float32)
    steepness = np.full(len(used), 1e-6, dtype=np.float32)  # sums of squared gradients
    batch = max(1, min(BATCH, len(rows) // 64))
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = rng.permutation(rows)
        for at in range(0, len(order), batch):
            part = chosen[order[at : at + batch]]
            known = answers[order[at : at + batch]].toarray()
            # dE/d(scores) = softmax - Y
            scores = np.empty_like(known)
            _add_up(len(known), part.indptr, part.indices, part.data, weights, bias, scores)
            surplus = _softmax(scores)
            surplus -= known / known.sum(axis=1, keepdims=True)
            surplus /= len(known)
            turned = part.tocsc()
            there = np.flatnonzero(np.diff(turned.indptr))
            _descend(
                len(there), there, turned.indptr, turned.indices, turned.data, surplus, weights, steepness
            )
    weights[np.abs(weights) < FADING] = 0
    everywhere = np.full(targets.shape[1], -np.inf, dtype=np.float32)
    everywhere[seen] = bias
    links = sp.coo_array(SHARPNESS * weights)
    at, target = links.coords
    wide = sp.csr_array((links.data, (at, seen[target])), shape=(len(used), targets.shape[1]))
    return Regression(_spread(wide, used, features.shape[1]), everywhere)


@in_runs(FLAGS)
def _add_up(begin, end, starts, features, values, weights, bias, scores):  # type: ignore[no-untyped-def]
    """The bias and, for each feature that a context has, its weights."""
    targets = weights.shape[1]
    for i in range(begin, end):
        for t in range(targets):
            scores[i, t] = bias[t]
        for e in range(starts[i], starts[i + 1]):
            feature, value = features[e], values[e]
            for t in range(targets):
                scores[i, t] += value * weights[feature, t]


@in_runs(FLAGS)
def _descend(begin, end, features, starts, contexts, values, surplus, weights, steepness):  # type: ignore[no-untyped-def]
    """A step of some features' weights: of each, its gradient is a sum over the contexts that have it."""
    targets = weights.shape[1]
    gradient = np.empty(targets, dtype=weights.dtype)
    for k in range(begin, end):
        feature = features[k]
        gradient[:] = 0
        for e in range(starts[feature], starts[feature + 1]):
            context, value = contexts[e], values[e]
            for t in range(targets):
                gradient[t] += value * surplus[context, t]
        size = weights.dtype.type(0)
        for t in range(targets):
            size += gradient[t] * gradient[t]
        steepness[feature] += size
        length = weights.dtype.type(RATE) / np.sqrt(steepness[feature])
        for t in range(targets):
            weights[feature, t] -= length * gradient[t]


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Rows of probabilities, written over the scores."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _most_frequent(features: sp.csr_array, most: int, least: int) -> np.ndarray:
    """The features, ascending, that ``least`` contexts have or more; of many the most frequent."""
    count = np.bincount(features.indices, minlength=features.shape[1])
    used = np.sort(np.argsort(-count, kind="stable")[:most])
    return used[count[used] >= least]


def _spread(links: sp.csr_array, used: np.ndarray, width: int) -> sp.csr_array:
    """Weights of the features used, among all."""
    found = links.tocoo()
    rows, columns = found.coords
    return sp.csr_array((found.data, (used[rows], columns)), shape=(width, links.shape[1]))


def _without_small(weights: np.ndarray) -> sp.csc_array:
    """Weights of at least :data:`SMALL`, and the :data:`LINKS` largest of each column."""
    size = np.abs(weights)
    bound = np.full(weights.shape[1], 0.0)
    if len(size) > LINKS:
        bound = np.minimum(np.partition(size, len(size) - LINKS, axis=0)[len(size) - LINKS], SMALL)
    return sp.csc_array(np.where(size >= bound, weights, 0))
