"""How many pairs of each kind a split gets, and which of the given ones stay.

Given are the matches and mismatches that the rule (or the user's own table) makes. What the ratio and the shares ask
for beyond them is drawn across families (`mlim.pairs.negatives`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlim.catalog.pair_rules import FAMILY, PairRules
from mlim.pairs.labels import MATCH, MISMATCH


class Quota(NamedTuple):
    """Numbers of pairs of one split: matches and, by kind, mismatches.

    The ratio and the shares ask for `asked` of the given mismatches, more than `mismatches` when there are too few;
    `beyond_ratio` of the given ones are not wanted at all.
    """

    matches: int
    mismatches: Mapping[str, int]
    asked: int
    beyond_ratio: int


@dataclass(frozen=True)
class Chosen:
    """The given pairs that stay, sorted by ids, and the quota of each split; `beyond_cap` others had no room."""

    pairs: pd.DataFrame
    quotas: Mapping[str, Quota]
    beyond_ratio: int
    beyond_cap: int


def plan_quota(matches: int, mismatches: int, rules: PairRules, cap: int) -> Quota:
    """What a split with so many given pairs should have: at most `cap` pairs in the wanted ratio and shares.

    Too few given mismatches are not made up for by other kinds: the ratio then falls short. When the cap cuts, all
    kinds and the matches are cut alike.
    """
    asked = _asked(matches, mismatches, rules)
    wanted = {**asked, FAMILY: min(asked[FAMILY], float(mismatches))}
    total = sum(wanted.values())
    kept, scale = matches, 1.0
    if matches + round(total) > cap:
        kept = round(cap * matches / (matches + total))
        if matches and total and cap > 1:
            kept = min(max(kept, 1), cap - 1)  # a rare label must not vanish
        scale = (cap - kept) / total if total else 0.0
    whole = _rounded(wanted, scale)
    beyond_ratio = mismatches - max(whole[FAMILY], round(wanted[FAMILY]))
    return Quota(kept, whole, max(whole[FAMILY], round(asked[FAMILY] * scale)), beyond_ratio)


def _asked(matches: int, mismatches: int, rules: PairRules) -> dict[str, float]:
    """Mismatches of each kind that the ratio and the shares ask for, whatever there is, without a cap."""
    shares = rules.negatives.shares
    if rules.mismatches_per_match is not None:
        total = rules.mismatches_per_match * matches
    elif shares[FAMILY] > 0:
        total = mismatches / shares[FAMILY]
    else:
        total = float(matches)
    return {kind: share * total for kind, share in shares.items()}


def _rounded(wanted: Mapping[str, float], scale: float) -> dict[str, int]:
    """Whole numbers that add up to the rounded sum, each within one of its share (largest remainders)."""
    exact = {kind: number * scale for kind, number in wanted.items()}
    whole = {kind: int(number) for kind, number in exact.items()}
    left = round(sum(exact.values())) - sum(whole.values())
    by_remainder = sorted(exact, key=lambda kind: whole[kind] - exact[kind])
    return {kind: whole[kind] + (kind in by_remainder[:left]) for kind in wanted}


def choose_given(pairs: pd.DataFrame, caps: Mapping[str, int], rules: PairRules, seed: int) -> Chosen:
    """The pairs (label, split, ...) that stay in each split of `caps`, drawn with `seed`."""
    generator = np.random.default_rng(seed)
    quotas, kept = {}, []
    for split, cap in caps.items():
        places = [np.flatnonzero((pairs["split"] == split) & (pairs["label"] == label)) for label in (MATCH, MISMATCH)]
        quota = plan_quota(len(places[0]), len(places[1]), rules, cap)
        quotas[split] = quota
        counts = (quota.matches, quota.mismatches[FAMILY])
        if sum(map(len, places)) > sum(counts):
            drawn = zip(places, counts, strict=True)
            places = [generator.choice(place, count, replace=False) for place, count in drawn]
        kept += places
    chosen = pairs.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)
    beyond_ratio = sum(quota.beyond_ratio for quota in quotas.values())
    return Chosen(chosen, quotas, beyond_ratio, len(pairs) - len(chosen) - beyond_ratio)
