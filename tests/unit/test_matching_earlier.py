"""A match that follows an earlier one: the same groups as without it, ids that stay, and an event for every change."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlim.catalog.match_rules import MatchRules
from mlim.matching import groups as groups_module
from mlim.matching.earlier import (
    GONE,
    EarlierMatch,
    EarlierScores,
    ItemChanges,
    PairNumbers,
    compare_items,
    compare_pairs,
)
from mlim.matching.group_events import (
    CHANGED,
    ENDED,
    MERGED,
    NEW,
    SPLIT,
    Causes,
    Event,
    continued_ids,
    group_events,
)
from mlim.matching.groups import Grouping, GroupRules, ScoredPairs, group_ids, group_pairs
from mlim.matching.never import HardRules

AVERAGE, CONNECTED = GroupRules("average", 0.5, 4, 0.6), GroupRules("connected", 0.5, 4, 0.6)


class Item(NamedTuple):
    """What decides where an item lies, how it scores, and what it never matches."""

    content: int
    family: int


Catalog = Mapping[str, Item]
Edits = Mapping[str, Item | None]  # None: removed
ITEMS = st.builds(Item, st.integers(0, 9), st.integers(-1, 2))
IDS = [f"i{number:02d}" for number in range(14)]
CATALOGS = st.lists(ITEMS, min_size=8, max_size=len(IDS)).map(lambda drawn: dict(zip(IDS, drawn, strict=False)))
EDITS = st.dictionaries(st.sampled_from(IDS), st.none() | ITEMS, min_size=1, max_size=2)


class Matched(NamedTuple):
    """A match of a catalog and all that the next one reads of it."""

    ids: list[str]
    pairs: ScoredPairs
    found: Grouping
    groups: dict[str, str]
    digests: pd.DataFrame


def number(*parts: object) -> float:
    """A number in [0, 1) that looks drawn and depends on the parts alone."""
    return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:6], 16) / 16**6


def candidates(catalog: Catalog) -> ScoredPairs:
    """Each item with the two that lie nearest, so that an item that arrives displaces others."""
    ids = sorted(catalog)
    at = np.array([catalog[item].content + number(item) for item in ids])
    near = {
        (min(one, other), max(one, other))
        for one in range(len(ids))
        for other in np.argsort(np.abs(at - at[one]), kind="stable")[1:3].tolist()
    }
    pairs = sorted(near)
    scores = [
        number(*sorted((ids[a], catalog[ids[a]].content, ids[b], catalog[ids[b]].content), key=str)) for a, b in pairs
    ]
    first, second = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    return ScoredPairs(first, second, np.array(scores, dtype=np.float64))


def never(catalog: Catalog) -> HardRules:
    nothing = np.empty((len(catalog), 0), dtype=np.int64)
    return HardRules(
        MatchRules(families="across"), nothing, np.array([catalog[item].family for item in sorted(catalog)])
    )


def digests(catalog: Catalog) -> pd.DataFrame:
    rows = [(item, str(catalog[item].content), str(catalog[item].family)) for item in sorted(catalog)]
    return pd.DataFrame(rows, columns=["id", "content", "ruled"], dtype="str")


def match(catalog: Catalog, rules: GroupRules) -> Matched:
    ids, pairs = sorted(catalog), candidates(catalog)
    found = group_pairs(len(ids), pairs, never(catalog), rules)
    return Matched(ids, pairs, found, dict(zip(ids, group_ids(found.groups, ids), strict=True)), digests(catalog))


def earlier_of(before: Matched, catalog: Catalog) -> EarlierMatch:
    numbering = PairNumbers(sorted({*before.ids, *catalog}))
    places = numbering.places(before.ids)
    numbers = numbering.numbers(places[before.pairs.first], places[before.pairs.second])
    order = np.argsort(numbers)
    scores = EarlierScores(numbering, numbers[order], before.pairs.score[order], before.pairs.score[order])
    return EarlierMatch(before.groups, scores, compare_items(before.digests, digests(catalog)))


def follow(before: Matched, catalog: Catalog, rules: GroupRules) -> tuple[Matched, list[Event]]:
    """The match of a catalog after that of `before`, as the steps make it."""
    earlier, ids, pairs = earlier_of(before, catalog), sorted(catalog), candidates(catalog)
    known = earlier.scores.without(earlier.changes.rescored)
    places = known.numbering.places(ids)
    found = known.find(known.numbering.numbers(places[pairs.first], places[pairs.second]))
    carried = found != GONE
    np.testing.assert_array_equal(known.score[found[carried]], pairs.score[carried])
    compared = compare_pairs(earlier, ids, pairs, rules.threshold)
    kept = compared.kept(ids, [before.groups.get(item) for item in ids])
    grouping = group_pairs(len(ids), pairs, never(catalog), rules, kept)
    groups = dict(zip(ids, continued_ids(grouping.groups, ids, before.groups), strict=True))
    events = group_events(before.groups, groups, Causes(earlier.changes, compared))
    return Matched(ids, pairs, grouping, groups, digests(catalog)), events


def members(groups: Mapping[str, str]) -> dict[str, set[str]]:
    return {name: {item for item in groups if groups[item] == name} for name in groups.values()}


def edited(catalog: Catalog, edits: Edits) -> Catalog:
    return {item: what for item, what in {**catalog, **edits}.items() if what is not None}


@settings(max_examples=30)
@given(CATALOGS, st.lists(EDITS, min_size=1, max_size=3), st.sampled_from([AVERAGE, CONNECTED]), st.booleans())
def test_following_earlier_matches_comes_to_the_same_groups(
    catalog: Catalog, nights: Sequence[Edits], rules: GroupRules, divided: bool
) -> None:
    """Also where more items are connected than can be compared (`divided`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_module, "LARGEST_DENSE", 3 if divided else groups_module.LARGEST_DENSE)
        check_nights(catalog, nights, rules)


