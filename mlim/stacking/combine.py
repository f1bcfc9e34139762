"""One score from many: a logistic regression over the parts' logits, fitted on validation pairs.

The matcher and the other parts were fitted on the training pairs, so their scores of those are overconfident. The
validation pairs are new to them; scores of validation pairs that thresholds, calibration and the choice of what is
registered rest on come from regressions that saw no pair of the same families (cross-fitting).
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mlim.pairs.learned import Labels, Scores

MARGIN: Final = 1e-4  # scores are kept this far from 0 and 1: no part is surer than that
STRENGTH: Final = 1.0

Families = NDArray[np.int64]


class Combination(NamedTuple):
    """A regression over the logits of `parts`, in this order."""

    parts: tuple[str, ...]
    regression: Pipeline

    def score(self, scores: pd.DataFrame) -> Scores:
        """Probabilities (n,) of a match from the scores in [0, 1] of all parts."""
        return np.asarray(self.regression.predict_proba(_logits(scores, self.parts))[:, 1], dtype=np.float64)

    @property
    def weights(self) -> dict[str, float]:
        """How much the logit moves with one standard deviation of each part's logit."""
        return dict(zip(self.parts, map(float, self.regression[-1].coef_[0]), strict=True))


def combine(scores: pd.DataFrame, parts: Sequence[str], labels: Labels) -> Combination:
    """The combination of `parts`, fitted on pairs with their scores and labels; both labels must be among them."""
    regression = Pipeline([("scale", StandardScaler()), ("weigh", LogisticRegression(C=STRENGTH))])
    return Combination(tuple(parts), regression.fit(_logits(scores, parts), labels))


def cross_fitted(scores: pd.DataFrame, parts: Sequence[str], labels: Labels, families: Families, folds: int) -> Scores:
    """The score (n,) of each pair by a combination that was fitted on no pair that shares a family with its fold.

    `families` (n, 2) are those of the two items. A fold is made of whole families of first items. Where the pairs left
    over hold one label only, the combination of all pairs is used.
    """
    found = np.empty(len(labels))
    everything = combine(scores, parts, labels)
    _, numbers = np.unique(families[:, 0], return_inverse=True)
    fold = numbers % folds  # of each pair: families in the order of their numbers, assigned in turn
    for number in np.unique(fold):
        judged = fold == number
        rest = np.flatnonzero(~np.isin(families, np.unique(families[judged])).any(axis=1))
        enough = np.unique(labels[rest]).size > 1
        fitted = combine(scores.iloc[rest], parts, labels[rest]) if enough else everything
        found[judged] = fitted.score(scores.iloc[np.flatnonzero(judged)])
    return found


def _logits(scores: pd.DataFrame, parts: Sequence[str]) -> Any:
    return logit(scores[list(parts)].to_numpy(dtype=np.float64).clip(MARGIN, 1 - MARGIN))
