"""Groups against plain computations on small random graphs, hard rules, ids and figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pair_confusion_matrix

from mlim.catalog.match_rules import MatchRules
from mlim.evaluation.resampling import JudgedPairs
from mlim.matching import groups as module
from mlim.matching.group_figures import b_cubed, judge_groups
from mlim.matching.groups import (
    DIVIDED,
    TOO_LARGE,
    TOO_LITTLE,
    TOO_UNLIKE,
    Grouping,
    GroupRules,
    ScoredPairs,
    group_ids,
    group_pairs,
    representatives,
)
from mlim.matching.never import HardRules

CONNECTED = GroupRules("connected", 0.5, 100, 0.5)
AVERAGE = GroupRules("average", 0.5, 100, 0.8)


def scored(*pairs: tuple[int, int, float]) -> ScoredPairs:
    first, second, score = (np.array([pair[at] for pair in pairs]) for at in range(3))
    return ScoredPairs(first.astype(np.int64), second.astype(np.int64), score.astype(np.float64))


def families(*numbers: int) -> HardRules:
    """Items of one family never match."""
    nothing = np.empty((len(numbers), 0), dtype=np.int64)
    return HardRules(MatchRules(families="across"), nothing, np.array(numbers))


def sets(found: Grouping) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(found.groups == number).tolist()) for number in set(found.groups.tolist())}


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, ScoredPairs, list[int]]:
    """Up to seven items, some of their pairs with scores that all differ, and families."""
    items = draw(st.integers(1, 7))
    pairs = draw(st.lists(st.sampled_from([*itertools.combinations(range(items), 2), (0, 0)]), unique=True))
    pairs = [pair for pair in pairs if pair != (0, 0)]
    ranks = draw(st.permutations(range(len(pairs))))
    scores = [(*pair, 0.05 + 0.9 * (rank + 0.013 * rank**2) / 30) for pair, rank in zip(pairs, ranks, strict=True)]
    return (
        items,
        scored(*scores) if scores else scored(),
        draw(st.lists(st.integers(-1, 3), min_size=items, max_size=items)),
    )


def plain_components(items: int, pairs: ScoredPairs, threshold: float) -> set[frozenset[int]]:
    parts = [{item} for item in range(items)]
    for first, second, score in zip(pairs.first, pairs.second, pairs.score, strict=True):
        if score >= threshold:
            one, other = (next(part for part in parts if item in part) for item in (first, second))
            if one is not other:
                parts = [part for part in parts if part is not one and part is not other] + [one | other]
    return set(map(frozenset, parts))


def plain_average(items: int, pairs: ScoredPairs, family: list[int], rules: GroupRules) -> set[frozenset[int]]:
    """Join the two nearest parts until none are near enough, inside each component."""
    score = np.zeros((items, items))
    score[pairs.first, pairs.second] = score[pairs.second, pairs.first] = pairs.score
    never = {(a, b) for a in range(items) for b in range(items) if a != b and family[a] == family[b] >= 0}
    allowed = np.array([(a, b) not in never for a, b in zip(pairs.first, pairs.second, strict=True)], dtype=bool)
    low = pairs.at(pairs.score < rules.min_inner * rules.threshold)
    apart = never | {*zip(low.first, low.second, strict=True), *zip(low.second, low.first, strict=True)}
    found: set[frozenset[int]] = set()
    for component in plain_components(items, pairs.at(allowed), rules.threshold):
        parts = [frozenset([item]) for item in component]
        while len(parts) > 1:

            def average(couple: tuple[frozenset[int], frozenset[int]]) -> float:
                both = list(itertools.product(*couple))
                return -1.0 if apart & set(both) else float(np.mean([score[a, b] for a, b in both]))

            best = max(itertools.combinations(parts, 2), key=average)
            if average(best) < rules.min_inner * rules.threshold - 1e-12:
                break
            parts = [part for part in parts if part not in best] + [best[0] | best[1]]
        found |= set(parts)
    return found


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([0.1, 0.3, 0.5]))
def test_connected_groups_are_the_components(graph: tuple[int, ScoredPairs, list[int]], threshold: float) -> None:
    items, pairs, _ = graph
    found = group_pairs(items, pairs, None, CONNECTED._replace(threshold=threshold))
    assert sets(found) == plain_components(items, pairs, threshold)
    assert found.conflicts == []


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([0.1, 0.3, 0.5]))
def test_average_groups_are_those_of_joining_step_by_step(
    graph: tuple[int, ScoredPairs, list[int]], threshold: float
) -> None:
    items, pairs, family = graph
    rules = AVERAGE._replace(threshold=threshold)
    assert sets(group_pairs(items, pairs, families(*family), rules)) == plain_average(items, pairs, family, rules)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([0.3, 0.6]), st.sampled_from([0.2, 0.5, 1.0]))
def test_no_group_holds_a_pair_below_the_floor(
    graph: tuple[int, ScoredPairs, list[int]], threshold: float, share: float
) -> None:
    items, pairs, _ = graph
    rules = AVERAGE._replace(threshold=threshold, min_inner=share)
    groups = group_pairs(items, pairs, None, rules).groups
    inside = groups[pairs.first] == groups[pairs.second]
    assert pairs.score[inside].min(initial=1) >= share * threshold - 1e-9


def test_a_pair_that_scores_nothing_parts_a_group_and_is_the_reason() -> None:
    """Of four items that match all around, two score 0.0: the average alone would join them."""
    square = [(a, b, 0.0 if (a, b) == (0, 3) else 0.9) for a, b in itertools.combinations(range(4), 2)]
    found = group_pairs(4, scored(*square), None, AVERAGE._replace(min_inner=0.5))
    assert found.groups[0] != found.groups[3]
    assert {conflict.reason for conflict in found.conflicts} == {TOO_UNLIKE}


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from([CONNECTED, AVERAGE]), st.integers(2, 4))
def test_rules_hold_and_every_match_is_inside_or_in_conflict(
    graph: tuple[int, ScoredPairs, list[int]], rules: GroupRules, largest: int
) -> None:
    items, pairs, family = graph
    found = group_pairs(items, pairs, families(*family), rules._replace(threshold=0.2, max_items=largest))
    assert np.bincount(found.groups).max() <= largest
    for one, other in itertools.combinations(range(items), 2):
        if family[one] == family[other] >= 0:
            assert found.groups[one] != found.groups[other]
    matched = {(int(a), int(b)) for a, b, s in zip(pairs.first, pairs.second, pairs.score, strict=True) if s >= 0.2}
    inside = {(a, b) for a, b in matched if found.groups[a] == found.groups[b]}
    assert {(conflict.first, conflict.second) for conflict in found.conflicts} == matched - inside


@pytest.mark.parametrize("rules", [CONNECTED, AVERAGE])
def test_a_conflict_has_its_reason(rules: GroupRules) -> None:
    pairs = scored((0, 1, 0.9), (1, 2, 0.8), (0, 2, 0.7), (3, 4, 0.9), (4, 5, 0.8), (3, 5, 0.7))
    found = group_pairs(6, pairs, families(0, 1, 0, 5, 6, 7), rules._replace(max_items=2))
    assert [(conflict.first, conflict.second, conflict.reason) for conflict in found.conflicts] == [
        (1, 2, "other members never match: items of one family"),
        (0, 2, "never match: items of one family"),
        (4, 5, TOO_LARGE),
        (3, 5, TOO_LARGE),
    ]


def test_one_wrong_match_does_not_join_two_groups() -> None:
    clique = [(a, b, 0.9) for side in (range(4), range(4, 8)) for a, b in itertools.combinations(side, 2)]
    pairs = scored(*clique, (3, 4, 0.85))
    assert len(sets(group_pairs(8, pairs, None, CONNECTED))) == 1
    found = group_pairs(8, pairs, None, AVERAGE)
    assert sets(found) == {frozenset(range(4)), frozenset(range(4, 8))}
    assert [conflict.reason for conflict in found.conflicts] == [TOO_LITTLE]


def test_a_component_too_large_to_compare_is_divided_along_its_best_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST_DENSE", 4)
    clique = [(a, b, 0.9) for side in (range(4), range(4, 8)) for a, b in itertools.combinations(side, 2)]
    bridges = [(a, b, 0.6) for a in range(4) for b in range(4, 8)]
    found = group_pairs(8, scored(*clique, *bridges), None, AVERAGE)
    assert sets(found) == {frozenset(range(4)), frozenset(range(4, 8))}


def divided(most: int, items: int, pairs: ScoredPairs, rules: GroupRules = AVERAGE) -> Grouping:
    """The groups where no more than so many items are compared with each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LARGEST_DENSE", most)
        return group_pairs(items, pairs, None, rules)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(2, 6))
