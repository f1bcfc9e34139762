"""Accuracy of answers and statements: by kind, against several people's answers, and over what belongs together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from mlim.evaluation.metrics.measure import Figure, Values, WeightedMeans

ALL: Final = Figure("accuracy", "accuracy")
CONSISTENCY: Final = Figure("consistency", "consistency")
AGREEING: Final = np.array([0.0, 0.3, 0.6, 0.9, 1.0])  # by how many of ten people gave an answer, 4 standing for more


def soft_scores(agreeing: Sequence[int]) -> Values:
    """Scores (n,) of answers that so many of ten people gave too (VQA, Antol et al. 2015).

    That is min(others / 3, 1), averaged over the ten ways to leave a person out.
    """
    return AGREEING[np.minimum(np.asarray(agreeing, dtype=np.int64), len(AGREEING) - 1)]


def kinds_in(kinds: Sequence[str]) -> tuple[Figure, ...]:
    """The figures of `by_kind`: over all questions, then over those of each kind in the order of their names."""
    return (ALL, *(Figure(f"accuracy_{kind}", f"accuracy, {kind}") for kind in sorted(set(kinds))))


def by_kind(scores: Values, kinds: Sequence[str]) -> WeightedMeans:
    """Mean scores (n,) over all questions and over those of each kind (`kinds_in`); a score is 0, 1 or between."""
    each = np.asarray(kinds)
    counted = np.stack([np.ones(len(scores)), *(each == kind for kind in sorted(set(kinds)))])
    return WeightedMeans(np.broadcast_to(scores, counted.shape), counted.astype(np.float64))


def entailed_consistency(right: Mapping[str, bool], entailed: Mapping[str, Sequence[str]]) -> WeightedMeans:
    """Of the questions that follow from a rightly answered one, the share that is right too (GQA, Hudson et al. 2019).

    Examples are the questions in the order of `right`. A question counts once, however many follow from it, and not at
    all when its own answer is wrong or nothing follows from it.
    """
    following = [[other for other in entailed.get(name, ()) if other != name and other in right] for name in right]
    values = [float(np.mean([right[other] for other in others])) if others else 0.0 for others in following]
    counted = [float(own and bool(others)) for own, others in zip(right.values(), following, strict=True)]
    return WeightedMeans(np.array([values]), np.array([counted]))


def set_consistency(right: Sequence[bool], sets: Sequence[Hashable]) -> WeightedMeans:
    """The share of sets whose statements are all judged right (NLVR2, Suhr et al. 2019); examples are statements.

    The statements of a set share its one vote, so that large sets count no more than small ones.
    """
    answers: dict[Hashable, list[bool]] = {}
    for name, answer in zip(sets, right, strict=True):
        answers.setdefault(name, []).append(bool(answer))
    values = [float(all(answers[name])) for name in sets]
    return WeightedMeans(np.array([values]), np.array([[1 / len(answers[name]) for name in sets]]))
