"""The museum data set is consistent: what can be checked without an art historian is checked here."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

MUSEUM = Path(__file__).parent.parent / "data" / "museum"
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
YOUNGEST = 10  # nobody here made a known work before this age

# A subject on the left is always accompanied by the one on the right, as the README promises,
# unless the row is a stated exception (a ship's deck without water, a spider called mother).
ENTAILED = {
    "river": "water",
    "sea": "water",
    "lake": "water",
    "pond": "water",
    "harbour": "water",
    "boat": "water",
    "snow": "winter",
    "mount fuji": "mountain",
    "mother": "woman",
    "self-portrait": "portrait",
    "ballet": "dancer",
    "sunflower": "flower",
    "apple": "fruit",
}
EXCEPTIONS = {
    ("ai-weiwei-sunflower-seeds-2010", "flower"),
    ("bourgeois-maman-1999", "woman"),
    ("braque-portuguese-1911", "water"),
    ("giorgione-tempest-1508", "woman"),
    ("hepworth-pelagos-1946", "water"),
    ("sorolla-and-they-still-say-fish-is-1894", "water"),
    ("turner-snow-storm-steam-boat-off-a-1842", "winter"),
}


def read(name: str) -> list[dict[str, str]]:
    """Read a table; a row longer or shorter than the header is an error."""
    with (MUSEUM / name).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def artworks() -> list[dict[str, str]]:
    """The artworks with all their subjects, those of held_out.csv last."""
    held_out = {row["artwork"]: row["subjects"] for row in read("held_out.csv")}
    rows = read("artworks.csv")
    for row in rows:
        if row["artwork"] in held_out:
            row["subjects"] += ";" + held_out[row["artwork"]]
    return rows


@pytest.fixture(scope="module")
def artists() -> list[dict[str, str]]:
    return read("artists.csv")


def subjects(artwork: dict[str, str]) -> list[str]:
    return artwork["subjects"].split(";")


def test_there_are_enough(artworks, artists):
    assert len(artworks) >= 400
    assert len(artists) >= 100


def test_ids_are_unique_slugs(artworks, artists):
    for key, table in [("artwork", artworks), ("artist", artists)]:
        ids = [row[key] for row in table]
        assert [i for i, n in Counter(ids).items() if n > 1] == []
        assert [i for i in ids if not SLUG.fullmatch(i)] == []


def test_an_artwork_id_ends_in_its_year(artworks):
    assert [row["artwork"] for row in artworks if not row["artwork"].endswith(f"-{row['year']}")] == []


def test_an_artist_has_one_work_of_a_title(artworks):
    titles = Counter((row["artist"], row["title"], row["museum"], row["year"]) for row in artworks)
    assert [title for title, n in titles.items() if n > 1] == []


def test_no_artist_is_orphaned_either_way(artworks, artists):
    assert {row["artist"] for row in artworks} == {row["artist"] for row in artists}


def test_names_are_unique(artists):
    assert len({row["name"] for row in artists}) == len(artists)


def test_no_field_is_empty_or_padded(artworks, artists):
    for row in [*artworks, *artists]:
        for column, value in row.items():
            assert value == value.strip(), (column, row)
            assert "  " not in value, (column, row)
            assert value or column == "died", (column, row)  # "died" is empty for the living


def test_lives_are_plausible(artists):
    for row in artists:
        assert re.fullmatch(r"1?\d{3}", row["born"]), row
        if row["died"]:
            assert 15 <= int(row["died"]) - int(row["born"]) <= 105, row
        else:
            assert int(row["born"]) >= 1920, row


def test_years_lie_within_lives(artworks, artists):
    lives = {row["artist"]: (int(row["born"]), int(row["died"] or 2025)) for row in artists}
    for row in artworks:
        born, died = lives[row["artist"]]
        assert born + YOUNGEST <= int(row["year"]) <= died, row


def test_decades_follow_from_years(artworks):
    wrong = [row["artwork"] for row in artworks if row["decade"] != f"{int(row['year']) // 10 * 10}s"]
    assert wrong == []


def test_held_out_subjects_are_of_works_and_known_from_others(artworks):
    held_out = read("held_out.csv")
    kept = Counter(subject for row in read("artworks.csv") for subject in subjects(row))
    assert {row["artwork"] for row in held_out} <= {row["artwork"] for row in artworks}
    assert len({row["artwork"] for row in held_out}) == len(held_out)
    assert [row["subjects"] for row in held_out if kept[row["subjects"]] < 5] == []


def test_each_work_has_two_to_six_distinct_subjects(artworks):
    for row in artworks:
        assert 2 <= len(subjects(row)) <= 6, row
        assert len(set(subjects(row))) == len(subjects(row)), row


def test_every_subject_is_a_lower_case_phrase_used_at_least_twice(artworks):
    counts = Counter(subject for row in artworks for subject in subjects(row))
    assert [subject for subject, n in counts.items() if n < 2] == []
    assert [s for s in counts if not re.fullmatch(r"[a-zé]+([ -][a-zé]+){0,2}", s)] == []


def test_subjects_entail_what_the_readme_says(artworks):
    missing = {
        (row["artwork"], entailed)
        for row in artworks
        for subject, entailed in ENTAILED.items()
        if subject in subjects(row) and entailed not in subjects(row)
    }
    assert missing == EXCEPTIONS


@pytest.mark.parametrize("column", ["medium", "movement", "museum", "subjects", "country"])
def test_no_two_terms_differ_by_case_or_punctuation_only(artworks, artists, column):
    table = artists if column == "country" else artworks
    separator = ";" if column == "subjects" else "\0"
    terms = {term for row in table for term in row[column].split(separator)}
    folded = Counter(re.sub(r"\W", "", term).casefold() for term in terms)
    assert [term for term, n in folded.items() if n > 1] == []


def test_columns_hold_their_own_vocabulary(artworks, artists):
    vocabularies = {
        column: {row[column] for row in artworks}
        for column in ("artist", "medium", "movement", "museum", "decade")
    }
    vocabularies["subject"] = {subject for row in artworks for subject in subjects(row)}
    vocabularies["country"] = {row["country"] for row in artists}
    seen: dict[str, str] = {}
    for column, terms in vocabularies.items():
        for term in terms:
            assert term not in seen, f"{term!r} is a {column} and a {seen[term]}"
            seen[term] = column
    assert [m for m in vocabularies["medium"] if m != m.lower()] == []
    assert [m for m in vocabularies["movement"] | vocabularies["museum"] if not m[0].isupper()] == []
    assert [d for d in vocabularies["decade"] if not re.fullmatch(r"1?\d{2}0s|20[012]0s", d)] == []


def test_the_small_vocabularies_stay_small(artworks):
    assert 15 <= len({row["medium"] for row in artworks}) <= 45
    assert 25 <= len({row["movement"] for row in artworks}) <= 60
    assert 100 <= len({subject for row in artworks for subject in subjects(row)}) <= 220


def test_tables_are_sorted(artworks, artists):
    assert artworks == sorted(artworks, key=lambda row: (row["artist"], int(row["year"]), row["artwork"]))
    assert artists == sorted(artists, key=lambda row: row["artist"])
