"""Questions to a model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.model import Model
from hyperlearn_dask.factorization.problem import build_problem
from hyperlearn_dask.hypergraph.tensor import Modality
from hyperlearn_dask.use.rank import rank, similar


def test_the_first_complete_relation_answers(model: Model) -> None:
    answer = rank(model, "movie", {"user": "u2"})
    assert answer.relations == ("rates",)
    assert answer.given == {"user": "u2"}
    for row in answer.rows:
        movie = np.flatnonzero(model.modalities["movie"].ids == row.id)
        assert row.score == pytest.approx(model.predict("rates", (np.array([1]), movie))[0])
    scores = [row.score for row in answer.rows]
    assert scores == sorted(scores, reverse=True)
    assert {row.id for row in answer.rows} == {"1", "2", "3", "4"}  # 5 is not informed


def test_relation_top_and_exclude(model: Model) -> None:
    answer = rank(model, "movie", {"user": "u2"}, relation="tagged", top=2, exclude=["Alien"])
    assert answer.relations == ("tagged",)
    assert len(answer.rows) == 2
    assert "1" not in {row.id for row in answer.rows}
    full = rank(model, "movie", {"user": "u2"}, relation="tagged", top=99)
    assert answer.rows == tuple(row for row in full.rows if row.id != "1")[:2]


def test_a_modality_not_given_counts_as_its_mean(model: Model) -> None:
    answer = rank(model, "tag", {"movie": "Alien"})
    movie, users = model.factors["movie"][0], model.factors["user"].mean(axis=0)
    taste = (movie[:3] * users[:3]).sum()
    tag = model.modalities["tag"].ids.tolist().index(answer.rows[0].id)
    words = movie[5:] @ model.factors["tag"][tag, 5:]
    assert answer.rows[0].score == pytest.approx(taste + words)


def two_relations(scale: float) -> Model:
    """Artists by medium (in units of ``scale``) and by decade, no relation having both."""
    problem = build_problem(
        {"artist": 3, "medium": 1, "decade": 1},
        {"in": ("artist", "medium"), "at": ("artist", "decade")},
        {},
        {"all": 1},
        {},
        0.1,
    )
    model = Model(problem, {}, {}, {})
    modalities = {n: Modality(n, np.array([f"{n}{i}" for i in range(s)])) for n, s in problem.sizes.items()}
    factors = {
        "artist": np.array([[1.0], [2.0], [3.0]]),
        "medium": np.array([[scale]]),
        "decade": np.array([[-1.0]]),
    }
    informed = {n: np.ones(s, dtype=bool) for n, s in problem.sizes.items()}
    return dataclasses.replace(model, modalities=modalities, factors=factors, informed=informed)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_scores_of_several_relations_are_standardised(scale: float) -> None:
    answer = rank(two_relations(scale), "artist", {"medium": "medium0", "decade": "decade0"})
    assert answer.relations == ("in", "at")
    # The two relations say the opposite in units of their own: standardised they cancel out.
    assert [row.score for row in answer.rows] == pytest.approx([0, 0, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("target", "given", "relation", "message"),
    [
        ("film", {}, None, r"no modality 'film' \(the model has user, movie, tag\)"),
        ("movie", {"usr": "u1"}, None, "no modality 'usr'"),
        ("movie", {"movie": "1"}, None, "both given and asked for"),
        ("movie", {"user": "u9"}, None, "no entity of modality 'user' is called 'u9'"),
        ("movie", {"user": "u1"}, "likes", r"no relation 'likes' \(the model has rates, tagged\)"),
        ("movie", {"tag": "space"}, "rates", r"'rates' does not join 'tag' \(it joins user, movie\)"),
        ("movie", {"tag": "HORROR"}, None, "by its id: 1, 3"),
    ],
)
def test_wrong_questions(
    model: Model, target: str, given: dict[str, str], relation: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rank(model, target, given, relation=relation)


def test_a_given_modality_no_relation_can_use() -> None:
    with pytest.raises(
        InputError, match=r"no relation joins 'decade' with 'medium' \(relations are in: artist"
    ):
        rank(two_relations(1.0), "medium", {"artist": "artist0", "decade": "decade0"})


def test_no_answers_are_asked_for(model: Model) -> None:
    with pytest.raises(InputError, match="0 answers"):
        rank(model, "movie", {"user": "u1"}, top=0)


def test_similar_is_the_cosine_of_the_free_columns(model: Model) -> None:
    answer = similar(model, "movie", "Alien")
    rows = np.delete(model.factors["movie"], 3, axis=1)  # the users' bias column is 1 for every movie
    cosine = rows @ rows[0] / np.linalg.norm(rows, axis=1).clip(1e-300) / np.linalg.norm(rows[0])
    assert [row.id for row in answer.rows] == [str(i + 1) for i in np.argsort(-cosine) if i not in (0, 4)]
    assert answer.rows[0].score == pytest.approx(np.sort(cosine)[-2])


def test_similar_to_an_entity_nothing_is_known_about(model: Model) -> None:
    with pytest.raises(InputError, match="training knew nothing about '5'"):
        similar(model, "movie", "5")


def with_draws(model: Model, count: int = 8) -> Model:
    """The model with posterior draws around its factors; fixed columns stay as they are."""
    generator = np.random.default_rng(1)
    draws = {}
    for name, factor in model.factors.items():
        drawn = np.repeat(factor[None], count, axis=0)
        free = model.problem.free_columns(name)
        drawn[:, :, free] += generator.normal(scale=0.1, size=(count, len(factor), len(free)))
        draws[name] = drawn
    return dataclasses.replace(model, draws=draws)


def test_an_answer_with_uncertainty_has_the_deviation_of_an_observation(model: Model) -> None:
    sampled = with_draws(model)
    answer = rank(sampled, "movie", {"user": "u2"}, relation="rates", with_uncertainty=True)
    for row in answer.rows:
        coords = (np.array([1]), np.flatnonzero(model.modalities["movie"].ids == row.id))
        each = np.array([draw.predict("rates", coords) for draw in sampled.each_draw()])
        noise = 1 / (2 * model.problem.terms["rates"].weight)
        assert row.deviation == pytest.approx(np.sqrt(each.var() + noise))
        assert row.deviation == pytest.approx(sampled.deviation("rates", coords)[0])
    assert all(row.deviation is None for row in rank(sampled, "movie", {"user": "u2"}).rows)


def test_uncertainty_of_what_has_none(model: Model) -> None:
    with pytest.raises(InputError, match="no posterior draws"):
        rank(model, "movie", {"user": "u2"}, with_uncertainty=True)
    several = {"medium": "medium0", "decade": "decade0"}
    with pytest.raises(InputError, match=r"several relations together \(in, at\)"):
        rank(two_relations(1.0), "artist", several, with_uncertainty=True)
