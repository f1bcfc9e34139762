"""Splits without leaks: items that belong together form a component; components are assigned to the splits.

Together belong the items of one family, byte-identical pictures, near copies of pictures, and the items of one pair.
Only then are pairs chosen, inside each split: no pair ever crosses from one split to another.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.catalog.pair_rules import FAMILY, IMAGE, TEXT, PairRules
from mlim.catalog.values import Values
from mlim.errors import DataError
from mlim.pairs.choose import Quota, choose_given
from mlim.pairs.components import Places, find_components
from mlim.pairs.cross_family import KINDS, cross_family_pairs
from mlim.pairs.labels import (
    LABEL_NAMES,
    LABELLED_COLUMNS,
    LABELS,
    MATCH,
    MISMATCH,
    PAIR_COLUMNS,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
)
from mlim.pairs.split_assignment import assign_splits
from mlim.recipe.data import PairsConfig

DRAWN = "negatives: {family: 0, text: 0.5, image: 0.5}"  # as `mlim init` proposes it
GIVE_MORE = "give more families whose items vary in both ways"
BEYOND_RATIO, BEYOND_CAP = "pair beyond mismatches_per_match", "pair beyond the size of its split"


@dataclass(frozen=True)
class SplitPairs:
    """The pairs of all splits, unordered: item_a < item_b.

    `items`: id, component, split. `pairs`: item_a, item_b, label, split, component (of item_a), kind; both sorted by
    id. `skipped`: reason -> pairs left out. `mismatches`: split -> kind -> how many were wanted and how many made.
    """

    items: pd.DataFrame
    pairs: pd.DataFrame
    skipped: Mapping[str, int]
    mismatches: Mapping[str, Mapping[str, Mapping[str, int]]]


def split_pairs(
    items: pd.DataFrame,
    pairs: pd.DataFrame,
    config: PairsConfig,
    seed: int,
    rules: PairRules | None = None,
    near_links: Places | None = None,
    values: Values | None = None,
    given: Sequence[str] | None = None,
) -> SplitPairs:
    """Assign components of `items` to splits, then choose the pairs of each from `pairs` and from across families.

    `items` has id, family, image_sha256 and what `item_columns(rules)` adds; `pairs` are candidates with item_a,
    item_b, label, kind; `near_links` (n, 2) are positions in `items` of near copies; `values` tells which values are
    equal; `given` names the split of each item where the catalog's maker chose it. Deterministic for a seed, whatever
    the order of the rows. `DataError` when a split lacks either label, unless `rules` want no pairs.
    """
    rules = PairRules() if rules is None else rules
    ordered = items[item_columns(rules)].reset_index(drop=True).assign(given=given).sort_values("id")
    links = None if near_links is None else np.argsort(ordered.index.to_numpy())[near_links]
    ordered = ordered.reset_index(drop=True)
    ordered["component"] = find_components(ordered, pairs, links)
    place = pd.Index(ordered["id"]).get_indexer(pairs["item_a"])
    placed = pairs.assign(component=ordered["component"].to_numpy()[place])
    ordered["split"] = (
        _assigned(ordered["component"].to_numpy(), placed, config, rules, seed)
        if given is None
        else _most_protected(ordered["given"], ordered["component"])
    )
    placed["split"] = ordered["split"].to_numpy()[place]
    chosen = choose_given(placed, _caps(config, rules), rules, seed)
    kept = chosen.pairs[list(PAIR_COLUMNS)]
    if rules.negatives.cross_families:
        across = cross_family_pairs(ordered, kept, chosen.quotas, rules, values or Values(), seed)
        kept = pd.concat([kept, across], ignore_index=True).sort_values(["item_a", "item_b"], ignore_index=True)
    if not rules.none:
        _require_both_labels(kept, pairs["label"], rules)
    skipped = {BEYOND_RATIO: chosen.beyond_ratio, BEYOND_CAP: chosen.beyond_cap}
    return SplitPairs(ordered[["id", "component", "split"]], kept, skipped, _made(chosen.quotas, kept))


def item_columns(rules: PairRules) -> list[str]:
    """The columns of the items that `split_pairs` reads."""
    shares = rules.negatives.shares
    more = {
        "text": shares[TEXT] > 0,
        "image_hash": shares[IMAGE] > 0,
        "facts": bool(rules.negatives.same or rules.differ),
    }
    return ["id", "family", "image_sha256", *(name for name, needed in more.items() if needed)]


def _caps(config: PairsConfig, rules: PairRules) -> dict[str, int]:
    """The most unordered pairs of each split; written in both directions they take twice the room."""
    caps = {TRAIN: config.max_train, VALIDATION: config.max_validation, TEST: config.max_test}
    return {split: cap // 2 if rules.directions == "both" else cap for split, cap in caps.items()}


def _assigned(
    component: Places, placed: pd.DataFrame, config: PairsConfig, rules: PairRules, seed: int
) -> NDArray[Any]:
    """The name of each item's split. Mismatches across families can be made of any component."""
    evidence = np.zeros((component.max(initial=-1) + 1, len(LABELS)), dtype=bool)
    evidence[placed["component"], placed["label"]] = True
    evidence[:, MISMATCH] |= rules.negatives.cross_families
    shares = {VALIDATION: config.validation_share, TEST: config.test_share}
    shares = {TRAIN: 1 - sum(shares.values()), **shares}
    names = np.array(SPLITS, dtype=object)
    return names[assign_splits(evidence, [shares[name] for name in SPLITS], seed)][component]