def check_nights(catalog: Catalog, nights: Sequence[Edits], rules: GroupRules) -> None:
    """Each night comes to the groups and conflicts of a full match."""
    current = match(catalog, rules)
    for edits in nights:
        catalog = edited(catalog, edits)
        before, (current, events) = current, follow(current, catalog, rules)
        full = match(catalog, rules)
        np.testing.assert_array_equal(current.found.groups, full.found.groups)
        assert current.found.conflicts == full.found.conflicts
        check_ids_and_events(members(before.groups), members(current.groups), events)


def test_what_rules_alone_read_scores_no_pair_again_and_groups_it_anew() -> None:
    """A price that changes each night, and a family: the item is changed, and its pairs keep their scores."""
    before = {"a": Item(1, 0), "b": Item(1, 1), "c": Item(2, 1), "d": Item(9, 1)}
    now = {**before, "a": Item(1, 1), "d": Item(8, 1)}
    changes = compare_items(digests(before), digests(now))
    assert (changes.changed, changes.rescored) == (["a", "d"], {"d"})
    first = match(before, AVERAGE._replace(threshold=0.0))
    earlier = earlier_of(first, now)
    compared = compare_pairs(earlier, first.ids, candidates(now), 0.0)
    assert compared.differs[first.ids.index("a")]


def check_ids_and_events(before: dict[str, set[str]], after: dict[str, set[str]], events: list[Event]) -> None:
    """One id for each group, the same for the same members; each other one is in an event that has a reason."""
    for name in before.keys() & after.keys():
        assert before[name] & after[name]
    for items in after.values():
        old = next((name for name, of_old in before.items() if of_old == items), None)
        assert old is None or after[old] == items
    told = {name for event in events for name in (*event.before, *event.after)}
    large = {name for groups in (before, after) for name, items in groups.items() if len(items) > 1}
    assert told == {name for name in large if before.get(name) != after.get(name)}
    assert all(event.reason and event.because for event in events)


def pairs_of(*pairs: tuple[int, int, float]) -> ScoredPairs:
    first, second, score = (np.array([pair[at] for pair in pairs]) for at in range(3))
    return ScoredPairs(first.astype(np.int64), second.astype(np.int64), score.astype(np.float64))


