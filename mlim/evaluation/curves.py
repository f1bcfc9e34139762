"""Precision against recall, of one scoring of pairs and averaged over several."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_curve

from mlim.evaluation.pr_auc import Labels, Scores, check_scores

CURVE_POINTS = 500  # of a curve that is kept: what a plot can show, whatever the number of pairs
MEAN_POINTS = 201  # of a curve that is averaged over seeds
RECALL_SLACK = 1e-12  # a recall is a fraction of counts, the grid is not


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
