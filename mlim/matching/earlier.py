"""What a match of a catalog keeps of an earlier one: which items are the same, and which groups need not be made again.

A score depends on the model and on the texts, pictures and attributes of two items, so that two items whose content did
not change keep theirs. The candidates do change with the catalog: an item that arrives takes a place among the nearest
neighbours of others. So all of them are listed again, and the pairs are compared. A group depends on the items that
matching pairs connect with it, on the pairs among these, and on the rules; where none of it differs, it is what it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mlim.matching.groups import Kept, Places, ScoredPairs, Scores
from mlim.matching.pairs_table import SIDES

ROWS_AT_ONCE: Final = 1 << 18
GONE: Final = -1


@dataclass(frozen=True)
class ItemChanges:
    """Ids of the items that are `new`, `changed` or `removed` since an earlier match, sorted.

    `rescored` are the new ones and those of the changed ones of which a model reads something else now: their pairs are
    scored again. Of the other changed ones only rules read something else.
    """

    new: Sequence[str]
    changed: Sequence[str]
    removed: Sequence[str]
    rescored: frozenset[str]


def compare_items(before: pd.DataFrame, now: pd.DataFrame) -> ItemChanges:
    """What differs between two tables of `item_digests`."""
    both = before.merge(now, on="id", how="outer", suffixes=("_before", ""), indicator="place").sort_values("id")
    common = both["place"] == "both"
    content, ruled = (common & (both[name] != both[f"{name}_before"]) for name in ("content", "ruled"))
    new, removed = both["place"] == "right_only", both["place"] == "left_only"
    arrived, differ, went = (both.loc[chosen, "id"].tolist() for chosen in (new, content | ruled, removed))
    return ItemChanges(arrived, differ, went, frozenset(both.loc[new | content, "id"].tolist()))


class PairNumbers:
    """Pairs of items as numbers that an earlier match and a later one have in common.

    The number of a pair is the place of its first item in `ids`, times their count, plus the place of the second.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """`ids`: of all items that there are or were, sorted."""
        self.ids = list(ids)
        self._values = pa.array(self.ids, pa.string())

    def places(self, ids: "Sequence[str] | pd.Series[Any]") -> Places:
        """The places (n,) of items in `ids`; GONE for those that are not there."""
        return self._places(pa.array(ids, pa.string()))

    def _places(self, ids: Any) -> Places:
        found = pc.index_in(ids, value_set=self._values).fill_null(GONE)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def numbers(self, first: Places, second: Places) -> Places:
        """The numbers (n,) of pairs of items by place."""
        return np.minimum(first, second) * len(self.ids) + np.maximum(first, second)

    def of_batch(self, batch: Any) -> Places:
        """The numbers (n,) of the pairs of an Arrow table or batch with item_a and item_b."""
        return self.numbers(*(self._places(batch[side]) for side in SIDES))

    def pairs(self, numbers: Places) -> tuple[Places, Places]:
        """The places of both items of pairs by number."""
        return numbers // len(self.ids), numbers % len(self.ids)


@dataclass(frozen=True)
class EarlierScores:
    """The scored pairs (n,) of an earlier match, in the order of their `numbers` in `numbering`."""

    numbering: PairNumbers
    numbers: Places
    score: Scores
    probability: Scores

    @classmethod
    def read(cls, path: Path, numbering: PairNumbers) -> "EarlierScores":
        """Those of the file `path` (pairs.parquet) that have a score."""
        numbers, columns = [np.empty(0, dtype=np.int64)], [np.empty((2, 0))]
        names = ["score", "probability"]
        for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE, columns=[*SIDES, *names]):
            scored = batch.filter(batch["score"].is_valid())
            numbers.append(numbering.of_batch(scored))
            columns.append(np.stack([scored[name].to_numpy(zero_copy_only=False) for name in names]))
        every = np.concatenate(numbers)
        order = np.argsort(every, kind="stable")
        score, probability = np.concatenate(columns, axis=1)[:, order]
        return cls(numbering, every[order], score, probability)

    def without(self, items: frozenset[str]) -> "EarlierScores":
        """Those of pairs without one of these items."""
        places = self.numbering.places(sorted(items))
        first, second = self.numbering.pairs(self.numbers)
        kept = ~(np.isin(first, places) | np.isin(second, places))
        return EarlierScores(self.numbering, self.numbers[kept], self.score[kept], self.probability[kept])

    def find(self, numbers: Places) -> Places:
        """Where the pairs of these numbers (n,) are; GONE for those that are not there."""
        return _found(self.numbers, numbers)


