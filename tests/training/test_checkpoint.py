"""An interrupted training that goes on ends where an undisturbed one does."""

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from hyperlearn_dask.cluster import open_scheduler
from hyperlearn_dask.hypergraph.store import open_hypergraph, save_hypergraph
from hyperlearn_dask.training.checkpoint import Checkpoints, State
from hyperlearn_dask.training.fit import fit

from .made_up import SIZES, two_relations, two_relations_problem

SWEEPS = 12


class Stopped(Exception):
    """What interrupts a training in these tests."""


@pytest.fixture
def told():
    return []


@pytest.fixture
def often(tmp_path, told):
    """Checkpoints after every sweep, each time as a new process would have them."""

    def open_again(fingerprint="of-this-one", **options):
        return Checkpoints(
            tmp_path / "checkpoints",
            fingerprint,
            tell=told.append,
            **{"every": 0.0, "share": 1.0, **options},
        )

    return open_again


def stopping(call):
    """An ``on_sweep`` that stops training at its so-maniest call."""
    calls = iter(range(1, call + 1))

    def on_sweep(report):
        if next(calls) == call:
            raise Stopped

    return on_sweep


def train_until(call, checkpoints, hypergraph, changes, client=None):
    problem, training = two_relations_problem(hypergraph, **{"sweeps": SWEEPS} | changes)
    with pytest.raises(Stopped):
        fit(
            hypergraph,
            problem,
            training,
            client=client,
            on_sweep=stopping(call),
            checkpoints=checkpoints,
        )


def train(checkpoints, hypergraph, changes, client=None, on_sweep=None):
    problem, training = two_relations_problem(hypergraph, **{"sweeps": SWEEPS} | changes)
    return fit(hypergraph, problem, training, client=client, checkpoints=checkpoints, on_sweep=on_sweep)


def assert_same(got, expected, tolerance=1e-10, of_objective=1e-9):
    for m, factor in expected.factors.items():
        np.testing.assert_allclose(got.factors[m], factor, rtol=0, atol=tolerance * np.abs(factor).max())
        if expected.draws is not None:
            assert got.draws[m].shape == expected.draws[m].shape
            np.testing.assert_allclose(got.draws[m], expected.draws[m], rtol=0, atol=1e-5)
    assert [row["sweep"] for row in got.history] == [row["sweep"] for row in expected.history]
    objectives = [[row["objective"] for row in model.history] for model in (got, expected)]
    np.testing.assert_allclose(*objectives, rtol=of_objective)


@pytest.mark.parametrize(
    ("changes", "calls", "places"),
    [
        ({}, [1, 7], ["sweep 6"]),
        ({"schedule": "sequential"}, [7, 3], ["sweep 6", "sweep 8"]),
        ({"dtype": "float32"}, [7], ["sweep 6"]),
        ({"tolerance": 1e-3, "sweeps": 400}, [7], ["sweep 6"]),
        # The first draws are burnt in; then every second one is kept.
        (
            {"sweeps": 5, "draws": 14, "burn_in": 5},
            [4, 5, 9],
            ["sweep 3", "posterior draw 2", "posterior draw 10"],
        ),
    ],
    ids=["parallel", "sequential", "float32", "until it converges", "posterior"],
)
def test_it_goes_on_to_the_same_factors(often, told, monkeypatch, changes, calls, places):
    """``calls``: after how many sweeps each of several trainings in a row is stopped."""
    monkeypatch.setattr("hyperlearn_dask.training.chain.KEPT_DRAWS", 10)
    for call in calls:
        train_until(call, often(), two_relations(), changes)
    reports = []
    got = train(often(), two_relations(), changes, on_sweep=reports.append)
    assert told == [f"going on from {place}" for place in places]
    expected = train(None, two_relations(), changes)
    # In float32 the Grams made anew from the factors differ in the last digits from those carried along.
    tolerances = (1e-4, 1e-6) if "dtype" in changes else (1e-10, 1e-9)
    assert_same(got, expected, *tolerances)
    assert reports[0].sweep == int(places[-1].split()[-1]) + 1


