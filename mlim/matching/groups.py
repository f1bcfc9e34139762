"""From scored pairs to groups of matching items, by connected components or average linkage, within hard rules.

Both methods start from the pairs that score at least the threshold. `connected` takes them from the best down and joins
whatever they connect. `average` also asks the pairs below the threshold and those that nobody scored, which count as 0:
two parts are joined as long as the pairs between them score enough on average (average linkage of scipy) and none of
them scored less than the floor. Hard rules and the largest size hold in both; pairs that matched and still lie in two
groups are conflicts, each with its reason.

Average linkage compares all items of a component, which takes the square of their number. A component of more than
LARGEST_DENSE items is divided first: its best pairs come first and connect items to parts of at most so many. Whatever
pairs of some score and above connect, up to that size, so lies in one part, and each part is grouped by all its pairs.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from mlim.matching.never import HardRules

LARGEST_DENSE: Final = 2000  # items whose pairs are all compared; a larger component is divided
FORBIDDEN: Final = 1e9  # distance of a pair that must stay apart: no average over LARGEST_DENSE ** 2 pairs hides it
ROUNDING: Final = 1e-9  # of an average
LEFT: Final = -1  # the part of an item that keeps its group
ID_DIGITS: Final = 16
TOO_LARGE: Final = "the group would be too large"
TOO_UNLIKE: Final = "a pair of the two groups scores below the floor"
TOO_LITTLE: Final = "the groups agree too little on average"
DIVIDED: Final = "too many items are connected to compare all of them"

Places = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ScoredPairs:
    """Each scored pair once: items `first` and `second` (n,) by place, and scores (n,) from 0 to 1."""

    first: Places
    second: Places
    score: Scores

    def at(self, chosen: NDArray[np.bool_] | Places | slice) -> "ScoredPairs":
        """The chosen pairs."""
        return ScoredPairs(self.first[chosen], self.second[chosen], self.score[chosen])


class GroupRules(NamedTuple):
    """How groups are made; `min_inner` times the threshold is the floor of `average`.

    No average between joined parts is lower, nor is the score of any pair inside a group.
    """

    method: Literal["average", "connected"]
    threshold: float
    max_items: int
    min_inner: float

    @property
    def floor(self) -> float:
        """The lowest score inside a group, but for rounding."""
        return self.min_inner * self.threshold - ROUNDING


class Conflict(NamedTuple):
    """A pair that matched and lies in two groups, and why."""

    first: int
    second: int
    score: float
    reason: str


class Grouping(NamedTuple):
    """The group (n,) of each item, numbered in the order of their first items, and what was in conflict."""

    groups: Places
    conflicts: list[Conflict]


class Kept(NamedTuple):
    """Groups (n,) of an earlier grouping, by number, and which items (n,) are to be grouped `anew`.

    Whatever a matching pair connects must be anew or kept as a whole, and kept items must have the pairs that they had.
    """

    groups: Places
    anew: NDArray[np.bool_]


def group_pairs(
    items: int, pairs: ScoredPairs, never: HardRules | None, rules: GroupRules, kept: Kept | None = None
) -> Grouping:
    """Groups of `items` items; those without a match are groups of their own.

    With `kept` only some items are grouped anew, which comes to the same.
    """
    matched = pairs.at(pairs.score >= rules.threshold)
    allowed = matched if never is None else matched.at(~never.forbidden(matched.first, matched.second))
    part, low = np.zeros(items, dtype=np.int64), pairs.at(slice(0))
    if rules.method == "average":
        part, low = _parts(items, allowed), pairs.at(pairs.score < rules.floor)
    anew = np.ones(items, dtype=bool) if kept is None else kept.anew
    match rules.method:
        case "connected":
            inside = allowed.at(anew[allowed.first] & anew[allowed.second])
            joined = _connected(inside, never, rules.max_items)
        case "average":
            joined = _average(np.where(anew, part, LEFT), pairs, never, rules)
    edges = [_chain(found) for found in joined] + ([] if kept is None else [_kept_edges(kept)])
    first, second = np.concatenate([np.empty((2, 0), dtype=np.int64), *edges], axis=1)
    groups = np.asarray(pd.factorize(_connect(items, first, second))[0], dtype=np.int64)
    return Grouping(groups, list(_conflicts(matched, low, groups, part, never, rules)))


def group_ids(groups: Places, ids: Sequence[str]) -> list[str]:
    """The id of each item's group: `g` and the hash of the smallest id among its members.

    So it stays as long as this member stays and no smaller one joins, whatever else changes in the catalog.
    """
    smallest: dict[int, str] = {}
    for number, item in zip(groups.tolist(), ids, strict=True):
        smallest[number] = min(item, smallest.get(number, item))
    named = {number: group_id(item) for number, item in smallest.items()}
    return [named[number] for number in groups.tolist()]


def group_id(item: str) -> str:
    """The id of the group whose smallest member is `item`."""
    return f"g{hashlib.sha256(item.encode()).hexdigest()[:ID_DIGITS]}"


def representatives(groups: Places, pairs: ScoredPairs) -> NDArray[np.bool_]:
    """Which item represents its group: the one that scores highest with the other members; of equal ones the first."""
    inside = pairs.at(groups[pairs.first] == groups[pairs.second])
    total = np.bincount(inside.first, inside.score, len(groups)) + np.bincount(inside.second, inside.score, len(groups))
    order = np.lexsort((np.arange(len(groups)), -np.round(total, 9), groups))
    found = np.zeros(len(groups), dtype=bool)
    found[order[np.unique(groups[order], return_index=True)[1]]] = True
    return found


def _chain(part: Places) -> NDArray[np.int64]:
    """Edges (2, n - 1) from each of some items (n,) to the next."""
    return np.stack([part[:-1], part[1:]])


def _kept_edges(kept: Kept) -> NDArray[np.int64]:
    """Edges (2, n) that connect the items of each group that is kept."""
    items = np.flatnonzero(~kept.anew)
    edges = _chain(items[np.argsort(kept.groups[items], kind="stable")])
    return edges[:, kept.groups[edges[0]] == kept.groups[edges[1]]]


def _connect(items: int, first: Places, second: Places) -> Places:
    """A number (items,) for each item, equal for those that the edges between `first` and `second` connect."""
    ones = np.ones(len(first), dtype=np.int8)
    graph = coo_array((ones, (first, second)), shape=(items, items))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _parts(items: int, allowed: ScoredPairs) -> Places:
    """A number (items,) for each item, equal for those that are compared with each other.

    These are the components of the pairs. One of more than LARGEST_DENSE items is divided: from the best pair down,
    what a pair connects is one part as long as it has at most so many items.
    """
    component = _connect(items, allowed.first, allowed.second)
    large = np.bincount(component)[component[allowed.first]] > LARGEST_DENSE
    if not large.any():
        return component
    small = allowed.at(~large)
    joined = [_chain(pair) for pair in _connected(allowed.at(large), None, LARGEST_DENSE)]
    first, second = np.concatenate([np.stack([small.first, small.second]), *joined], axis=1)
    return _connect(items, first, second)


def _connected(allowed: ScoredPairs, never: HardRules | None, most: int) -> Iterator[Places]:
    """Pairs to join, from the best down, as long as no rule is broken and no group has more than `most` items."""
    members: dict[int, list[int]] = {}
    group: dict[int, int] = {}
    order = np.lexsort((allowed.second, allowed.first, -allowed.score))
    for first, second in zip(allowed.first[order].tolist(), allowed.second[order].tolist(), strict=True):
        one, other = group.get(first, first), group.get(second, second)
        held, more = members.get(one, [one]), members.get(other, [other])
        if one == other or len(held) + len(more) > most or _apart(held, more, never) >= 0:
            continue
        if len(held) < len(more):  # the smaller one joins the larger one, so that few items change their group
            one, other, held, more = other, one, more, held
        group.update(dict.fromkeys(more, one))
        members[one] = held
        held.extend(members.pop(other, more))
        yield np.array([first, second])


def _apart(held: Sequence[int], more: Sequence[int], never: HardRules | None) -> int:
    """The number of a rule that keeps two groups apart, else -1."""
    if never is None or not never.any:
        return -1
    first, second = np.repeat(held, len(more)), np.tile(more, len(held))
    return int(never.reasons(first, second).max(initial=-1))


def _average(part: Places, pairs: ScoredPairs, never: HardRules | None, rules: GroupRules) -> Iterator[Places]:
    """The groups of average linkage inside each part; `part` (n,) numbers those of the items, LEFT: in none."""
    inside = pairs.at((part[pairs.first] == part[pairs.second]) & (part[pairs.first] != LEFT))
    inside = inside.at(np.argsort(part[inside.first], kind="stable"))
    items = np.argsort(part, kind="stable")
    numbers, starts = np.unique(part[inside.first], return_index=True)
    lowest, highest = (np.searchsorted(part[items], numbers, side=side) for side in ("left", "right"))
    for at, of_part in enumerate(np.split(np.arange(len(inside.score)), starts[1:])):
        if len(of_part):
            together = items[lowest[at] : highest[at]]
            distances = _distances(together, _within(together, inside.at(of_part)), never, rules.floor)
            yield from (together[found] for found in _cut(distances, rules))


def _within(together: Places, pairs: ScoredPairs) -> ScoredPairs:
    """Pairs of items that are all among `together`, which is in order, as places in it."""
    first, second = (np.searchsorted(together, side) for side in (pairs.first, pairs.second))
    return ScoredPairs(first, second, pairs.score)


def _distances(part: Places, pairs: ScoredPairs, never: HardRules | None, floor: float) -> Scores:
    """Distances (n, n): 1 - score, 1 where there is no score, FORBIDDEN below the floor or where a hard rule holds."""
    distance = np.ones((len(part), len(part)))
    apart = np.where(pairs.score < floor, FORBIDDEN, 1 - pairs.score)
    distance[pairs.first, pairs.second] = distance[pairs.second, pairs.first] = apart
    if never is not None and never.any:
        first, second = np.triu_indices(len(part), 1)
        forbidden = never.forbidden(part[first], part[second])
        distance[first[forbidden], second[forbidden]] = distance[second[forbidden], first[forbidden]] = FORBIDDEN
    np.fill_diagonal(distance, 0)
    return distance


def _cut(distance: Scores, rules: GroupRules) -> Iterator[Places]:
    """The largest branches of the tree that average linkage makes which are near enough and small enough."""
    tree, items = linkage(squareform(distance, checks=False), "average"), len(distance)
    farthest = 1 - rules.floor
    members: dict[int, list[int]] = {at: [at] for at in range(items)}
    for number, (one, other, height, size) in enumerate(tree.tolist(), start=items):
        held, more = members.get(int(one)), members.get(int(other))
        if held is not None and more is not None and height <= farthest and size <= rules.max_items:
            members[number] = members.pop(int(one)) + members.pop(int(other))
    yield from (np.array(sorted(found), dtype=np.int64) for found in members.values() if len(found) > 1)


def _conflicts(
    matched: ScoredPairs, low: ScoredPairs, groups: Places, part: Places, never: HardRules | None, rules: GroupRules
) -> Iterator[Conflict]:
    """The matched pairs that lie in two groups, each with its reason; `low` pairs scored below the floor.

    Items of one `part` (n,) were compared with each other.
    """
    parted = matched.at(groups[matched.first] != groups[matched.second])
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(groups.max(initial=-1) + 2))
    unlike = set(map(frozenset, zip(groups[low.first].tolist(), groups[low.second].tolist(), strict=True)))
    for first, second, score in zip(parted.first.tolist(), parted.second.tolist(), parted.score.tolist(), strict=True):
        numbers = frozenset((int(groups[first]), int(groups[second])))
        held, more = (order[starts[at] : starts[at + 1]].tolist() for at in (groups[first], groups[second]))
        unruled = TOO_LITTLE if part[first] == part[second] else DIVIDED
        otherwise = TOO_UNLIKE if numbers in unlike else unruled
        yield Conflict(first, second, score, _ruled(([first], [second]), (held, more), never, rules) or otherwise)


def _ruled(
    pair: tuple[list[int], list[int]], groups: tuple[list[int], list[int]], never: HardRules | None, rules: GroupRules
) -> str:
    """The rule that keeps a pair, or the two groups it lies in, apart; empty where none does."""
    direct, other = _apart(*pair, never), _apart(*groups, never)
    if never is not None and direct >= 0:
        return f"never match: {never.sentences[direct]}"
    if never is not None and other >= 0:
        return f"other members never match: {never.sentences[other]}"
    return TOO_LARGE if sum(map(len, groups)) > rules.max_items else ""
