"""How good groups are: pairwise and B-cubed precision, recall and F1, with intervals over families.

B-cubed (Bagga and Baldwin 1998): precision of an item is the share of its group that truly belongs with it, recall the
share of what belongs with it that is in its group; both averaged over items. Only items with labels are looked at; what
truly belongs together is what labelled matches connect.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.resampling import FEWEST_UNITS, JudgedPairs, draw_units, draw_weights, t_test
from mlim.matching.groups import Places
from mlim.quality.near_duplicates import link_groups

Figures = NDArray[np.float64]  # (samples,) or a single one


def judge_groups(
    groups: Places, first: Places, second: Places, pairs: JudgedPairs, samples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Figures of the groups (items,) on labelled pairs (n,) of items `first` and `second`, each with its interval.

    `pairs` tells labels and families. Limits are None where there are too few families for an interval.
    """
    if not len(first):
        return {}
    generator, together = np.random.default_rng(seed), groups[first] == groups[second]
    drawn = None if pairs.no_interval else _pairwise(together, pairs, draw_weights(pairs, samples, generator))
    plain = _pairwise(together, pairs, np.ones((len(first), 1)))
    return {
        "pairwise": _with_intervals(plain, drawn, pairs.clusters, confidence),
        "b_cubed": _judge_items(groups, first, second, pairs, samples, confidence, generator),
    }


def b_cubed(groups: Places, truth: Places) -> tuple[Figures, Figures]:
    """Precision and recall (n,) of each item, of its group (n,) and its true group (n,)."""
    both = np.unique(np.column_stack([groups, truth]), axis=0, return_inverse=True, return_counts=True)
    shared = both[2][both[1].ravel()]
    sizes = [np.bincount(numbers)[numbers] for numbers in (groups, truth)]
    return shared / sizes[0], shared / sizes[1]


def _pairwise(together: NDArray[np.bool_], pairs: JudgedPairs, weights: Figures) -> Mapping[str, Figures]:
    hits = weights[together & (pairs.labels == 1)].sum(axis=0)
    called, matches = weights[together].sum(axis=0), weights[pairs.labels == 1].sum(axis=0)
    return _figures(_share(hits, called), _share(hits, matches))


def _judge_items(
    groups: Places,
    first: Places,
    second: Places,
    pairs: JudgedPairs,
    samples: int,
    confidence: float,
    generator: np.random.Generator,
) -> dict[str, Any]:
    items, numbered = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, other = numbered.reshape(2, -1)
    matches = pairs.labels == 1
    truth = link_groups(np.column_stack([one[matches], other[matches]]), len(items))
    precision, recall = b_cubed(np.unique(groups[items], return_inverse=True)[1], truth)
    family = np.arange(len(items)) if pairs.families is None else np.zeros(len(items), dtype=np.int64)
    if pairs.families is not None:
        family[one], family[other] = pairs.families.T
    units, unit = np.unique(family, return_inverse=True)

    def weighted(weights: Figures) -> Mapping[str, Figures]:
        of_items = weights[unit]
        total = of_items.sum(axis=0)
        return _figures(_share(precision @ of_items, total), _share(recall @ of_items, total))

    drawn = weighted(draw_units(len(units), samples, generator)) if len(units) >= FEWEST_UNITS else None
    return _with_intervals(weighted(np.ones((len(units), 1))), drawn, len(units), confidence)


def _figures(precision: Figures, recall: Figures) -> Mapping[str, Figures]:
    return {"precision": precision, "recall": recall, "f1": _share(2 * precision * recall, precision + recall)}


def _share(part: Figures, whole: Figures) -> Figures:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _with_intervals(
    values: Mapping[str, Figures], drawn: Mapping[str, Figures] | None, units: int, confidence: float
) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    for name, value in values.items():
        low: float | None = None
        high: float | None = None
        if drawn is not None:
            low, high, _ = t_test(float(value[0]), float(drawn[name].std(ddof=1)), units - 1, confidence)
            low, high = max(low, 0.0), min(high, 1.0)
        found[name] = {"value": float(value[0]), "low": low, "high": high}
    return found
