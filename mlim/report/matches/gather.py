"""What the page of matches shows: the groups and the pairs that are most in doubt, read a part at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.config import Config
from mlim.report.contact.items import ShownItem, find_items
from mlim.workspace import Workspace

PAIR_COLUMNS: Final = ["item_a", "item_b", "score", "probability", "match", "found_by"]
ROWS_AT_ONCE: Final = 1 << 16
NO_GROUP: Final = -1

Numbers = NDArray[np.int64]


class MatchesSettings(Config):
    """How much is on the page."""

    groups: int = 80
    members: int = 12
    pairs: int = 80
    events: int = 60
    characters: int = 220
    side: int = 160
    quality: int = 72
    max_megabytes: float = 8.0


@dataclass(frozen=True)
class ShownGroup:
    """A group with its first members, the representative first; `lowest` is the lowest score of a pair in it."""

    name: str
    size: int
    lowest: float | None
    members: tuple[ShownItem, ...]


@dataclass(frozen=True)
class ShownPair:
    """A scored pair."""

    first: ShownItem
    second: ShownItem
    score: float
    probability: float
    match: bool
    found_by: tuple[str, ...]


@dataclass(frozen=True)
class ShownEvent:
    """What became of groups since an earlier match."""

    kind: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Matches:
    """All that is shown; groups and pairs begin with those most in doubt, events with new groups and merged ones."""

    summary: dict[str, Any]
    groups: tuple[ShownGroup, ...]
    pairs: tuple[ShownPair, ...]
    events: tuple[ShownEvent, ...] = ()


def gather(summary: dict[str, Any], workspace: Workspace, scores: Path, settings: MatchesSettings) -> Matches:
    """Read what is shown; `scores` is the table of scored pairs, groups and items are those of `workspace`."""
    groups = pq.read_table(workspace.groups / "groups.parquet").to_pandas()
    groups = groups[groups["size"] > 1]
    lowest = _lowest_scores(scores, groups)
    pairs = _doubtful(scores, float(summary["threshold"]), settings.pairs)
    chosen = lowest.reindex(groups["group"].unique()).sort_values(kind="stable", na_position="first")
    members = _members(groups, [str(name) for name in chosen.index[: settings.groups]], settings.members)
    wanted = {*pairs["item_a"], *pairs["item_b"], *(item for items in members.values() for item in items)}
    items = find_items(workspace, wanted)
    sizes = groups.drop_duplicates("group").set_index("group")["size"]
    shown = (
        ShownGroup(name, int(sizes[name]), _number(lowest.get(name)), tuple(items[item] for item in of_group))
        for name, of_group in members.items()
    )
    events = tuple(_events(workspace.groups / "events.parquet", settings.events))
    return Matches(summary, tuple(shown), tuple(_pair(row, items) for row in pairs.to_dict("records")), events)


def _events(path: Path, most: int) -> Iterator[ShownEvent]:
    """The first events; none without an earlier match."""
    if path.is_file():
        for row in pq.read_table(path).slice(0, most).to_pylist():
            yield ShownEvent(row["kind"], tuple(row["before"]), tuple(row["after"]), row["reason"])


def _batches(scores: Path) -> Iterator[Any]:
    """The pairs that have a score, as Arrow tables."""
    for batch in pq.ParquetFile(scores).iter_batches(ROWS_AT_ONCE, columns=PAIR_COLUMNS):
        yield pa.Table.from_batches([batch]).filter(batch["score"].is_valid())


def _lowest_scores(scores: Path, groups: pd.DataFrame) -> pd.Series:
    """By group: the lowest score of a pair of its members; no group whose members nobody compared."""
    number, names = pd.factorize(groups["group"])
    items, lowest = pa.array(groups["item"], pa.string()), np.full(len(names), np.inf)
    for table in _batches(scores):
        one, other = (_of_items(table[side], items, number) for side in PAIR_COLUMNS[:2])
        inside = (one != NO_GROUP) & (one == other)
        np.minimum.at(lowest, one[inside], table["score"].to_numpy()[inside])
    known = np.isfinite(lowest)
    return pd.Series(lowest[known], index=names[known], dtype=np.float64)


def _of_items(asked: Any, items: Any, groups: Numbers) -> Numbers:
    """The group (n,) of each of the items `asked`, where `items` are in `groups`; NO_GROUP for others."""
    places = pc.index_in(asked, value_set=items).fill_null(NO_GROUP).to_numpy()
    return np.where(places == NO_GROUP, NO_GROUP, groups[places] if len(groups) else NO_GROUP)


def _doubtful(scores: Path, threshold: float, most: int) -> pd.DataFrame:
    """The pairs whose scores are nearest to the threshold, nearest first."""
    kept = pd.DataFrame(columns=[*PAIR_COLUMNS, "doubt"])
    for table in _batches(scores):
        doubt = np.abs(table["score"].to_numpy() - threshold)
        bar = np.partition(doubt, most)[most] if len(doubt) > most else np.inf
        near = np.flatnonzero(doubt <= (min(bar, kept["doubt"].max()) if len(kept) == most else bar))
        frame = table.take(pa.array(near)).to_pandas().assign(doubt=doubt[near])
        both = pd.concat([kept, frame], ignore_index=True) if len(kept) else frame
        kept = both.sort_values(["doubt", "item_a", "item_b"], kind="stable").head(most)
    return kept


def _members(groups: pd.DataFrame, names: list[str], most: int) -> dict[str, list[str]]:
    """The first members of the named groups, the representative first."""
    ordered = groups[groups["group"].isin(names)].sort_values(["role", "item"], ascending=[False, True])
    by_group = {str(name): [str(item) for item in part["item"].head(most)] for name, part in ordered.groupby("group")}
    return {name: by_group[name] for name in names}


def _pair(row: dict[Any, Any], items: dict[str, ShownItem]) -> ShownPair:
    return ShownPair(
        items[row["item_a"]],
        items[row["item_b"]],
        float(row["score"]),
        float(row["probability"]),
        bool(row["match"]),
        tuple(map(str, row["found_by"])),
    )


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
