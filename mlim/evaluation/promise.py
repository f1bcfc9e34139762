"""A threshold that keeps a promise: with a given confidence, its precision (or recall) on other pairs is no lower.

Bounds are binomial, of the effective number of pairs: those of one family err together, so n of them count as n over
their design effect (Korn and Graubard 1998). As few errors tell little about how they cluster, one family of usual size
that is all wrong is added before the design effect is measured.

Recall falls with the threshold, so the highest one whose bound keeps the promise keeps it too (a tolerance limit).
Precision may rise and fall: thresholds are tested from the highest down, each at its share of the risk and at what the
tests before it, one after the other, did not need (the fallback procedure of Wiens 2003); so the risk that a promise is
broken stays what it is for one threshold. Which thresholds are tried depends on scores alone.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mlim.errors import InputError
from mlim.evaluation.pr_auc import Scores, check_scores
from mlim.evaluation.resampling import Families, JudgedPairs

TRIED: Final = 30  # thresholds of a precision, at most
MOST_NEEDED: Final = 10_000_000  # pairs; beyond it, more labels are no advice

Figure = Literal["precision", "recall"]
Chosen = NDArray[np.bool_]


class Promise(NamedTuple):
    """What is promised: `figure` is at least `target`, with this confidence."""

    figure: Figure
    target: float
    confidence: float = 0.95


def asked_promise(precision: float | None, recall: float | None) -> Promise | None:
    """The promise that a person asks for with one of two numbers; `InputError` when both are given."""
    if precision is not None and recall is not None:
        raise InputError("--precision and --recall: one threshold keeps one promise; leave one of them out")
    if precision is not None:
        return Promise("precision", precision)
    return None if recall is None else Promise("recall", recall)


class Promised(NamedTuple):
    """The threshold that keeps a promise (None: none is known to), its figure on the pairs and its lower bound.

    `counted` pairs are what the figure is a share of: those called a match (precision) or the matches (recall). Without
    a threshold, `needed` more such pairs, from families of the same size, would do if they were as these are, and `at`
    is the score from which on they are wanted; None where more labels alone would not do.
    """

    promise: Promise
    threshold: float | None
    value: float
    lower: float
    counted: int
    needed: int | None = None
    at: float | None = None

    def summary(self) -> dict[str, Any]:
        """The result as plain values."""
        return {**self.promise._asdict(), **{name: each for name, each in self._asdict().items() if name != "promise"}}

    @property
    def sentence(self) -> str:
        """What came of the promise."""
        figure, target, confidence = self.promise
        if self.threshold is not None:
            return (
                f"{figure} is at least {target:g} from score {self.threshold:.4g} on, with {confidence:.0%} confidence "
                f"({self.value:.3f} of {self.counted} pairs, lower bound {self.lower:.3f})"
            )
        if self.needed is None or self.at is None:
            return (
                f"no threshold reaches {figure} {target:g} on these pairs; more labels alone would not do: promise "
                "less, or improve the model"
            )
        pairs = f"pairs that score at least {self.at:.4g}" if figure == "precision" else "matching pairs"
        return f"not enough labels to promise {figure} {target:g}: {self.needed} more {pairs} would do"


def promised_threshold(pairs: JudgedPairs, scores: Scores, promise: Promise) -> Promised:
    """The lowest threshold that keeps a promise of precision, or the highest that keeps one of recall.

    `pairs` must be such that nothing was fitted on, least of all what gave the scores (n,): the promise is about pairs
    that are drawn as they were. `DataError` for scores that are not finite or labels that are all the same.
    """
    check_scores(pairs.labels, scores)
    if promise.figure == "recall":
        return _promised_recall(pairs, scores, promise)
    return _promised_precision(pairs, scores, promise)


def lower_bound(good: Chosen, families: Families | None, level: float) -> float:
    """The lower bound, wrong with probability `level`, of the share of pairs (n,) that are `good`."""
    return _bound(float(good.mean()), good.size / design_effect(good, families), level) if good.size else 0.0


def design_effect(good: Chosen, families: Families | None) -> float:
    """How many times the variance of a share of pairs (n,) is what it were if families (n, 2) did not matter.

    At least 1. A pair of two families belongs to both of them.
    """
    if families is None:
        return 1.0
    bad = ~good
    usual = _usual_family(families)
    share = (bad.sum() + usual) / (good.size + usual)
    _, numbered = np.unique(families, return_inverse=True)
    first, second = numbered.reshape(families.shape).T
    apart, residual = first != second, bad - share
    families_known = int(numbered.max(initial=-1)) + 1
    together = np.bincount(first, residual, families_known) + np.bincount(
        second[apart], residual[apart], families_known
    )
    spread = (together**2).sum() - (residual[apart] ** 2).sum() + (usual * (1 - share)) ** 2
    return float(max(spread / (share * (1 - share) * (good.size + usual)), 1.0))


def _usual_family(families: Families) -> float:
    """How many pairs the family of a pair has, on average over pairs."""
    touched = np.concatenate([families[:, 0], families[families[:, 0] != families[:, 1], 1]])
    sizes = np.unique(touched, return_counts=True)[1]
    return float((sizes**2).sum() / sizes.sum())


def _bound(value: float, effective: float, level: float) -> float:
    hits = value * effective
    return float(stats.beta.ppf(level, hits, effective - hits + 1)) if hits > 0 else 0.0


class _Tried(NamedTuple):
    threshold: float
    good: Chosen
    families: Families | None


def kept_threshold(pairs: JudgedPairs, scores: Scores, promise: Promise) -> Promised | None:
    """The lowest threshold that keeps a promise of precision; None: none is known to, whatever more labels would do."""
    share, spare, kept = (1 - promise.confidence) / TRIED, 0.0, None
    for threshold in _thresholds(pairs, scores, promise):
        one, level = _calling(pairs, scores, threshold), share + spare
        lower = lower_bound(one.good, one.families, level)
        spare = level if lower >= promise.target else 0.0
        if lower >= promise.target:
            kept = Promised(promise, one.threshold, float(one.good.mean()), lower, one.good.size)
    return kept


def _promised_precision(pairs: JudgedPairs, scores: Scores, promise: Promise) -> Promised:
    kept = kept_threshold(pairs, scores, promise)
    if kept is not None:
        return kept
    tried = _thresholds(pairs, scores, promise) or np.unique(scores).tolist()
    step = max(scores.size / _fewest(pairs, promise), 2) ** (1 / (TRIED - 1))
    share = (1 - promise.confidence) / TRIED
    return _wanting(promise, [_calling(pairs, scores, one) for one in tried], share, step)


def _promised_recall(pairs: JudgedPairs, scores: Scores, promise: Promise) -> Promised:
    matching = pairs.labels == 1
    families = None if pairs.families is None else pairs.families[matching]
    level, found = 1 - promise.confidence, scores[matching]
    thresholds = np.unique(found)
    low, high = 0, len(thresholds)  # bounds fall with the threshold: the first that is too high is sought
    while low < high:
        middle = (low + high) // 2
        if lower_bound(found >= thresholds[middle], families, level) >= promise.target:
            low = middle + 1
        else:
            high = middle
    if not low:
        return _wanting(promise, [_Tried(float(thresholds[0]), found >= thresholds[0], families)], level)
    threshold = float(thresholds[low - 1])
    good = found >= threshold
    return Promised(promise, threshold, float(good.mean()), lower_bound(good, families, level), good.size)


def _calling(pairs: JudgedPairs, scores: Scores, threshold: float) -> _Tried:
    called = scores >= threshold
    return _Tried(threshold, pairs.labels[called] == 1, None if pairs.families is None else pairs.families[called])


def _thresholds(pairs: JudgedPairs, scores: Scores, promise: Promise) -> Sequence[float]:
    """At most TRIED thresholds, falling, that call ever more pairs, the first as many as could keep the promise."""
    falling, fewest = np.sort(scores)[::-1], _fewest(pairs, promise)
    if fewest > falling.size:
        return []
    counts = np.unique(np.geomspace(fewest, falling.size, TRIED).astype(np.int64))
    return sorted(set(falling[counts - 1].tolist()), reverse=True)


def _fewest(pairs: JudgedPairs, promise: Promise) -> int:
    """How many pairs, all of them right, can keep a promise of precision when TRIED thresholds share the risk."""
    effect = 1.0 if pairs.families is None else _usual_family(pairs.families)
    return math.ceil(effect * math.log((1 - promise.confidence) / TRIED) / math.log(promise.target))


def _wanting(promise: Promise, tried: Sequence[_Tried], level: float, step: float = 1.0) -> Promised:
    """No threshold: how many more pairs would do at the one that needs fewest; thresholds lie `step` times apart."""
    needs = [(_needed(one, promise.target, level, step), one) for one in tried]
    possible = [(needed, one) for needed, one in needs if needed is not None]
    best = max(tried, key=lambda each: float(each.good.mean()))
    needed, one = min(possible, key=lambda entry: entry[0], default=(None, best))
    lower = lower_bound(one.good, one.families, level)
    return Promised(promise, None, float(one.good.mean()), lower, one.good.size, needed, one.threshold)


def _needed(one: _Tried, target: float, level: float, step: float) -> int | None:
    """How many more pairs like these bring the bound to the target; None when no number does."""
    value, effect = float(one.good.mean()), design_effect(one.good, one.families)
    few, many = 0, one.good.size
    while value > target and many <= MOST_NEEDED and _bound(value, many / effect, level) < target:
        few, many = many, 2 * many
    if value <= target or many > MOST_NEEDED:
        return None
    while few + 1 < many:
        middle = (few + many) // 2
        few, many = (few, middle) if _bound(value, middle / effect, level) >= target else (middle, many)
    return max(math.ceil(many * step) - one.good.size, 1)
