from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperlearn_dask.config import PlacementSpec
from hyperlearn_dask.errors import InputError
from hyperlearn_dask.factorization.problem import TermSettings, build_problem
from hyperlearn_dask.training.executor import LocalExecutor
from hyperlearn_dask.training.fit import fit, problem_of
from hyperlearn_dask.training.placing.arrange import arrange, make_shards, split_rows
from hyperlearn_dask.training.placing.cost import Counts
from hyperlearn_dask.training.placing.placement import RowCosts, cut, place, walked_by_owners
from tests.training.made_up import SIZES, two_relations, two_relations_problem


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 9))
def test_shards_are_whole_rows_in_order_and_cover_every_entry(counts, pieces):
    indptr = np.concatenate([[0], np.cumsum(counts)])
    shards = cut({"r": indptr}, {"r": 0}, pieces, {})
    assert 1 <= len(shards) <= pieces
    assert [s.number for s in shards] == list(range(len(shards)))
    at = 0
    for shard in shards:
        assert shard.start == at
        assert shard.stop > at or indptr[-1] == 0
        assert indptr[shard.first_row] <= shard.start
        assert indptr[shard.first_row + shard.rows] == shard.stop
        at = shard.stop
    assert at == indptr[-1]


def test_shards_are_balanced():
    indptr = np.arange(0, 10_001, 10)
    sizes = [s.stop - s.start for s in cut({"r": indptr}, {"r": 0}, 4, {})]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 10


def test_a_modality_goes_to_the_worker_that_declares_it():
    shards = cut({"r": np.arange(7)}, {"r": 0}, 2, {})
    placement = place({"a": 5, "b": 6}, shards, {"tcp://1": {"b": 1.0}, "tcp://2": {"a": 1.0}})
    assert placement.owners == {"a": "tcp://2", "b": "tcp://1"}
    assert set(placement.holders.values()) == {"tcp://1", "tcp://2"}


def test_without_declarations_long_modalities_are_spread():
    placement = place({"a": 100, "b": 90, "c": 5, "d": 5}, [], {"tcp://1": {}, "tcp://2": {}})
    assert placement.owners["a"] != placement.owners["b"]


def test_fewer_workers_than_shards_share_them():
    shards = cut({"r": np.arange(101)}, {"r": 1}, 4, {"r": 0})
    assert len(shards) == 8 and all(shard.sort_mode == 1 for shard in shards)
    placement = place({"a": 1}, shards, {"tcp://1": {}, "tcp://2": {}})
    assert sorted(placement.holders.values()) == ["tcp://1"] * 4 + ["tcp://2"] * 4


def test_contexts_without_the_longest_mode_are_in_one_shard():
    shards = cut({"r": np.arange(101)}, {"r": 1}, 4, {"r": 1})
    assert [shard.rows for shard in shards if shard.holds_contexts] == [100]


def test_a_cluster_without_workers_is_refused():
    with pytest.raises(InputError, match="no workers"):
        place({"a": 1}, [], {})


rows_of_relations = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=4)


@given(rows_of_relations, st.integers(1, 9), st.floats(0.1, 9), st.floats(0, 9), st.sets(st.integers(0, 3)))
def test_relations_end_to_end_are_cut_into_stretches_of_whole_rows(counts, pieces, entry, row, targets):
    indptrs = {f"r{i}": np.concatenate([[0], np.cumsum(c)]) for i, c in enumerate(counts)}
    targets = {f"r{i}": i % 2 for i in targets if i < len(counts)}
    costs = {name: RowCosts(entry, 1.0, row) for name in indptrs}
    shards = cut(indptrs, dict.fromkeys(indptrs, 0), pieces, targets, costs)
    assert all(0 <= s.stretch < pieces for s in shards)
    for name, indptr in indptrs.items():
        for contexts in (False, True) if name in targets else (False,):
            own = [s for s in shards if s.relation == name and s.holds_contexts == contexts]
            assert [s.start for s in own[1:]] == [s.stop for s in own[:-1]]
            assert own[0].start == 0 and own[-1].stop == indptr[-1]
            for s in own:
                assert (s.start, s.stop) == (indptr[s.first_row], indptr[s.first_row + s.rows])


