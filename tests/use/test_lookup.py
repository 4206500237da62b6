"""Finding an entity by what a person types."""

from __future__ import annotations

import numpy as np
import pytest

from hyperlearn_dask.errors import InputError
from hyperlearn_dask.hypergraph.tensor import Modality
from hyperlearn_dask.use.lookup import find, fold

ARTISTS = Modality(
    "artist",
    np.array(["1", "2", "3", "4", "Monet", "6"]),
    np.array(["Claude Monet", "Édouard Manet", "Paul Klee", "paul klee", "1", ""]),
)


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("1", 0),  # an id wins over the label "1" of another
        ("Monet", 4),
        ("Claude Monet", 0),
        ("claude  monet ", 0),
        ("EDOUARD MANET", 1),
        ("Édouard Manet", 1),  # composed otherwise
        ("paul klee", 3),  # exact before careless
        ("6", 5),
        (6, 5),
    ],
)
def test_names_are_found(text: str | int, index: int) -> None:
    assert find(ARTISTS, text) == index


def test_an_ambiguous_name_lists_the_ids() -> None:
    with pytest.raises(InputError, match=r"'PAUL KLEE' is the name of 2 entities .* by its id: 3, 4"):
        find(ARTISTS, "PAUL KLEE")


@pytest.mark.parametrize(("text", "hint"), [("manet", "Édouard Manet"), ("Claud Monnet", "Claude Monet")])
def test_a_wrong_name_gets_the_closest(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"modality 'artist' is called '{text}'.*closest: '{hint}'"):
        find(ARTISTS, text)


@pytest.mark.parametrize("text", ["", "xyzzyq"])
def test_nothing_close(text: str) -> None:
    with pytest.raises(InputError, match="nothing is close"):
        find(ARTISTS, text)


def test_a_modality_without_labels() -> None:
    bare = Modality("decade", np.array(["1880s", "1890s"]))
    assert find(bare, "1890s") == 1
    with pytest.raises(InputError, match=r"closest: '18[89]0s'"):
        find(bare, "1870s")


def test_fold() -> None:
    assert fold("  Über\tStraße ") == "uber strasse"
