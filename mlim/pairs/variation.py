"""Candidates by the rule: pairs inside families, labelled by the type of variation.

Items are numbered in the order of their ids and values are numbered too, so that a million items are compared as
integers: metadata of equal text is parsed once, and only pairs that are kept ever become text again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.catalog.pair_rules import PairRules
from mlim.catalog.values import Values
from mlim.pairs.labels import MATCH, MISMATCH

EMPTY = 0  # the number of the empty value in every column
NO_FAMILY, TOO_LARGE, EMPTY_VALUE = "no family", "family too large", "empty value"
OTHERWISE_DIFFERENT = "pair differs in what must agree"
OTHERWISE_EQUAL = "pair agrees in what must differ"
BEYOND_FAMILY_CAP = "pair beyond max_pairs_per_family"
UNBALANCED = "pair beyond the balance of its family"

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class VariationRule:
    """A pair matches when all `label_columns` agree; only items that agree in `same` and `agree` are compared.

    They also differ in each of `differ`. `label_columns`, `same` and `differ` are metadata columns; an item with an
    empty one is not compared. `agree` may be metadata or attributes; two empty values agree there. In each family there
    are `balance` mismatches to a match (None: all that there are) and at most `max_pairs` pairs (None: no limit).
    `values` tells which values are equal and which are empty.
    """

    label_columns: Sequence[str]
    same: Sequence[str]
    max_family_size: int
    agree: Sequence[str] = ()
    differ: Sequence[str] = ()
    balance: float | None = None
    max_pairs: int | None = None
    values: Values = field(default_factory=Values)


def rule_of(rules: PairRules, text_columns: Sequence[str], values: Values | None = None) -> VariationRule:
    """The rule that a catalog's description tells; `text_columns` are what the model reads."""
    agree, values = rules.must_agree(text_columns), values or Values()
    cap, largest = rules.max_pairs_per_family, rules.max_family_size
    balance = (rules.mismatches_per_match or 1.0) if rules.balanced else None
    return VariationRule(rules.decided_by, rules.same, largest, agree, rules.differ, balance, cap, values)