def test_a_component_that_is_not_too_large_has_the_groups_of_all_pairs(
    graph: tuple[int, ScoredPairs, list[int]], most: int
) -> None:
    items, pairs, _ = graph
    found, undivided = sets(divided(most, items, pairs)), sets(group_pairs(items, pairs, None, AVERAGE))
    for component in plain_components(items, pairs, AVERAGE.threshold):
        if len(component) <= most:
            assert {group for group in found if group <= component} == {g for g in undivided if g <= component}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 47), st.integers(0, 47)), max_size=60, unique=True),
    st.sampled_from([(0.51,), (0.51, 0.6), (0.55, 0.7, 0.99)]),
)
def test_certain_duplicates_stay_together_however_many_items_are_connected(
    sizes: list[int], others: list[tuple[int, int]], scores: tuple[float, ...]
) -> None:
    """Copies score 1 with each other, and anything may connect them, with equal scores or others."""
    copies = np.repeat(np.arange(len(sizes)), sizes)
    inside = [(a, b, 1.0) for a, b in itertools.combinations(range(len(copies)), 2) if copies[a] == copies[b]]
    across = {(min(pair), max(pair)) for pair in others if max(pair) < len(copies) and len({*copies[[*pair]]}) == 2}
    links = [(*pair, scores[number % len(scores)]) for number, pair in enumerate(sorted(across))]
    found = divided(4, len(copies), scored(*inside, *links) if inside or links else scored())
    for number in range(len(sizes)):
        assert len({*found.groups[copies == number].tolist()}) == 1


