"""Which baselines and peers are run on which data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from benchmarks import baselines, peers
from benchmarks.output import Detail
from hyperlearn_dask.hypergraph.hypergraph import Hypergraph
from hyperlearn_dask.hypergraph.tensor import Relation
from hyperlearn_dask.use.evaluate import Scorer

# A scorer for a ranking task, the predicted test values for a rating task.
Answer = Scorer | np.ndarray


@dataclass(frozen=True)
class Method:
    """A baseline, or a peer (``package``: what it needs). ``run`` takes the data and a seed.

    ``seeded``: whether its answers depend on the seed; ``settings``: of which of our settings files it
    gets the data.
    """

    relation: str
    name: str
    run: Callable[[Hypergraph, int], Answer]
    package: str | None = None
    details: dict[str, Detail] = field(default_factory=dict)
    seeded: bool = False
    settings: str = "dataset"


def baseline(relation: str, name: str, make: Callable[[Relation], Answer]) -> Method:
    """A method that needs one relation and no seed."""
    return Method(relation, name, lambda hypergraph, _: make(hypergraph.relations[relation]))


def peer(
    relation: str, name: str, make: Callable[[Relation, int], Answer], package: str, rank: int
) -> Method:
    """A factorisation by another library."""
    return Method(
        relation,
        name,
        lambda hypergraph, seed: make(hypergraph.relations[relation], seed),
        package,
        {"rank": rank},
        seeded=True,
    )


def with_features(relation: str, name: str, rank: int, *, ordered: bool) -> Method:
    """myfm on the features that ours has, in the same blocks."""

    def run(hypergraph: Hypergraph, seed: int) -> Answer:
        return peers.myfm_with_features(hypergraph, relation, rank=rank, seed=seed, ordered=ordered)

    return Method(relation, name, run, "myfm", {"rank": rank}, seeded=True, settings="features")


def votes(relation: str, target: str, parts: Mapping[tuple[str, str], float], neighbors: int) -> Method:
    """What the artworks most like one have: alike in what they are joined with."""

    def run(hypergraph: Hypergraph, _: int) -> Answer:
        hidden = {"depicts": "subject", "made": "artist"}
        features = baselines.entity_features(hypergraph, "artwork", parts, hidden)
        return baselines.by_votes(
            hypergraph.relations[relation], target, "artwork", features, neighbors=neighbors, power=3.0
        )

    return Method(relation, f"votes of the {neighbors} nearest artworks", run)


def regression(parts: Mapping[tuple[str, str], float]) -> Method:
    """Who made an artwork, by a supervised regression on what it is joined with."""

    def run(hypergraph: Hypergraph, _: int) -> Answer:
        hidden = {"depicts": "subject", "made": "artist"}
        features = baselines.entity_features(hypergraph, "artwork", parts, hidden)
        made = hypergraph.relations["made"]
        return peers.logistic_regression(made, "artist", "artwork", features, inverse_ridge=10.0)

    return Method("made", "scikit-learn logistic regression", run, "sklearn")


MOVIELENS = [
    baseline("ratings", "user and movie means", baselines.biases),
    peer("ratings", "myfm", lambda r, seed: peers.myfm_rating(r, rank=10, seed=seed), "myfm", 10),
    with_features("ratings", "myfm with features", 10, ordered=False),
    with_features("ratings", "myfm with features, ordered probit", 10, ordered=True),
]

LASTFM = [
    baseline("tagged", "popularity", lambda r: baselines.by_popularity(r, "tag")),
    baseline("tagged", "counts per artist", lambda r: baselines.by_counts(r, "tag", "artist")),
    baseline("tagged", "counts per user", lambda r: baselines.by_counts(r, "tag", "user")),
    baseline(
        "tagged",
        "half the user's and half the artist's frequencies",
        lambda r: baselines.by_frequency(r, "tag", {"user": 0.5, "artist": 0.5}),
    ),
    peer(
        "tagged",
        "implicit ALS on artist x tag",
        lambda r, seed: peers.implicit_als(r, "tag", "artist", rank=32, alpha=1.0, seed=seed),
        "implicit",
        32,
    ),
    peer(
        "tagged",
        "pygenten CP-ALS",
        lambda r, seed: peers.pygenten_cp(r, "tag", rank=64, seed=seed),
        "pygenten",
        64,
    ),
]

TATE = [
    baseline("depicts", "popularity", lambda r: baselines.by_popularity(r, "subject")),
    peer(
        "depicts",
        "implicit ALS",
        lambda r, seed: peers.implicit_als(r, "subject", "artwork", rank=64, alpha=20.0, seed=seed),
        "implicit",
        64,
    ),
    Method(
        "depicts",
        "implicit TFIDF item-kNN",
        lambda hypergraph, _: peers.implicit_tfidf(
            hypergraph.relations["depicts"], "subject", "artwork", neighbors=500
        ),
        "implicit",
    ),
    votes(
        "depicts",
        "subject",
        {
            ("depicts", "subject"): 1.0,
            ("made", "artist"): 0.6,
            ("made", "medium"): 0.3,
            ("made", "decade"): 0.3,
        },
        neighbors=100,
    ),
    baseline("made", "most frequent artist", lambda r: baselines.by_popularity(r, "artist")),
    votes(
        "made",
        "artist",
        {("depicts", "subject"): 1.0, ("made", "medium"): 0.5, ("made", "decade"): 0.5},
        neighbors=50,
    ),
    regression({("depicts", "subject"): 1.0, ("made", "medium"): 1.0, ("made", "decade"): 1.0}),
]

METHODS = {"movielens-100k": MOVIELENS, "lastfm": LASTFM, "tate": TATE}
