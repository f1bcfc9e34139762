"""From a score to a decision and to a probability, both learned on the validation pairs, both plain numbers."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve

from mlim.evaluation.pr_auc import Labels, Scores, check_scores

Rule = Literal["target-precision", "best-f1", "promised-precision", "promised-recall"]
BINS = 10  # of probabilities, in their calibration error
SCORE_MARGIN = 1e-14  # scores are kept this far from 0 and 1, where the logit is infinite


class Threshold(NamedTuple):
    """The lowest score that counts as a match, with its precision and recall on the pairs it was chosen on."""

    value: float
    precision: float
    recall: float
    rule: Rule


class Decision(NamedTuple):
    """Precision and recall of the decisions at a threshold; precision is 0 when nothing is called a match."""

    precision: float
    recall: float


class Calibration(NamedTuple):
    """Platt scaling: the probability of a match is sigmoid(slope * logit(score) + intercept)."""

    slope: float
    intercept: float

    def apply(self, scores: Scores) -> Scores:
        """Scores (n,) in [0, 1] as calibrated probabilities (n,); order is kept."""
        return np.asarray(expit(self.slope * _logit(scores) + self.intercept))


IDENTITY = Calibration(slope=1.0, intercept=0.0)


def choose_threshold(labels: Labels, scores: Scores, target_precision: float, min_recall: float) -> Threshold:
    """The lowest threshold whose precision reaches the target: the most matches found at the promised precision.

    Where none does while still finding `min_recall` of the matches, the one with the best F1; `rule` says which of the
    two it is. (A precision that a handful of pairs at the very top reach is luck, and finds nothing elsewhere.)
    """
    check_scores(labels, scores)
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point is the empty decision, without a threshold
    reaching = np.flatnonzero((precision >= target_precision) & (recall >= min_recall))
    if reaching.size:
        return _threshold(thresholds, precision, recall, int(reaching[0]), "target-precision")
    together = precision + recall
    f1 = 2 * precision * recall / np.where(together > 0, together, 1)
    return _threshold(thresholds, precision, recall, int(np.argmax(f1)), "best-f1")


def _threshold(thresholds: Scores, precision: Scores, recall: Scores, index: int, rule: Rule) -> Threshold:
    return Threshold(float(thresholds[index]), float(precision[index]), float(recall[index]), rule)


def decide(labels: Labels, scores: Scores, threshold: float) -> Decision:
    """Precision and recall when every score of at least `threshold` is called a match."""
    called = scores >= threshold
    hits = int((called & (labels == 1)).sum())
    return Decision(hits / max(int(called.sum()), 1), hits / max(int(labels.sum()), 1))


def calibrate(labels: Labels, scores: Scores) -> Calibration:
    """Platt scaling fitted on validation pairs; `IDENTITY` when it would turn the ranking over.

    Platt's soft targets ((n + 1) / (n + 2) instead of 1, 1 / (n + 2) instead of 0) keep the fit finite when the scores
    separate the labels perfectly; they enter as weights of a copy of each pair with either label.
    """
    check_scores(labels, scores)
    positives = int(labels.sum())
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (labels.size - positives + 2))
    logits = np.tile(_logit(scores), 2).reshape(-1, 1)
    both = np.repeat([1, 0], labels.size)
    fitted = LogisticRegression(C=np.inf).fit(logits, both, sample_weight=np.concatenate([target, 1 - target]))
    found = Calibration(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))
    return found if found.slope > 0 else IDENTITY


def _logit(scores: Scores) -> Scores:
    return np.asarray(logit(np.clip(scores, SCORE_MARGIN, 1 - SCORE_MARGIN)))


def calibration_error(probability: Scores, right: NDArray[np.bool_] | Labels) -> float:
    """The mean distance of probabilities (n,) from the share that is right (a match), over ten bins.

    Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015.
    """
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    gaps = [abs(probability[bins == one].sum() - right[bins == one].sum()) for one in np.unique(bins)]
    return float(sum(gaps) / len(probability))