def test_a_chain_of_certain_duplicates_has_them_in_groups_of_two_at_any_length() -> None:
    for items in (1998, 2400):
        certain = [(at, at + 1, 1.0) for at in range(0, items, 2)]
        links = [(at, at + 1, 0.51) for at in range(1, items - 1, 2)]
        assert np.bincount(group_pairs(items, scored(*certain, *links), None, AVERAGE).groups).tolist() == [2] * (
            items // 2
        )


def test_a_small_tight_group_at_a_large_one_keeps_its_pairs_below_the_median() -> None:
    large = [(a, b, 0.9) for a, b in itertools.combinations(range(6), 2)]
    small = [(a, b, 0.6) for a, b in itertools.combinations(range(6, 9), 2)]
    found = divided(6, 9, scored(*large, *small, (0, 6, 0.8)))
    assert sets(found) == {frozenset(range(6)), frozenset(range(6, 9))}
    assert [conflict[:2] + conflict[3:] for conflict in found.conflicts] == [(0, 6, DIVIDED)]


def test_equal_pairs_of_more_items_than_can_be_compared_fill_groups_in_order() -> None:
    clique = scored(*((a, b, 1.0) for a, b in itertools.combinations(range(8), 2)))
    assert sets(divided(4, 8, clique)) == {frozenset(range(4)), frozenset(range(4, 8))}
    small = divided(4, 8, clique, AVERAGE._replace(max_items=2))
    assert max(map(len, sets(small))) == 2
    assert TOO_LARGE in {conflict.reason for conflict in small.conflicts}


@pytest.mark.parametrize("rules", [CONNECTED, AVERAGE])
@pytest.mark.parametrize("items", [0, 1, 3])
def test_without_pairs_every_item_is_alone(rules: GroupRules, items: int) -> None:
    assert group_pairs(items, scored(), None, rules).groups.tolist() == list(range(items))


def test_ids_come_from_the_smallest_member_and_nothing_else() -> None:
    one = group_ids(np.array([0, 0, 1]), ["b", "a", "c"])
    other = group_ids(np.array([4, 2, 2, 2]), ["c", "z", "a", "x"])
    assert one[0] == one[1] == other[1] != one[2] == other[0]


def test_the_representative_agrees_most_with_the_others() -> None:
    pairs = scored((0, 1, 0.6), (1, 2, 0.9), (0, 2, 0.5), (2, 3, 1.0))
    assert representatives(np.array([0, 0, 0, 1]), pairs).tolist() == [False, True, False, True]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_b_cubed_is_the_average_over_items(drawn: list[tuple[int, int]]) -> None:
    groups, truth = (np.array([item[at] for item in drawn]) for at in (0, 1))
    precision, recall = b_cubed(groups, truth)
    for item in range(len(drawn)):
        group, true = groups == groups[item], truth == truth[item]
        assert precision[item] == pytest.approx((group & true).sum() / group.sum())
        assert recall[item] == pytest.approx((group & true).sum() / true.sum())


def judged(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, JudgedPairs]:
    """Families of six: the first three of each belong together, the others too; all pairs inside are labelled."""
    truth = np.repeat(np.arange(2 * count), 3)
    family = np.repeat(np.arange(count), 6)
    pairs = [(6 * f + a, 6 * f + b) for f in range(count) for a, b in itertools.combinations(range(6), 2)]
    first, second = np.array(pairs).T
    labels = (truth[first] == truth[second]).astype(np.int64)
    return truth, first, second, labels, JudgedPairs(labels, np.column_stack([family[first], family[second]]))


def test_pairwise_figures_are_those_of_the_pairs() -> None:
    truth, first, second, _, pairs = judged(20)
    groups = np.where(np.arange(120) % 7 == 0, 1000 + np.arange(120), truth // np.where(truth < 10, 2, 1))
    found = judge_groups(groups, first, second, pairs, samples=200, confidence=0.95, seed=0)
    inside = [pair_confusion_matrix(truth[at : at + 6], groups[at : at + 6]) for at in range(0, 120, 6)]
    (_, wrong), (missed, right) = np.sum(inside, axis=0)
    assert found["pairwise"]["precision"]["value"] == pytest.approx(right / (right + wrong))
    assert found["pairwise"]["recall"]["value"] == pytest.approx(right / (right + missed))
    for figures in found.values():
        for figure in figures.values():
            assert 0 <= figure["low"] < figure["value"] < figure["high"] <= 1


def test_perfect_groups_are_perfect_and_few_families_have_no_interval() -> None:
    truth, first, second, _, pairs = judged(3)
    found = judge_groups(truth, first, second, pairs, samples=50, confidence=0.95, seed=0)
    perfect = {"value": 1.0, "low": None, "high": None}
    assert found == {kind: dict.fromkeys(("precision", "recall", "f1"), perfect) for kind in ("pairwise", "b_cubed")}