def test_stretches_are_balanced_by_work_and_small_relations_stay_whole():
    indptrs = {"large": np.arange(0, 9001, 3), "small": np.arange(101), "dear": np.arange(1001)}
    costs = {"dear": RowCosts(entry=3.0), "small": RowCosts(), "large": RowCosts(row=1.0)}
    shards = cut(indptrs, dict.fromkeys(indptrs, 0), 4, {}, costs)
    work = np.zeros(4)
    for s in shards:
        cost = costs[s.relation]
        work[s.stretch] += cost.entry * (s.stop - s.start) + cost.row * s.rows
    assert work.sum() == 9000 + 3000 + 100 + 3000
    assert work.max() <= 1.07 * work.mean()
    assert [s.relation for s in shards].count("small") == 1


def test_contexts_that_cannot_be_cut_get_a_stretch_of_their_own():
    shards = cut({"r": np.arange(101)}, {"r": 1}, 4, {"r": 1}, {"r": RowCosts(context=2.0)})
    [contexts] = [s for s in shards if s.holds_contexts]
    assert contexts.stretch not in {s.stretch for s in shards if s is not contexts}
    assert len(shards) == 4


def test_stretches_stay_together_near_their_modalities_as_long_as_workers_are_alike():
    shards = cut({"r": np.arange(0, 41), "q": np.arange(0, 41)}, {"r": 0, "q": 0}, 2, {"r": 1})
    traffic = {s: {"a": 1.0, "b": 2.0} if s.stretch else {"a": 1.0} for s in shards}
    placement = place({"a": 2, "b": 1}, shards, {"1": {}, "2": {}}, traffic=traffic)
    assert placement.owners == {"a": "1", "b": "2"}
    for shard in shards:
        assert placement.holders[shard] == ("2" if shard.stretch else "1")


def test_a_chosen_owner_comes_first_and_several_declarations_leave_the_choice():
    workers = {"1": {"a": 1.0, "b": 1.0}, "2": {"c": 1.0}}
    work = {"a": 9, "b": 8, "c": 1}
    assert place(work, [], workers).owners == {"a": "1", "b": "2", "c": "2"}
    assert place(work, [], workers, chosen={"a": "2"}).owners == {"a": "2", "b": "1", "c": "2"}


def test_owners_walk_whole_relations():
    shards = cut({"r": np.arange(41)}, {"r": 0}, 2, {"r": 1})
    both = walked_by_owners(shards, {"r": ("a", "b")})
    placement = place({"a": 1, "b": 1}, both, {"1": {}, "2": {}})
    wholes = [s for s in both if s.modality]
    assert [(s.modality, s.holds_contexts, s.stop) for s in wholes] == [
        ("a", False, 40),
        ("b", False, 40),
        ("a", True, 40),
        ("b", True, 40),
    ]
    assert all(placement.holders[s] == placement.owners[s.modality] for s in wholes)
    assert not any(s.products for s in both if not s.modality)
    assert sum(share.entries for share in placement.by_worker().values()) == 80


def context_problem(hypergraph, **changes):
    """The two relations, one read as contexts whose target is its longest mode, one as unknown."""
    _, training = two_relations_problem(hypergraph, **changes)
    terms = {
        "made": TermSettings("context", 1.0, {"shared": ("a", "b", "c"), "pair": ("a", "b")}, target="a"),
        "rated": TermSettings("unknown", 0.5, {"shared": ("b", "c"), "bias": ("b",)}, "mean"),
    }
    return problem_of(hypergraph, terms, training, {"b": 2.0}), training


