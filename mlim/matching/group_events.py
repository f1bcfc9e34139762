"""The ids of groups from one match of a catalog to the next, and what became of each group: merged, split, and why.

A group of the later match continues the group of the earlier one with which it shares most items, so that its id stays
although members come and go. An item by itself has an id like a group, but is no group here: where one joins or leaves,
the group has changed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from mlim.matching.earlier import Comparison, ItemChanges
from mlim.matching.groups import Places, group_id

NEW, MERGED, SPLIT, CHANGED, ENDED = "new", "merged", "split", "changed", "ended"
KINDS: Final = (NEW, MERGED, SPLIT, CHANGED, ENDED)
ARRIVED, DIFFERS, REMOVED, MOVED = "arrived", "changed", "removed", "compared with others than before"
ORDER: Final = (ARRIVED, DIFFERS, REMOVED, MOVED)
SHOWN_ITEMS: Final = 5  # in a sentence
MOST_ITEMS: Final = 100  # in `because`
_LISTED = pa.list_(pa.string())
EVENT_SCHEMA: Final[Any] = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("before", _LISTED, nullable=False),  # ids of groups of the earlier match
        pa.field("after", _LISTED, nullable=False),  # ids of groups of this one
        pa.field("joined", _LISTED, nullable=False),  # items that are in no group of `before`
        pa.field("left", _LISTED, nullable=False),  # items that are in no group of `after`
        pa.field("reason", pa.string(), nullable=False),
        pa.field("because", _LISTED, nullable=False),  # items that the reason is about
    ]
)


class Event(NamedTuple):
    """One row of `EVENT_SCHEMA`."""

    kind: str
    before: Sequence[str]
    after: Sequence[str]
    joined: Sequence[str]
    left: Sequence[str]
    reason: str
    because: Sequence[str]


def continued_ids(groups: Places, ids: Sequence[str], before: Mapping[str, str]) -> list[str]:
    """The id of the group (n,) of each of the items `ids` (n,), where items had the ids of groups `before`.

    An id goes to the group that holds most of its items. Of equal ones the larger earlier group comes first, then the
    larger later one, then that of the smallest item. An id of before is given to no group that has none of its items.
    """
    named: dict[int, str] = {}
    given = set[str]()
    for number, old in _shared(groups, ids, before):
        if number not in named and old not in given:
            named[number] = old
            given.add(old)
    taken = given.union(before.values())
    for number, item in _smallest(groups, ids).items():
        if number not in named:
            named[number] = next(name for name in _names(item) if name not in taken)
            taken.add(named[number])
    return [named[number] for number in groups.tolist()]


def _smallest(groups: Places, ids: Sequence[str]) -> dict[int, str]:
    """The smallest item of each group."""
    found: dict[int, str] = {}
    for number, item in zip(groups.tolist(), ids, strict=True):
        found[number] = min(item, found.get(number, item))
    return found


def _names(item: str) -> Iterator[str]:
    """Ids for a group whose smallest item this is, beginning with the one that a match without an earlier one gives."""
    yield group_id(item)
    yield from (group_id(f"{item}\0{number}") for number in count(2))


def _shared(groups: Places, ids: Sequence[str], before: Mapping[str, str]) -> Iterable[tuple[int, str]]:
    """Groups and earlier ids that share items, in the order in which ids are given out."""
    frame = pd.DataFrame({"item": list(ids), "group": groups, "old": [before.get(item) for item in ids]}).dropna()
    shared = frame.groupby(["group", "old"], as_index=False).agg(items=("item", "size"), first=("item", "min"))
    old_size, size = pd.Series(list(before.values()), dtype=object).value_counts(), np.bincount(groups, minlength=1)
    shared["old_size"], shared["size"] = shared["old"].map(old_size), size[shared["group"].to_numpy(dtype=np.int64)]
    shared = shared.sort_values(
        ["items", "old_size", "size", "first"], ascending=[False, False, False, True], kind="stable"
    )
    return zip(shared["group"].tolist(), shared["old"].tolist(), strict=True)


class Causes:
    """Why groups differ: items that are others, and items whose pairs are others."""

    def __init__(self, changes: ItemChanges, comparison: Comparison, anew: str = "") -> None:
        """`anew`: why everything was matched anew, where it was."""
        ids = comparison.numbering.ids
        moved = [] if anew else [ids[place] for place in np.flatnonzero(comparison.moved).tolist()]
        self._kinds = dict.fromkeys(moved, MOVED)
        for kind, items in ((ARRIVED, changes.new), (DIFFERS, changes.changed), (REMOVED, changes.removed)):
            self._kinds |= dict.fromkeys(items, kind)
        self._part = dict(zip(ids, comparison.part.tolist(), strict=True))
        self._of_part: dict[int, list[str]] = {}
        for item in self._kinds:
            self._of_part.setdefault(self._part[item], []).append(item)
        self._anew = anew

    def of(self, items: set[str]) -> tuple[str, list[str]]:
        """A sentence and the items it is about, for groups that held or hold these items.

        Those of them that arrived, changed or were removed; else such items that matching pairs connect with them; else
        items whose pairs are others, because items elsewhere came or went.
        """
        near = [item for part in {self._part[item] for item in items} for item in self._of_part.get(part, ())]
        own = [item for item in near if item in items]
        others = ([item for item in found if self._kinds[item] != MOVED] for found in (own, near))
        found = next((found for found in (*others, own, near) if found), [])
        because = sorted(found, key=lambda item: (ORDER.index(self._kinds[item]), item))
        kinds = groupby(because, key=self._kinds.__getitem__)
        parts = [self._anew, *(f"{kind}: {_listed(list(of_kind))}" for kind, of_kind in kinds)]
        return "; ".join(part for part in parts if part), because[:MOST_ITEMS]


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
    return ", ".join(items[:SHOWN_ITEMS]) + more


def group_events(before: Mapping[str, str], after: Mapping[str, str], causes: Causes) -> list[Event]:
    """What became of the groups of at least two items; `before` and `after` name the group of every item.

    Every group that has other members than before, or none of before, is in at least one event.
    """
    old, new = _members(before), _members(after)
    sources = {name: sorted({before[item] for item in items if before.get(item) in old}) for name, items in new.items()}
    targets = {name: sorted({after[item] for item in items if after.get(item) in new}) for name, items in old.items()}
    found = [(MERGED, of, [name]) for name, of in sources.items() if len(of) > 1]
    found += [(SPLIT, [name], to) for name, to in targets.items() if len(to) > 1]
    found += [(NEW, [], [name]) for name, of in sources.items() if not of]
    found += [(ENDED, [name], []) for name, to in targets.items() if not to]
    found += [
        (CHANGED, of, [name])
        for name, of in sources.items()
        if len(of) == 1 and len(targets[of[0]]) == 1 and old[of[0]] != new[name]
    ]
    return [_event(kind, one, other, old, new, causes) for kind, one, other in sorted(found, key=_place)]


def _place(found: tuple[str, list[str], list[str]]) -> tuple[int, list[str], list[str]]:
    return KINDS.index(found[0]), found[1], found[2]


def _members(groups: Mapping[str, str]) -> dict[str, set[str]]:
    """The items of each group of at least two."""
    found: dict[str, set[str]] = {}
    for item, name in groups.items():
        found.setdefault(name, set()).add(item)
    return {name: items for name, items in found.items() if len(items) > 1}


def _event(
    kind: str,
    before: list[str],
    after: list[str],
    old: Mapping[str, set[str]],
    new: Mapping[str, set[str]],
    causes: Causes,
) -> Event:
    held, holds = (set().union(*(of[name] for name in names)) for of, names in ((old, before), (new, after)))
    reason, because = causes.of(held | holds)
    return Event(kind, before, after, sorted(holds - held), sorted(held - holds), reason, because)


def event_table(events: Sequence[Event]) -> Any:
    """Events as an Arrow table of `EVENT_SCHEMA`."""
    return pa.Table.from_pylist([event._asdict() for event in events], schema=EVENT_SCHEMA)