def variation_pairs(items: pd.DataFrame, rule: VariationRule, seed: int = 0) -> tuple[pd.DataFrame, dict[str, int]]:
    """All unordered pairs inside families, and how many items or pairs were left out and why.

    `items` has id, family (null: none), facts (JSON) and, where `rule.agree` names any, attributes (JSON). Returns
    item_a, item_b, label, kind sorted by ids. `seed` draws the pairs of families that have more than `rule.max_pairs`.
    """
    ordered = items.sort_values("id", ignore_index=True)
    compared = (*rule.label_columns, *rule.same, *rule.differ)
    same = slice(len(rule.label_columns), len(rule.label_columns) + len(rule.same))
    values = value_numbers(ordered["facts"], compared, rule.values)
    family = np.asarray(pd.factorize(ordered["family"])[0], dtype=np.int64)
    usable, skipped = _usable(family, values, rule.max_family_size)
    keys = np.column_stack([family, values[:, same], *_agreeing(ordered, rule)])
    first, second = (usable[side] for side in pairs_within(row_numbers(keys[usable])))
    possible = np.bincount(family[usable], minlength=1)
    skipped[OTHERWISE_DIFFERENT] = int((possible * (possible - 1) // 2).sum()) - len(first)
    apart = (values[first, same.stop :] != values[second, same.stop :]).all(axis=1)
    if rule.differ:
        skipped[OTHERWISE_EQUAL] = int((~apart).sum())
    first, second = first[apart], second[apart]
    differs = values[first, : len(rule.label_columns)] != values[second, : len(rule.label_columns)]
    if rule.balance is not None:
        balanced = _balanced(family[first], differs.any(axis=1), rule.balance, seed)
        skipped[UNBALANCED] = len(first) - len(balanced)
        first, second, differs = first[balanced], second[balanced], differs[balanced]
    kept = _within_cap(family[first], differs.any(axis=1), rule.max_pairs, seed)
    skipped[BEYOND_FAMILY_CAP] = len(first) - len(kept)
    return _table(ordered["id"], first[kept], second[kept], differs[kept], rule.label_columns), skipped


def value_numbers(texts: pd.Series, columns: Sequence[str], values: Values) -> Numbers:
    """The values of JSON objects as numbers (n, columns): equal in a column when the values are; EMPTY for none."""
    place, distinct = pd.factorize(texts)
    known: list[dict[str | None, int]] = [{None: EMPTY} for _ in columns]
    compared = [(column, values.of(column)) for column in columns]
    rows = []
    for text in distinct:
        written = json.loads(text)
        cells = (comparison.comparable(str(written.get(column) or "")) for column, comparison in compared)
        rows.append([seen.setdefault(cell, len(seen)) for seen, cell in zip(known, cells, strict=True)])
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(columns))[place]


def _agreeing(items: pd.DataFrame, rule: VariationRule) -> list[Numbers]:
    """What must agree, wherever it stands; a column is missing, thus equal, in the facts or the attributes."""
    places = ("facts", "attributes") if rule.agree else ()
    return [value_numbers(items[place], rule.agree, rule.values) for place in places]


def _usable(family: Numbers, values: Numbers, max_family_size: int) -> tuple[Numbers, dict[str, int]]:
    """The positions of items that may be compared, and how many others there are and why."""
    none = family < 0
    sizes = np.bincount(family[~none], minlength=1)
    too_large = ~none & (sizes[family] > max_family_size)
    unknown = (values == EMPTY).any(axis=1) & ~none & ~too_large
    skipped = {NO_FAMILY: int(none.sum()), TOO_LARGE: int(too_large.sum()), EMPTY_VALUE: int(unknown.sum())}
    return np.flatnonzero(~none & ~too_large & ~unknown), skipped


def row_numbers(keys: Numbers) -> Numbers:
    """One number for each row, equal when the rows are."""
    group = np.zeros(len(keys), dtype=np.int64)
    for column in keys.T:
        group = np.asarray(pd.factorize(group * (column.max(initial=0) + 1) + column)[0], dtype=np.int64)
    return group


def pairs_within(group: Numbers) -> tuple[Numbers, Numbers]:
    """All positions i < j of equal group, sorted by i, then j."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=1)
    ends = np.cumsum(sizes)[group[order]]
    following = ends - np.arange(len(group)) - 1  # members of the same group behind each member
    first = np.repeat(np.arange(len(group)), following)
    starts = np.cumsum(following) - following
    second = first + 1 + np.arange(len(first)) - np.repeat(starts, following)
    one, other = order[first], order[second]
    by_position = np.lexsort((other, one))
    return one[by_position], other[by_position]


def _balanced(family: Numbers, mismatch: NDArray[np.bool_], balance: float, seed: int) -> Numbers:
    """Positions of the pairs, drawn with `seed`, that leave every family `balance` mismatches to a match."""
    families = family.max(initial=-1) + 1
    matches, mismatches = (np.bincount(family[mismatch == label], minlength=families) for label in (False, True))
    most = np.minimum(matches, mismatches / balance)
    room = np.stack([np.floor(most), np.rint(np.floor(most) * balance)])[mismatch.astype(np.int64), family]
    drawn = np.random.default_rng(seed).permutation(len(family))
    stratum = pd.Series(family[drawn] * 2 + mismatch[drawn])
    place = stratum.groupby(stratum).cumcount().to_numpy()
    return np.sort(drawn[place < room[drawn]])


def _within_cap(family: Numbers, mismatch: NDArray[np.bool_], cap: int | None, seed: int) -> Numbers:
    """Positions of at most `cap` pairs of each family, drawn with `seed` so that its share of matches about stays."""
    if cap is None:
        return np.arange(len(family))
    drawn = np.random.default_rng(seed).permutation(len(family))
    stratum = pd.Series(family[drawn] * 2 + mismatch[drawn])
    grouped = stratum.groupby(stratum)
    spread = (grouped.cumcount().to_numpy() + 0.5) / grouped.transform("size").to_numpy()
    by_family = np.lexsort((spread, family[drawn]))
    place = pd.Series(family[drawn][by_family])
    return np.sort(drawn[by_family[place.groupby(place).cumcount().to_numpy() < cap]])


def _table(
    ids: pd.Series, first: Numbers, second: Numbers, differs: NDArray[np.bool_], label_columns: Sequence[str]
) -> pd.DataFrame:
    bits = 1 << np.arange(len(label_columns))
    patterns, place = np.unique(differs @ bits, return_inverse=True)
    kinds = np.array([_kind(label_columns, (pattern & bits) > 0) for pattern in patterns], dtype=object)
    return pd.DataFrame(
        {
            "item_a": ids.take(first).reset_index(drop=True),
            "item_b": ids.take(second).reset_index(drop=True),
            "label": np.where(differs.any(axis=1), MISMATCH, MATCH).astype(np.int8),
            "kind": pd.Series(kinds[place], dtype="str"),
        }
    )


def _kind(label_columns: Sequence[str], differs: NDArray[np.bool_]) -> str:
    """The type of variation in words: `same pattern`, `pattern and size differ`."""
    words = [column.replace("_", " ") for column in label_columns]
    differing = [word for word, differ in zip(words, differs, strict=True) if differ]
    if not differing:
        return f"same {' and '.join(words)}"
    return f"{' and '.join(differing)} {'differs' if len(differing) == 1 else 'differ'}"