class Placed(LocalExecutor):
    """In this process, but with the places of a cluster."""

    def __init__(self, hypergraph, setting, places):
        super().__init__(hypergraph, setting)
        self.places = places
        self._shards = {
            p: p.cut(
                hypergraph.relations[p.relation].tensor[p.start : p.stop],
                setting.offsets[p.relation],
                "float64",
            )
            for p in places
        }


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from(["shards", "owner"]),
    st.integers(1, 9),
    st.sampled_from([two_relations_problem, context_problem]),
    st.sampled_from(["parallel", "sequential"]),
)
def test_no_placement_changes_the_factors(scheme, pieces, make_problem, schedule):
    hypergraph = two_relations()
    problem, training = make_problem(hypergraph, sweeps=4, schedule=schedule)
    expected = fit(hypergraph, problem, training).factors
    counts = Counts({n: r.nnz for n, r in hypergraph.relations.items()}, dict.fromkeys("ab", 100))
    indptrs = {n: r.tensor.row_starts for n, r in hypergraph.relations.items()}
    places = make_shards(problem, counts, indptrs, PlacementSpec(scheme), pieces)

    def cut_up(hypergraph, setting, device):
        return Placed(hypergraph, setting, places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hyperlearn_dask.training.fit.LocalExecutor", cut_up)
        got = fit(hypergraph, problem, training).factors
    for m in SIZES:
        np.testing.assert_allclose(got[m], expected[m], rtol=0, atol=1e-6 * np.abs(expected[m]).max())


def test_an_owner_who_is_not_there_is_a_mistake_at_first_and_replaced_later():
    problem, _ = two_relations_problem(two_relations())
    counts = Counts({"made": 300, "rated": 120})
    workers, names = {"tcp://1": {}, "tcp://2": {}}, {"tcp://1": "0", "tcp://2": "1"}
    spec = PlacementSpec(owners={"c": "1"})
    assert arrange(problem, counts, [], workers, spec, names).owners["c"] == "tcp://2"
    gone = replace(spec, owners={"c": "2"})
    with pytest.raises(InputError, match=r"placement.owners.c.*no worker is called '2' \(workers: 0, 1\)"):
        arrange(problem, counts, [], workers, gone, names)
    assert arrange(problem, counts, [], workers, gone, names, strict=False).owners["c"] in workers


def test_only_what_has_rows_of_its_own_is_owned_in_parts():
    sizes, relations = {"long": 200_000, "short": 100}, {"r": ("long", "short")}
    counts = Counts({"r": 1_000_000, "s": 1_000_000})
    terms = {"r": TermSettings("zero"), "s": TermSettings("zero")}

    def splits(relations=relations, spec=PlacementSpec(), graphs=None, sizes=sizes):  # noqa: B008
        own = {name: terms[name] for name in relations}
        problem = build_problem(sizes, relations, own, {"all": 16}, graphs or {}, 1e-2)
        indptrs = {r: np.linspace(0, 1_000_000, sizes["long"] + 1).astype(int) for r in relations}
        return split_rows(problem, counts, make_shards(problem, counts, indptrs, spec, 4), spec)

    [(modality, bounds)] = splits().items()
    assert modality == "long" and len(bounds) == 4
    assert bounds[0][0] == 0 and bounds[-1][1] == 200_000
    assert not splits(graphs={"long": 1.0})
    assert not splits(spec=PlacementSpec(owners={"long": "0"}))
    assert not splits(spec=PlacementSpec("owner"))
    assert not splits(relations={"r": ("long", "short"), "s": ("long", "short")})
    assert not splits(sizes={"long": 1_000, "short": 100})
    assert set(splits(spec=PlacementSpec(owners={"short": "0"}))) == {"long"}


def test_parts_are_owned_where_their_shards_are_and_printed():
    problem = build_problem({"long": 40, "short": 5}, {"r": ("long", "short")}, {}, {"all": 2}, {}, 1e-2)
    counts, spec = Counts({"r": 80}), PlacementSpec()
    shards = make_shards(problem, counts, {"r": np.arange(0, 81, 2)}, spec, 2)
    splits = {"long": [(0, shards[1].first_row), (shards[1].first_row, 40)]}
    found = arrange(problem, counts, shards, {"x": {}, "y": {}}, spec, {}, splits=splits)
    assert [part.owner for part in found.parts["long"]] == [found.holders[shard] for shard in shards]
    assert found.owners["long"] == found.parts["long"][0].owner
    assert set(found.places) == {"long-0", "long-1", "short"}
    assert sum(part.rows for part in found.owned(problem.sizes)) == 45
    assert f"owns long (rows 0 to {shards[1].first_row})" in found.lines()[0]
    alone = arrange(problem, counts, shards, {"x": {}}, spec, {}, splits=splits)
    assert {part.owner for part in alone.parts["long"]} == {"x"}
