"""A difference of two figures, and what resampled ones say about it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import percentile_interval


class Difference(NamedTuple):
    """A difference of two figures with its interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p_value: float

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_difference(value: float, resampled: NDArray[np.float64], confidence: float) -> Difference:
    """What resampled differences (samples,) say about a difference of `value`.

    The p-value is twice the smaller share of resamples on either side of 0, with the observed sample counted as one
    of them, so that it is never 0; differences that are all 0 have p = 1.
    """
    interval = percentile_interval(value, resampled, confidence)
    beyond = 1 + min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return Difference(*interval, p_value=min(1.0, 2 * beyond / (1 + resampled.size)))