@pytest.mark.parametrize(
    ("now", "anew"),
    [
        (pairs_of((0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.4), (3, 4, 0.9)), []),
        (pairs_of((0, 1, 0.9), (1, 2, 0.9), (3, 4, 0.9)), ["a", "b", "c"]),  # displaced, though it was no match
        (pairs_of((0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.4), (2, 3, 0.4), (3, 4, 0.9)), []),  # between two groups
        (pairs_of((0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.4), (3, 4, 0.9), (3, 5, 0.9)), ["d", "e", "new"]),
    ],
)
def test_what_is_grouped_anew(now: ScoredPairs, anew: list[str]) -> None:
    """A pair counts where its items are connected by matching pairs; elsewhere it changes no group."""
    ids, before = [*"abcde", "new"], pairs_of((0, 1, 0.9), (1, 2, 0.9), (0, 2, 0.4), (3, 4, 0.9))
    numbering = PairNumbers(ids)
    numbers = numbering.numbers(before.first, before.second)
    order = np.argsort(numbers)
    scores = EarlierScores(numbering, numbers[order], before.score[order], before.score[order])
    changes = ItemChanges(["new"], [], [], frozenset(["new"]))
    compared = compare_pairs(EarlierMatch({}, scores, changes), ids, now, 0.5)
    assert [item for item in ids if compared.differs[ids.index(item)]] == sorted({*anew, "new"})


def events_of(before: dict[str, str], after: dict[str, str], **changes: Sequence[str]) -> list[Event]:
    """Of groups that were given, where a pair of all items matches."""
    ids = sorted({*before, *after})
    numbering, empty = PairNumbers(ids), np.empty(0)
    every = np.array([a * len(ids) + b for a, b in itertools.combinations(range(len(ids)), 2)], dtype=np.int64)
    scores = EarlierScores(numbering, every, np.ones(len(every)), np.ones(len(every)))
    found = compare_items(
        *(pd.DataFrame({"id": [*of], "content": "", "ruled": ""}, dtype="str") for of in (before, after))
    )
    nothing = ScoredPairs(empty.astype(np.int64), empty.astype(np.int64), empty)
    compared = compare_pairs(EarlierMatch(before, scores, found), sorted(after), nothing, 0.5)
    return group_events(before, after, Causes(found, compared))


def test_every_kind_of_event() -> None:
    before = {"a": "1", "b": "1", "c": "2", "d": "2", "e": "5", "f": "6", "x": "9", "y": "9"}
    merged = {**before, "c": "1", "d": "1"}
    assert [event[:5] for event in events_of(before, merged)] == [(MERGED, ["1", "2"], ["1"], [], [])]
    new = {**before, "e": "5", "f": "5", "n": "5"}
    assert events_of(before, new) == [Event(NEW, [], ["5"], ["e", "f", "n"], [], "arrived: n", ["n"])]
    changed = {**before, "n": "1"}
    assert events_of(before, changed) == [Event(CHANGED, ["1"], ["1"], ["n"], [], "arrived: n", ["n"])]
    ended = {item: name for item, name in before.items() if item != "x"}
    assert events_of(before, ended) == [Event(ENDED, ["9"], [], [], ["x", "y"], "removed: x", ["x"])]
    four = {"a": "1", "b": "1", "c": "1", "d": "1", "q": "7"}
    split = events_of(four, {"a": "1", "b": "1", "c": "3", "d": "3"})
    assert split == [Event(SPLIT, ["1"], ["1", "3"], [], [], "removed: q", ["q"])]
    assert events_of(before, before) == []


@pytest.mark.parametrize(
    ("before", "groups", "named"),
    [
        ({"a": "A", "b": "A", "c": "A"}, [0, 1, 1], ["new", "A", "A"]),  # most of its items
        ({"a": "A", "b": "A"}, [0, 1, 1], ["new", "A", "A"]),  # as many: the larger later group
        ({"a": "A", "b": "B", "c": "B"}, [0, 0, 1], ["B", "B", "new"]),  # as many: the larger earlier group
        ({"a": "A", "b": "A"}, [0, 1, 2], ["A", "new", "new"]),  # as many: the smallest item
        ({"a": "A", "b": "B", "c": "C"}, [0, 0, 0], ["A", "A", "A"]),
        ({}, [0, 1, 1], ["new", "new", "new"]),
    ],
)
def test_an_id_goes_to_the_group_that_continues(before: dict[str, str], groups: list[int], named: list[str]) -> None:
    found = continued_ids(np.array(groups), ["a", "b", "c"], before)
    assert ["new" if name.startswith("g") else name for name in found] == named


def test_an_id_that_was_given_away_is_not_given_to_another_group() -> None:
    """The id of a group is made of its smallest item, which may have left it."""
    before = dict.fromkeys("abc", group_ids(np.array([0]), ["a"])[0])
    found = continued_ids(np.array([0, 1, 1]), ["a", "b", "c"], before)
    assert found[1] == found[2] == before["a"] != found[0]
