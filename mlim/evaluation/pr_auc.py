"""PR-AUC of pair scores: the metric of the paper's Tables 1 and 2 (section 4.2.1).

The area is average precision (scikit-learn's definition, no interpolation). Its uncertainty is in
mlim/evaluation/resampling.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from mlim.errors import DataError

CURVE_POINTS = 500  # of a curve that is kept: what a plot can show, whatever the number of pairs
MEAN_POINTS = 201  # of a curve that is averaged over seeds
RECALL_SLACK = 1e-12  # a recall is a fraction of counts, the grid is not

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]


class Interval(NamedTuple):
    """A figure with the limits of its confidence interval."""

    value: float
    low: float
    high: float


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


def average_precision(labels: Labels, scores: Scores) -> float:
    """Average precision of `scores` (n,) for 0/1 `labels` (n,); equal scores count as one threshold."""
    check_scores(labels, scores)
    return float(average_precision_score(labels, scores))


def pr_curve(labels: Labels, scores: Scores) -> pd.DataFrame:
    """Columns recall and precision, recall rising, thinned to `CURVE_POINTS` thresholds."""
    check_scores(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
    kept = np.unique(np.linspace(0, recall.size - 1, min(CURVE_POINTS, recall.size)).round().astype(int))
    return pd.DataFrame({"recall": recall[kept][::-1], "precision": precision[kept][::-1]})


def mean_pr_curve(labels: Labels, scorings: Sequence[Scores]) -> pd.DataFrame:
    """Columns recall and precision: at each recall the mean precision of several scorings (n,) of the same pairs.

    Precision at a recall is that of the highest threshold which reaches it, as average precision counts it.
    """
    at = np.linspace(0, 1, MEAN_POINTS)
    found = []
    for scores in scorings:
        check_scores(labels, scores)
        precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
        reached = np.searchsorted(recall[::-1], at - RECALL_SLACK, side="left")  # recall rises, 0 first
        found.append(precision[::-1][np.maximum(reached, 1)])  # the point at recall 0 is no threshold
    return pd.DataFrame({"recall": at, "precision": np.mean(found, axis=0)})
