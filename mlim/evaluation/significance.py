"""Is one scoring of the same pairs better than another: a paired bootstrap."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import (
    Labels,
    Scores,
    average_precision,
    percentile_interval,
    resampled_average_precision,
)


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


def paired_bootstrap(
    labels: Labels, scores_a: Scores, scores_b: Scores, samples: int, confidence: float, seed: int
) -> Difference:
    """PR-AUC of `scores_a` minus that of `scores_b`, both on the same stratified resamples of the pairs."""
    resampled_a, resampled_b = resampled_average_precision(labels, [scores_a, scores_b], samples, seed)
    value = average_precision(labels, scores_a) - average_precision(labels, scores_b)
    return paired_difference(value, resampled_a - resampled_b, confidence)