def test_a_killed_process_goes_on_in_another(often, told, tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from hyperlearn_dask.training.checkpoint import Checkpoints
from hyperlearn_dask.training.fit import fit
from tests.training.made_up import two_relations, two_relations_problem

def on_sweep(report):
    if report.sweep == 7:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoints = Checkpoints(Path({str(tmp_path / "checkpoints")!r}), "of-this-one", every=0.0, share=1.0)
hypergraph = two_relations()
problem, training = two_relations_problem(hypergraph, sweeps={SWEEPS})
fit(hypergraph, problem, training, on_sweep=on_sweep, checkpoints=checkpoints)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    got = train(often(), two_relations(), {})
    assert told == ["going on from sweep 6"]
    assert_same(got, train(None, two_relations(), {}))


def test_what_would_have_ended_before_is_not_gone_on_from(often, told):
    train_until(10, often(), two_relations(), {})
    expected = train(None, two_relations(), {"tolerance": 0.5})
    assert 5 <= len(expected.history) < 9
    got = train(often(), two_relations(), {"tolerance": 0.5})
    assert not any("going on" in line for line in told)
    assert_same(got, expected)


def test_workers_go_on_and_so_does_one_process_after_them(often, told, tmp_path):
    path = tmp_path / "hypergraph.zarr"
    save_hypergraph(two_relations(), path)
    stored, changes = open_hypergraph(path), {"draws": 4, "burn_in": 2}
    expected = train(None, two_relations(), changes)
    with open_scheduler("local", list(SIZES), workers=2) as client:
        train_until(7, often(), stored, changes, client)
        train_until(SWEEPS - 6 + 4, often(), stored, changes, client)
        shutil.copytree(tmp_path / "checkpoints", tmp_path / "kept")
        there = train(often(), stored, changes, client)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "kept").rename(tmp_path / "checkpoints")
    here = train(often(), two_relations(), changes)
    assert told == ["going on from sweep 6", *["going on from posterior draw 3"] * 2]
    assert_same(there, expected, tolerance=1e-6)
    assert_same(here, expected, tolerance=1e-6)


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_the_last_two_are_kept_and_a_damaged_one_is_named_and_passed_over(often, told, tmp_path):
    train_until(10, often(), two_relations(), {})
    folder = tmp_path / "checkpoints"
    names = ["of-this-one-8.zarr", "of-this-one-9.zarr"]
    assert sorted(path.name for path in folder.iterdir()) == names
    flip(folder / names[1] / "factors/a/c/0/0", 50)
    got = train(often(), two_relations(), {})
    damaged = (
        f"{folder / names[1]}: this checkpoint is damaged or of another version; the one before it is used"
    )
    assert told == [damaged, "going on from sweep 8"]
    assert_same(got, train(None, two_relations(), {}))


def test_no_flipped_bit_and_no_lost_file_is_believed(often, told, tmp_path):
    """Every file of a checkpoint in turn: the state is as it was, or the one before is taken."""
    train_until(4, often(), two_relations(), {"draws": 5})
    folder = tmp_path / "checkpoints"
    last = folder / "of-this-one-3.zarr"
    whole, other = often().latest(), shutil.copytree(last, tmp_path / "other")
    generator = np.random.default_rng(0)
    for file in sorted(path.relative_to(last) for path in last.rglob("*") if path.is_file()):
        for way in ("flip", "flip", "flip", "lose"):
            shutil.rmtree(last)
            shutil.copytree(other, last)
            if way == "lose":
                (last / file).unlink()
            else:
                flip(last / file, int(generator.integers((last / file).stat().st_size)))
            found = often().latest()
            if len(found.history) == len(whole.history):
                assert way == "flip"
                assert_same_state(found, whole)
            else:
                assert len(found.history) == 2
                assert "damaged" in told[-2]


def assert_same_state(found: State, expected: State) -> None:
    assert (found.history, found.slope, found.draw) == (expected.history, expected.slope, expected.draw)
    for role in ("factors", "proposals", "directions", "drawn", "kept"):
        got, wanted = getattr(found, role), getattr(expected, role)
        assert list(got) == list(wanted)
        for m in wanted:
            np.testing.assert_array_equal(got[m], wanted[m])


