"""Several claims on one set of results: p-values corrected together, one-sided tests, tests of equivalence."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from mlim.evaluation.resampling import Effect


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values (n,) corrected by Holm's step-down rule (1979), which bounds the familywise error rate."""
    found = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(found.size, 0, -1))
    corrected = np.empty_like(found)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def p_above(effect: Effect, limit: float) -> float:
    """One-sided p-value of "the true effect is at most `limit`": small when it is clearly above."""
    if effect.standard_error == 0:
        return float(effect.value <= limit)
    return float(stats.t.sf((effect.value - limit) / effect.standard_error, effect.freedom))


def p_below(effect: Effect, limit: float) -> float:
    """One-sided p-value of "the true effect is at least `limit`": small when it is clearly below."""
    if effect.standard_error == 0:
        return float(effect.value >= limit)
    return float(stats.t.cdf((effect.value - limit) / effect.standard_error, effect.freedom))


def p_equivalent(effect: Effect, margin: float) -> float:
    """P-value of two one-sided tests (Schuirmann 1987): small when the true effect lies inside +-`margin`."""
    return max(p_above(effect, -margin), p_below(effect, margin))


def p_outside(effect: Effect, margin: float) -> float:
    """P-value against an effect inside +-`margin`: small when it clearly lies outside, on either side."""
    return min(1.0, 2 * min(p_above(effect, margin), p_below(effect, -margin)))
