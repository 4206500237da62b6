"""How good scores and values are on tuples that training has not seen: one protocol for all methods.

Ranking is filtered. For a test tuple, every target known for its context in training or test, except
the one in question, is left out, and rank = 1 + the number scored strictly higher + half the ties. A
target that the relation's training tensor never has is neither asked for nor counted as a rival; an
entity of the context that training never had is the scorer's affair (a model takes the mean row).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import scipy.sparse

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.tensor import Relation, SparseTensor

# Scores (contexts x targets) for a batch of contexts: one index array per modality of the context,
# -1 for an id that is no entity.
Scorer = Callable[[Mapping[str, np.ndarray]], np.ndarray]

_CELLS = 1 << 22  # scores held at once: 32 MiB
_AT_ONCE = 1 << 20  # training hyperedges that are looked up together


def rating_metrics(
    train: np.ndarray, test: np.ndarray, predicted: np.ndarray, *, clip: bool = True
) -> dict[str, float | None]:
    """``rmse`` and ``mae`` of predicted values.

    With ``clip``, the default, predictions are first moved into the range of the training values, as
    the published MovieLens figures are: nobody gives 5.3 stars. ``clip=False`` judges the raw ones.
    """
    if len(test) == 0:
        return {"rmse": None, "mae": None}
    if clip and len(train):
        predicted = np.clip(predicted, train.min(), train.max())
    error = predicted - test
    return {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def coverage(
    test: np.ndarray, predicted: np.ndarray, deviation: np.ndarray, probability: float
) -> float | None:
    """The share of test values in the central normal interval of a probability around what was predicted.

    Of a calibrated model it is about the probability itself.
    """
    if len(test) == 0:
        return None
    width = NormalDist().inv_cdf((1 + probability) / 2)
    return float(np.mean(np.abs(test - predicted) <= width * deviation))


def ranking_metrics(ranks: np.ndarray) -> dict[str, float | None]:
    """``mrr``, ``hits@10``, ``acc@1`` and ``acc@10`` of an array of ranks.

    ``acc@k`` is the share of ranks up to k, the customary name where a context has one right answer;
    ``hits@10`` is the same share under its customary name elsewhere.
    """
    if len(ranks) == 0:
        return dict.fromkeys(("mrr", "hits@10", "acc@1", "acc@10"))
    ten = float(np.mean(ranks <= 10))
    return {
        "mrr": float(np.mean(1 / ranks)),
        "hits@10": ten,
        "acc@1": float(np.mean(ranks <= 1)),
        "acc@10": ten,
    }


def filtered_ranks(relation: Relation, target: str, scorer: Scorer, *, cells: int = _CELLS) -> np.ndarray:
    """The filtered rank (float) of each test tuple that counts, in the tuples' order.

    Each distinct context is scored once, in batches of at most ``cells`` scores (or one context).

    Raises
    ------
    InputError
        When the relation has no test tuples, or the scores are not all finite numbers.
    """
    asked = Asked(relation, target)
    return asked.ranks(lambda begin, end: scorer(asked.given(begin, end)), cells=cells)


def trained_on(test: SparseTensor, training: SparseTensor) -> int:
    """How many test tuples of a relation are training hyperedges as well.

    Besides the test tuples it holds what so many of the others take that are looked at at once.
    """
    tuples = _Contexts(list(test.coords), list(training.shape))
    known = np.zeros(tuples.count, dtype=bool)
    for start in range(0, training.nnz, _AT_ONCE):
        _, found = tuples.find([coord[start : start + _AT_ONCE] for coord in training.coords])
        known[found] = True
    return int(known[tuples.of].sum())


class Asked:
    """The test tuples of a relation that count, and what else is known for their contexts.

    Made once, it gives the ranks by any scores. ``most``: of the test tuples only the first so many
    are asked.
    """

    def __init__(self, relation: Relation, target: str, most: int | None = None) -> None:
        self._key = f"relations.{relation.name}"
        test, train = relation.test, relation.tensor
        if test is None:
            raise InputError("has no test tuples", key=self._key)
        mode = relation.modalities.index(target)
        others = [m for m in range(train.order) if m != mode]
        self._seen = np.zeros(train.shape[mode], dtype=bool)
        self._seen[train.coords[mode]] = True
        asked = test.coords[mode] >= 0
        asked[asked] = self._seen[test.coords[mode][asked]]
        entries = np.flatnonzero(asked)[:most]
        self._answers = test.coords[mode][entries]
        self._modalities = [relation.modalities[m] for m in others]
        self._contexts = _Contexts(
            [test.coords[m][entries] for m in others], [train.shape[m] for m in others]
        )
        self._known = _known((train, test), mode, others, self._contexts, self._answers)

    @property
    def count(self) -> int:
        """How many distinct contexts there are."""
        return self._contexts.count

    @property
    def tuples(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each tuple the number of its context, and its answer."""
        return self._contexts.of, self._answers

    def given(self, begin: int = 0, end: int | None = None) -> dict[str, np.ndarray]:
        """A range of the contexts, as a scorer takes them."""
        return self._contexts.given(begin, end, self._modalities)

    def ranks(self, score: Callable[[int, int], np.ndarray], *, cells: int = _CELLS) -> np.ndarray:
        """The rank of each tuple; ``score(begin, end)``: scores (contexts x targets) of a range."""
        of, answers = self.tuples
        ranks = np.empty(len(answers))
        by_context = np.argsort(of, kind="stable")
        starts = np.searchsorted(of[by_context], np.arange(self.count + 1))
        step = max(1, cells // len(self._seen))
        for begin in range(0, self.count, step):
            end = min(begin + step, self.count)
            scores = np.asarray(score(begin, end), dtype=np.float64)
            if not np.isfinite(scores).all():
                raise InputError("the scores to evaluate are not all finite numbers", key=self._key)
            for context, row in enumerate(scores, start=begin):
                tests = by_context[starts[context] : starts[context + 1]]
                own, rivals = row[answers[tests]], np.sort(self.rivals(context, row))
                not_above = np.searchsorted(rivals, own, "right")
                below = np.searchsorted(rivals, own, "left")
                ranks[tests] = 1 + (len(rivals) - not_above) + (not_above - below) / 2
        return ranks

    def rivals(self, context: int, scores: np.ndarray) -> np.ndarray:
        """Scores (targets,) in a context, -inf for each target that is no rival of its answers."""
        rivals = np.where(self._seen, scores, -np.inf)
        rivals[self._known.indices[self._known.indptr[context] : self._known.indptr[context + 1]]] = -np.inf
        return rivals


def _known(
    tensors: Sequence[SparseTensor], mode: int, others: list[int], contexts: _Contexts, answers: np.ndarray
) -> scipy.sparse.csr_array:
    """Which targets (columns) are known for which context (rows): the answers among them."""
    rows, columns = [contexts.of], [answers]
    for tensor in tensors:
        entries, context = contexts.find([tensor.coords[m] for m in others])
        targets = tensor.coords[mode][entries]
        rows.append(context[targets >= 0])
        columns.append(targets[targets >= 0])
    at = (np.concatenate(rows), np.concatenate(columns))
    return scipy.sparse.csr_array(
        (np.ones(len(at[0]), dtype=bool), at), shape=(contexts.count, tensors[0].shape[mode])
    )


class _Contexts:
    """The distinct contexts of some tuples, and where other tuples have the same context.

    ``of``: the context of each tuple. A tuple is looked up mode by mode, like a word in a trie, so no
    key ever exceeds (tuples + 1) x (entities + 1), whatever the order of the relation. Two ids that are
    no entities (-1) may be different ones: each tuple with one has a context of its own.
    """

    def __init__(self, coords: list[np.ndarray], sizes: list[int]) -> None:
        strange = np.any([c < 0 for c in coords], axis=0)
        code = np.where(strange, np.arange(1, len(strange) + 1), 0)
        self._sizes, self._levels = sizes, []
        for coord, size in zip(coords, sizes):
            level, code = np.unique(code * (size + 1) + coord + 1, return_inverse=True)
            self._levels.append(level)
        self.of = code
        self.count = len(self._levels[-1])
        _, first = np.unique(code, return_index=True)
        self._coords = [coord[first] for coord in coords]

    def given(self, begin: int, end: int | None, modalities: Sequence[str]) -> dict[str, np.ndarray]:
        """A range of contexts as a scorer takes them."""
        return {m: coord[begin:end] for m, coord in zip(modalities, self._coords)}

    def find(self, coords: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Which tuples have one of the contexts, and which context that is."""
        entries = np.arange(len(coords[0]) if self.count else 0)
        code = np.zeros(len(entries), dtype=np.int64)
        for coord, size, level in zip(coords, self._sizes, self._levels):
            key = code * (size + 1) + coord[entries] + 1
            place = np.minimum(np.searchsorted(level, key), len(level) - 1)
            found = level[place] == key
            entries, code = entries[found], place[found]
        return entries, code