@dataclass(frozen=True)
class EarlierMatch:
    """An earlier match beside the items of now: the group of each item, all scores, and which items differ.

    `anew` says why no group is kept, though ids are; empty where groups are kept.
    """

    groups: Mapping[str, str]
    scores: EarlierScores
    changes: ItemChanges
    anew: str = ""


@dataclass(frozen=True)
class Comparison:
    """What differs between an earlier match and a later one.

    Of all items that there are or were (n,): `part` numbers what matching pairs of either match connect, `differs` says
    whether anything of its part is another one, `moved` are items of a part whose pairs are other ones.
    """

    numbering: PairNumbers
    part: Places
    differs: NDArray[np.bool_]
    moved: NDArray[np.bool_]

    def kept(self, ids: Sequence[str], groups: Sequence[str | None]) -> Kept:
        """Which items `ids` (n,) keep their groups (n,) of before, None for an item that had none."""
        numbers = np.asarray(pd.factorize(np.array(groups, dtype=object))[0], dtype=np.int64)
        return Kept(numbers, self.differs[self.numbering.places(ids)])


def compare_pairs(earlier: EarlierMatch, ids: Sequence[str], pairs: ScoredPairs, threshold: float) -> Comparison:
    """What differs; `pairs` are the scored pairs of the later match by place in its items `ids`.

    Pairs that are in one match alone, or score otherwise, count where matching pairs connect their items.
    """
    before, changes = earlier.scores, earlier.changes
    numbering, places = before.numbering, before.numbering.places(ids)
    numbers = numbering.numbers(places[pairs.first], places[pairs.second])
    order = np.argsort(numbers, kind="stable")
    numbers, score = numbers[order], pairs.score[order]
    part = _connected([before.numbers[before.score >= threshold], numbers[score >= threshold]], numbering)
    first, second = numbering.pairs(_differing(before, numbers, score))
    inside = part[first] == part[second]
    moved = np.zeros(len(part), dtype=bool)
    moved[first[inside]] = moved[second[inside]] = True
    other = np.zeros(len(part), dtype=bool)
    other[part[moved]] = True
    other[part[numbering.places([*changes.new, *changes.changed, *changes.removed])]] = True
    return Comparison(numbering, part, other[part], moved)


def _connected(edges: Sequence[Places], numbering: PairNumbers) -> Places:
    """For each item the number of what the pairs connect it with."""
    first, second = numbering.pairs(np.concatenate(edges))
    items, ones = len(numbering.ids), np.ones(len(first), dtype=np.int8)
    graph = coo_array((ones, (first, second)), shape=(items, items))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _differing(earlier: EarlierScores, numbers: Places, score: Scores) -> Places:
    """The numbers of pairs that one match has alone, or that score otherwise; `numbers` (n,) are in order."""
    at, back = earlier.find(numbers), _found(numbers, earlier.numbers)
    there = np.flatnonzero(at != GONE)
    same = np.zeros(len(numbers), dtype=bool)
    same[there] = earlier.score[at[there]] == score[there]
    return np.concatenate([numbers[~same], earlier.numbers[back == GONE]])


def _found(held: Places, asked: Places) -> Places:
    """Where each number `asked` (n,) is in `held`, which is in order; GONE for those that are not."""
    if not len(held):
        return np.full(len(asked), GONE, dtype=np.int64)
    at = np.minimum(np.searchsorted(held, asked), len(held) - 1)
    return np.where(held[at] == asked, at, GONE)
