"""The mismatches across families of every split, as pairs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.catalog.pair_rules import IMAGE, RANDOM, TEXT, Negatives, PairRules
from mlim.catalog.values import Values
from mlim.pairs.choose import Quota
from mlim.pairs.labels import MATCH, MISMATCH
from mlim.pairs.negatives import Pool, draw_mismatches
from mlim.pairs.variation import EMPTY, row_numbers, value_numbers
from mlim.quality.near_duplicates import hash_numbers

KINDS: Mapping[str, str] = {TEXT: "neighbour in text", IMAGE: "neighbour in image", RANDOM: "random item"}

Places = NDArray[np.int64]


def cross_family_pairs(
    items: pd.DataFrame, given: pd.DataFrame, quotas: Mapping[str, Quota], rules: PairRules, values: Values, seed: int
) -> pd.DataFrame:
    """The mismatches that the quota of each split asks for across families, as far as there are any.

    `items`, sorted by id, has id, component, split and the columns that the rules read; `given` are the pairs that the
    splits have already. Every draw depends on `seed`, the split and the kind only.
    """
    matches = given[given["label"] == MATCH]
    anchors = items["id"].isin({*matches["item_a"], *matches["item_b"]})
    marked = items.assign(anchor=anchors, group=_groups(items, rules, values))
    frames = [_table(marked.iloc[:0], np.empty((0, 2), dtype=np.int64), "")]
    for number, (split, quota) in enumerate(quotas.items()):
        members = marked[marked["split"] == split]
        pool = _pool(members, rules, values)
        for kind, codes in _drawn(pool, quota, rules.negatives, [seed, number]):
            frames.append(_table(members, np.column_stack(pool.places(codes)), KINDS[kind]))
    return pd.concat(frames, ignore_index=True)


def _groups(items: pd.DataFrame, rules: PairRules, values: Values) -> Places:
    """Equal for items that agree in negatives.same; -1 where one of these, or what must differ, is empty."""
    same, differ = (_numbers(items, columns, values) for columns in (rules.negatives.same, rules.differ))
    empty = (np.column_stack([same, differ]) == EMPTY).any(axis=1)
    return np.where(empty, -1, row_numbers(same))


def _numbers(items: pd.DataFrame, columns: Sequence[str], values: Values) -> Places:
    if not columns:
        return np.empty((len(items), 0), dtype=np.int64)
    return value_numbers(items["facts"], columns, values)


def _pool(members: pd.DataFrame, rules: PairRules, values: Values) -> Pool:
    shares = rules.negatives.shares
    return Pool(
        component=members["component"].to_numpy(),
        group=members["group"].to_numpy(),
        anchors=np.flatnonzero(members["anchor"]),
        texts=members["text"].tolist() if shares[TEXT] else (),
        hashes=hash_numbers(members["image_hash"].tolist() if shares[IMAGE] else ()),
        differ=_numbers(members, rules.differ, values) if rules.differ else None,
    )


def _drawn(pool: Pool, quota: Quota, settings: Negatives, seeds: list[int]) -> Iterator[tuple[str, Places]]:
    """Each kind and the codes of its pairs; none is in two kinds."""
    taken = np.empty(0, dtype=np.int64)
    for number, kind in enumerate(KINDS):
        generator = np.random.default_rng([*seeds, number])
        codes = draw_mismatches(pool, kind, quota.mismatches[kind], taken, settings, generator)
        taken = np.concatenate([taken, codes])
        yield kind, codes


def _table(members: pd.DataFrame, places: Places, kind: str) -> pd.DataFrame:
    """Pairs from places (n, 2) in `members`; `component` is that of item_a."""
    first, second = (members.iloc[side].reset_index(drop=True) for side in places.T)
    return pd.DataFrame(
        {
            "item_a": first["id"],
            "item_b": second["id"],
            "label": np.full(len(places), MISMATCH, dtype=np.int8),
            "split": first["split"],
            "component": first["component"],
            "kind": pd.Series(kind, index=range(len(places)), dtype="str"),
        }
    )