def test_if_all_are_damaged_training_begins_anew(often, told, tmp_path):
    train_until(10, often(), two_relations(), {})
    for file in (tmp_path / "checkpoints").glob("*/about/c/*"):
        flip(file, 30)
    got = train(often(), two_relations(), {})
    assert [line.rpartition("; ")[2] for line in told] == [
        "the one before it is used",
        "training begins anew",
    ]
    assert_same(got, train(None, two_relations(), {}))


def test_one_of_other_settings_is_not_used_and_stays_until_a_new_one_is_written(often, told, tmp_path):
    train_until(10, often(), two_relations(), {})
    train_until(1, often("of-another-one"), two_relations(), {"seed": 1})
    assert told == ["the checkpoints there are of other data or settings; training begins anew"]
    assert often().latest().place == "sweep 9"
    train_until(2, often("of-another-one"), two_relations(), {"seed": 1})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["of-another-o-1.zarr"]


@pytest.mark.parametrize(
    ("sweeps", "place", "passed"),
    [(15, "sweep 9", 0), (9, "sweep 8", 1), (7, None, 2)],
    ids=["further", "by the one before", "not as far"],
)
def test_it_goes_on_to_another_number_of_sweeps(often, told, sweeps, place, passed):
    train_until(10, often(), two_relations(), {})
    got = train(often(), two_relations(), {"sweeps": sweeps})
    assert told == [
        f"the checkpoint of sweep {9 - at} is not on the way to where training ends now; "
        f"{'an earlier one is looked for' if at == 0 else 'training begins anew'}"
        for at in range(passed)
    ] + ([f"going on from {place}"] if place else [])
    assert_same(got, train(None, two_relations(), {"sweeps": sweeps}))


@pytest.mark.parametrize("sweeps", [8, 3])
def test_draws_of_other_sweeps_are_not_gone_on_from(often, told, sweeps):
    train_until(9, often(), two_relations(), {"sweeps": 5, "draws": 6})
    got = train(often(), two_relations(), {"sweeps": sweeps, "draws": 6})
    assert told[-1].endswith("is not on the way to where training ends now; training begins anew")
    assert_same(got, train(None, two_relations(), {"sweeps": sweeps, "draws": 6}))


def test_a_fingerprint_counts_as_a_whole(often, told, tmp_path):
    train_until(3, often("of-another-one, of training"), two_relations(), {})
    assert often("of-another-one, of evaluation").latest() is None
    assert "damaged" in told[-1]


def test_time_decides_when_one_is_written(often, tmp_path, monkeypatch):
    clock = 0.0
    monkeypatch.setattr("time.monotonic", lambda: clock)
    checkpoints = often(every=30.0, share=0.02)
    written = []

    def take():
        nonlocal clock
        clock += cost
        written.append(clock - cost)
        return State((), {"a": np.ones((3, 2))})

    def train_from(start, stop):
        nonlocal clock
        for begins in np.arange(start, stop, 5.0):
            clock = begins
            checkpoints.offer(take)

    cost = 0.1
    train_from(0, 100)
    assert written == [30, 65]
    cost, written = 2.0, []
    train_from(100, 400)
    # One that takes 2 s is 2 % of 100 s.
    assert written == [100, 200, 300]


def test_one_that_cannot_be_written_is_told_and_training_goes_on(often, told, tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    got = train(often(), two_relations(), {"sweeps": 3})
    assert len(got.history) == 3
    assert len(told) == 2
    assert told[0].startswith("no checkpoint at sweep 1: a file is in the way of a folder")


def test_they_can_be_cleared_and_nothing_else_is(often, tmp_path):
    folder = tmp_path / "checkpoints"
    often().clear()
    train_until(3, often(), two_relations(), {})
    (folder / ".of-this-one-1.zarr.partial-4194305").mkdir()
    often().clear()
    assert list(tmp_path.iterdir()) == []
    assert often().latest() is None
    (folder / "thesis").mkdir(parents=True)
    (folder / "notes.txt").touch()
    train_until(5, often(), two_relations(), {})
    often().clear()
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "thesis"]
