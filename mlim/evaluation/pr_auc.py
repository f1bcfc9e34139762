"""PR-AUC of pair scores: the metric of the paper's Tables 1 and 2 (section 4.2.1).

The area is average precision (scikit-learn's definition, no interpolation; a test compares them). Pairs may have
weights. Its uncertainty is in mlim/evaluation/resampling.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.errors import DataError

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
Weights = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure with the limits of its confidence interval; None where there are too few units for one."""

    value: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """A difference of two figures with its interval and two-sided p-value; None as for `Interval`."""

    value: float
    low: float | None
    high: float | None
    p_value: float | None


def check_scores(labels: Labels, scores: Scores) -> None:
    """Refuse (`DataError`) what has no PR-AUC: other lengths, scores that are not finite, only one of the labels."""
    if labels.shape != scores.shape or labels.ndim != 1:
        raise DataError(f"{labels.size} labels and {scores.size} scores do not belong together; score the pairs again")
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} pair scores are not finite numbers")
    if not 0 < labels.sum() < labels.size:
        raise DataError(f"PR-AUC needs pairs of both labels; {int(labels.sum())} of {labels.size} are matches")


def prevalence(labels: Labels) -> float:
    """The share of matches: the PR-AUC of scores that say nothing."""
    return float(np.mean(labels))


class Ranking:
    """One scoring of pairs, sorted once: all that average precision on weighted pairs needs."""

    def __init__(self, labels: Labels, scores: Scores) -> None:
        check_scores(labels, scores)
        self._order = np.argsort(-scores, kind="stable")
        falling = scores[self._order]
        self._ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))  # equal scores: one threshold
        self._matches = labels[self._order].astype(np.float64)[:, None]

    def average_precision(self, weights: Weights) -> NDArray[np.float64]:
        """Average precision (samples,) of the pairs weighted by `weights` (n, samples), each column with a match."""
        drawn = weights[self._order]
        shown = np.cumsum(drawn, axis=0)[self._ends]
        hits = np.cumsum(drawn * self._matches, axis=0)[self._ends]
        precision = np.divide(hits, shown, out=np.zeros_like(hits), where=shown > 0)
        gained = np.diff(hits, axis=0, prepend=0.0)
        return np.asarray((gained * precision).sum(axis=0) / hits[-1])


def average_precision(labels: Labels, scores: Scores) -> float:
    """Average precision of `scores` (n,) for 0/1 `labels` (n,); equal scores count as one threshold."""
    return float(Ranking(labels, scores).average_precision(np.ones((labels.size, 1)))[0])
