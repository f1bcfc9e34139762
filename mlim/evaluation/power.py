"""What it would take to separate a difference: more seeds or more test pairs (docs/statistics.md).

A planned experiment has k seeds and r times the present test pairs. Its variance is pairs_error^2 / r + spread^2 / k,
its test a t test; the power comes from the noncentral t distribution (Cohen 1988, chapter 2). The effect that is
planned for is the measured one, or any other: power "after the fact" is not reported, it only repeats the p-value
(Hoenig and Heisey 2001).
"""

from bisect import bisect_left
from typing import Final, NamedTuple

import numpy as np
from scipy import optimize, stats

from mlim.evaluation.resampling import Effect, satterthwaite

POWER: Final = 0.8
MOST_SEEDS: Final = 1000  # beyond, an answer is no plan
MOST_TIMES: Final = 10_000.0  # as many pairs as there are now


class Needed(NamedTuple):
    """What would separate a difference of `effect` at `power`; None: no number of these alone would.

    `detectable` is the smallest difference that the present seeds and pairs separate with that power. `seeds` is None
    too when only one seed was trained: the spread between seeds is not known.
    """

    effect: float
    power: float
    seeds: int | None
    pairs: int | None
    detectable: float


def power_of(found: Effect, effect: float, alpha: float, seeds: int, times: float = 1.0) -> float:
    """The chance to separate a true difference of `effect` with `seeds` seeds and `times` the test pairs of `found`.

    `alpha` is the two-sided level. The spread of `found` is taken for the true one.
    """
    error, freedom = _planned(found, seeds, times)
    if error == 0:
        return float(effect != 0)
    shift = abs(effect) / error
    limit = float(stats.t.ppf(1 - alpha / 2, freedom))
    right_sign = np.nan_to_num(stats.nct.sf(limit, freedom, shift), nan=1.0)
    wrong_sign = np.nan_to_num(stats.nct.cdf(-limit, freedom, shift), nan=0.0)  # near 0 unless the effect is tiny
    return float(right_sign + wrong_sign)


def _planned(found: Effect, seeds: int, times: float) -> tuple[float, float]:
    """Standard error and degrees of freedom of a planned experiment."""
    of_pairs = found.pairs_error**2 / times
    of_seeds = 0.0 if found.seeds_spread is None else found.seeds_spread**2 / seeds
    each = found.seeds_freedom / max(found.seeds - 1, 1)  # degrees of freedom that one more seed brings
    freedom = satterthwaite((of_pairs, max(found.clusters * times - 1, 1)), (of_seeds, max(each * (seeds - 1), 1)))
    return float(np.sqrt(of_pairs + of_seeds)), freedom


def needed(found: Effect, pairs: int, alpha: float, effect: float | None = None, power: float = POWER) -> Needed:
    """Seeds at the present pairs, and pairs at the present seeds, that separate `effect` (default: the measured one).

    `pairs` is the present number of test pairs (of items, for Figure 2); more are more families in proportion.
    """
    wanted = abs(found.value if effect is None else effect)
    by_seeds = None if found.seeds_spread is None else fewest_seeds(found, wanted, alpha, power)
    times = _fewest_times(found, wanted, alpha, power)
    return Needed(
        wanted, power, by_seeds, None if times is None else int(np.ceil(pairs * times)), detectable(found, alpha, power)
    )


def fewest_seeds(found: Effect, wanted: float, alpha: float, power: float = POWER) -> int | None:
    """Seeds that separate a true difference of `wanted` with `power` at these pairs; None: no practical number."""

    def enough(seeds: int) -> bool:
        return power_of(found, wanted, alpha, seeds) >= power

    if not enough(MOST_SEEDS):
        return None
    return 2 + bisect_left(range(2, MOST_SEEDS), True, key=enough)  # power only grows with the seeds


def _fewest_times(found: Effect, wanted: float, alpha: float, power: float) -> float | None:
    def lacking(logarithm: float) -> float:
        return power_of(found, wanted, alpha, found.seeds, float(np.exp(logarithm))) - power

    ends = (0.0, float(np.log(MOST_TIMES)))
    if lacking(ends[0]) >= 0:
        return 1.0
    return None if lacking(ends[1]) < 0 else float(np.exp(optimize.brentq(lacking, *ends, xtol=1e-4)))


def detectable(found: Effect, alpha: float, power: float = POWER) -> float:
    """The smallest true difference that the seeds and pairs of `found` separate with `power` (Bloom 1995)."""
    error, freedom = _planned(found, found.seeds, 1.0)
    if error == 0:
        return 0.0
    highest = float(stats.t.ppf(1 - alpha / 2, freedom) + stats.t.ppf(power, freedom) + 1) * error
    return float(optimize.brentq(lambda effect: power_of(found, effect, alpha, found.seeds) - power, 0.0, 4 * highest))
