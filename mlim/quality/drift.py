"""How far one data version lies from another: divergences between histograms, as pure functions of counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

PSI_PRIOR = 0.5  # added to every count: an empty cell would make the index infinite (Jeffreys' prior)
CHANCE_DEVIATIONS = 3.0  # above the mean of the chi-square distribution

Counts = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Divergence:
    """How one measure moved. `excess` is what is judged: the Jensen-Shannon divergence less what chance explains.

    All but `stability_index` are in bits from 0 to 1; the population stability index is for those who know its rule of
    thumb (below 0.1: stable, above 0.25: moved).
    """

    measure: str
    jensen_shannon: float
    chance: float
    excess: float
    stability_index: float


def jensen_shannon(one: Counts, other: Counts) -> float:
    """The Jensen-Shannon divergence of two histograms over the same cells, in bits: 0 equal, 1 nothing in common.

    J. Lin, "Divergence measures based on the Shannon entropy" (1991). An empty histogram differs from none: 0.
    scipy's `jensenshannon` is NaN where rounding makes this sum negative, as for histograms of equal shapes.
    """
    p, q = _shares(one), _shares(other)
    if not p.any() or not q.any():
        return 0.0
    middle = (p + q) / 2
    nats = float((rel_entr(p, middle) + rel_entr(q, middle)).sum()) / 2
    return max(0.0, nats / log(2))


def population_stability_index(reference: Counts, present: Counts) -> float:
    """The population stability index, sum of (q - p) ln(q / p) over the cells that either histogram fills.

    Half an item is added to each cell, so that a category which appears or goes does not make it infinite.
    """
    counts = np.stack([np.asarray(reference, dtype=np.float64), np.asarray(present, dtype=np.float64)])
    counts = counts[:, counts.any(axis=0)] + PSI_PRIOR
    p, q = counts / counts.sum(axis=1, keepdims=True)
    return float(((q - p) * np.log(q / p)).sum())


def chance_divergence(one: Counts, other: Counts) -> float:
    """The Jensen-Shannon divergence, in bits, that two samples of one distribution hardly ever exceed.

    8 ln 2 / (1/n + 1/m) times the divergence of samples of n and m is close to a chi-square value with (cells - 1)
    degrees of freedom; taken is its mean and three standard deviations, at most 1.
    """
    n, m = int(np.sum(one)), int(np.sum(other))
    freedom = max(int(np.count_nonzero(np.asarray(one) + np.asarray(other))) - 1, 0)
    if not n or not m:
        return 0.0
    limit = freedom + CHANCE_DEVIATIONS * sqrt(2 * freedom)
    return min(1.0, limit * (1 / n + 1 / m) / (8 * log(2)))


def divergence(measure: str, reference: Counts, present: Counts) -> Divergence:
    """Compare two histograms over the same cells."""
    moved, chance = jensen_shannon(reference, present), chance_divergence(reference, present)
    index = population_stability_index(reference, present)
    return Divergence(measure, moved, chance, max(0.0, moved - chance), index)


def _shares(counts: Counts) -> NDArray[np.float64]:
    numbers = np.asarray(counts, dtype=np.float64)
    shares: NDArray[np.float64] = numbers / max(numbers.sum(), 1.0)
    return shares
