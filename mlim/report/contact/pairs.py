"""The pairs: how many of each kind, split and label, some of each kind, and the bar that simple rules set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mlim.files import read_json
from mlim.pairs.ties import Tie
from mlim.report.contact.items import ShownItem, find_items
from mlim.report.contact.settings import ContactSettings
from mlim.workspace import Workspace

MATCH = 1
COLUMNS = ["item_a", "item_b", "label", "split", "kind"]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShownPair:
    """Two items, their label and split."""

    first: ShownItem
    second: ShownItem
    match: bool
    split: str


@dataclass(frozen=True)
class Kind:
    """One kind of variation with one label: its pairs by split, and some of them."""

    name: str
    match: bool
    counts: Mapping[str, int]
    examples: tuple[ShownPair, ...]

    @property
    def total(self) -> int:
        """Pairs of this kind in all splits."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class ShownTie:
    """What ties too many items into one split, with the setting that helps, and one of the items."""

    sentence: str
    item: ShownItem


@dataclass(frozen=True)
class PairsLook:
    """All about the pairs. `counts`: split -> (mismatches, matches); `items` are in at least one pair."""

    summary: Mapping[str, Any]
    counts: Mapping[str, tuple[int, int]]
    kinds: tuple[Kind, ...]
    ties: tuple[ShownTie, ...] = ()
    items: int = 0

    @property
    def total(self) -> int:
        """Pairs of all splits."""
        return sum(sum(both) for both in self.counts.values())

    @property
    def left_out(self) -> str:
        """Why pairs or items were left out, and how many: the most frequent reason first; empty for none."""
        skipped = sorted((self.summary.get("skipped") or {}).items(), key=lambda entry: (-entry[1], entry[0]))
        return ", ".join(f"{reason} ({count:,})" for reason, count in skipped if count)

    @property
    def leaks(self) -> tuple[Mapping[str, Any], ...]:
        """Entries of the leak audit, the one that solves most first."""
        entries = self.summary.get("leak_audit") or ()
        return tuple(sorted(entries, key=lambda entry: (-float(entry.get("pr_auc") or 0), str(entry.get("rule")))))


def read_pairs(workspace: Workspace, settings: ContactSettings) -> PairsLook | None:
    """What `mlim pairs` made, with the items of the examples; None before it has run."""
    path = workspace.pairs / "pairs.parquet"
    if not path.is_file():
        return None
    pairs = pq.read_table(path, columns=COLUMNS).to_pandas()
    groups = _groups(pairs)
    generator = np.random.default_rng(settings.seed)
    drawn = [_draw(group, settings.pairs_per_kind, generator) for _, group in groups[: settings.kinds]]
    drawn += [group.iloc[:0] for _, group in groups[settings.kinds :]]
    summary = _summary(workspace.pairs)
    ties = [Tie(**entry) for entry in summary.get("ties", ())]
    ids = [str(item) for examples in drawn for column in ("item_a", "item_b") for item in examples[column]]
    items = find_items(workspace, [*ids, *(tie.example for tie in ties)])
    kinds = [
        Kind(name, label == MATCH, _by_split(group), tuple(_shown(examples, items)))
        for ((name, label), group), examples in zip(groups, drawn, strict=True)
    ]
    shown = (ShownTie(tie.sentence(), items[tie.example]) for tie in ties if tie.example in items)
    paired = pd.concat([pairs["item_a"], pairs["item_b"]]).nunique()
    return PairsLook(summary, _counts(pairs), tuple(kinds), tuple(shown), int(paired))


def _groups(pairs: pd.DataFrame) -> list[tuple[tuple[str, int], pd.DataFrame]]:
    """Pairs by kind and label, the most frequent first."""
    keys = pairs[["kind", "label"]].drop_duplicates().itertuples(index=False)
    of_key = {(str(kind), int(label)): (pairs["kind"] == kind) & (pairs["label"] == label) for kind, label in keys}
    groups = [(key, pairs[chosen]) for key, chosen in of_key.items()]
    return sorted(groups, key=lambda each: (-len(each[1]), each[0]))


def _draw(group: pd.DataFrame, count: int, generator: np.random.Generator) -> pd.DataFrame:
    chosen = generator.choice(len(group), min(count, len(group)), replace=False)
    return group.iloc[np.sort(chosen)]


def _shown(examples: pd.DataFrame, items: Mapping[str, ShownItem]) -> Iterator[ShownPair]:
    for row in examples.to_dict("records"):
        if row["item_a"] in items and row["item_b"] in items:
            yield ShownPair(items[row["item_a"]], items[row["item_b"]], row["label"] == MATCH, str(row["split"]))


def _by_split(group: pd.DataFrame) -> dict[str, int]:
    return {split: int((group["split"] == split).sum()) for split in SPLITS}


def _counts(pairs: pd.DataFrame) -> dict[str, tuple[int, int]]:
    found = {}
    for split in SPLITS:
        labels = pairs.loc[pairs["split"] == split, "label"]
        matches = int((labels == MATCH).sum())
        found[split] = (len(labels) - matches, matches)
    return found


def _summary(folder: Path) -> Mapping[str, Any]:
    path = folder / "summary.json"
    summary: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return summary