def _most_protected(given: pd.Series, component: pd.Series) -> NDArray[Any]:
    """The given split of each item; of items that belong together, test before validation before train."""
    rank = given.map({name: place for place, name in enumerate(SPLITS)})
    names: NDArray[Any] = np.array(SPLITS, dtype=object)[rank.groupby(component).transform("max").to_numpy()]
    return names


def _made(quotas: Mapping[str, Quota], pairs: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    kind_of = {name: kind for kind, name in KINDS.items()}
    mismatches = pairs[pairs["label"] == MISMATCH]
    named = zip(mismatches["split"], mismatches["kind"], strict=True)
    made = Counter((split, kind_of.get(name, FAMILY)) for split, name in named)
    return {
        split: {
            kind: {"wanted": wanted, "made": made[split, kind]}
            for kind, wanted in {**quota.mismatches, FAMILY: quota.asked}.items()
        }
        for split, quota in quotas.items()
    }


def _require_both_labels(pairs: pd.DataFrame, candidates: pd.Series, rules: PairRules) -> None:
    """`DataError` when a split lacks a label; `candidates` are the labels of all pairs that could be chosen."""
    counts = Counter(zip(pairs["split"], pairs["label"], strict=True))
    lacking = [(split, LABEL_NAMES[label]) for split in SPLITS for label in LABEL_NAMES if not counts[split, label]]
    if lacking:
        named = "; ".join(f"the {split} split has no {name} pairs" for split, name in lacking)
        advice = _advice(set(candidates.tolist()), rules)
        raise DataError(f"{named} ({len(pairs)} pairs in all): the task needs both labels in every split; {advice}")


def _advice(labels: AbstractSet[int], rules: PairRules) -> str:
    """What gives every split both labels, where the candidates have these."""
    if len(labels) != 1 or not (rules.decided_by or rules.labelled):
        return f"{_more(rules)}, or other pairs.validation_share and pairs.test_share"
    (only,) = labels
    drawn = f", or draw mismatches of other families with `{DRAWN}`" if only == MATCH else ""
    if rules.labelled:
        return f"all pairs of {rules.labelled} have the label {only}: add pairs with the label {1 - only}{drawn}"
    columns, several = " and ".join(f"`{column}`" for column in rules.decided_by), len(rules.decided_by) > 1
    found = "never differ" if only == MATCH else "are never all equal"
    if not several:
        found = "never differs" if only == MATCH else "is never equal"
    return (
        f"{columns} {found} between compared items of one family: let another column decide (pairs.decided_by){drawn}"
    )


def _more(rules: PairRules) -> str:
    return f"label more pairs in {rules.labelled}" if rules.labelled else GIVE_MORE


def directed(pairs: pd.DataFrame, directions: str) -> pd.DataFrame:
    """The pairs as they are (`one`), or each of them and the same turned (`both`), sorted by ids."""
    if directions == "one":
        return pairs
    turned = pairs.rename(columns={"item_a": "item_b", "item_b": "item_a"})[pairs.columns]
    return pd.concat([pairs, turned]).sort_values(["item_a", "item_b"], ignore_index=True)


def count_pairs(pairs: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Pairs by split and label: `{"test": {"0": 120, "1": 230}, ...}`."""
    counts = Counter(zip(pairs["split"], pairs["label"], strict=True))
    return {split: {text: counts[split, label] for text, label in LABELS.items()} for split in SPLITS}


def pairs_sha256(pairs: pd.DataFrame) -> str:
    """A fingerprint of the test pairs and their labels: results are comparable only when it is the same."""
    test = pairs[pairs["split"] == TEST].sort_values(["item_a", "item_b"])
    lines = [f"{first}\t{second}\t{label}\n" for first, second, label in test[list(LABELLED_COLUMNS)].to_numpy()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
