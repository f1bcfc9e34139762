"""Average precision of detections, as COCO defines it (Lin et al. 2014), on pictures with weights.

Detections of a class are matched once, picture by picture, for each IoU threshold; a resample is then a column of
weights of pictures on the sorted detections. Precision is interpolated at 101 levels of recall.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.metrics.measure import Figure, Values
from mlim.evaluation.pr_auc import Weights

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]

THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
LEVELS: Final = np.linspace(0.0, 1.0, 101)
DETECTIONS: Final = 100  # of a class in a picture, the best ones
SMALL_SIDE, LARGE_SIDE, ENDLESS = 32.0, 96.0, 1e5
FIGURES: Final = (
    Figure("ap", "AP"),
    Figure("ap50", "AP50"),
    Figure("ap75", "AP75"),
    *(Figure(f"ap_{size}", f"AP, {size}") for size in ("small", "medium", "large")),
)
AT_50, AT_75 = 0, 5  # places among THRESHOLDS
EPSILON: Final = float(np.spacing(1))


class Truth(NamedTuple):
    """What is in a picture: boxes (n, 4) x0 y0 x1 y1, labels (n,), areas (n,) that sizes go by, crowds (n,)."""

    boxes: Boxes
    labels: NDArray[np.int64]
    areas: Values
    crowds: Flags

    @classmethod
    def of(cls, boxes: Boxes, labels: NDArray[np.int64]) -> "Truth":
        """Boxes without crowds, whose areas are their own."""
        return cls(boxes, labels, areas_of(boxes), np.zeros(len(boxes), dtype=bool))


class Found(NamedTuple):
    """What a model detected in a picture: boxes (n, 4), labels (n,), scores (n,)."""

    boxes: Boxes
    labels: NDArray[np.int64]
    scores: Values

    def at(self, places: NDArray[np.int64]) -> "Found":
        """Those at the given places, in their order."""
        return Found(self.boxes[places], self.labels[places], self.scores[places])


class _Matched(NamedTuple):
    """Detections of a class and size by falling score: their pictures (d,), whether they are right and whether they
    are ignored (thresholds, d); `wanted` (pictures,) is how many there are to find."""

    pictures: NDArray[np.int64]
    right: Flags
    ignored: Flags
    wanted: NDArray[np.int64]


def areas_of(boxes: Boxes) -> Values:
    """Areas (n,) of boxes (n, 4)."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def overlaps(found: Boxes, boxes: Boxes, crowds: Flags) -> Values:
    """Intersection over union (d, n); over the detection's own area where the other box is a crowd."""
    low, high = np.maximum(found[:, None, :2], boxes[:, :2]), np.minimum(found[:, None, 2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=2)
    own = areas_of(found)[:, None]
    union = np.where(crowds, own, own + areas_of(boxes) - common)
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


class DetectionAp:
    """The FIGURES of detections, over the classes that there is something to find of.

    `small` and `large` are the sides of the squares, in the unit of the boxes, that part the three sizes.
    """

    def __init__(
        self, truths: Sequence[Truth], found: Sequence[Found], small: float = SMALL_SIDE, large: float = LARGE_SIDE
    ) -> None:
        every, ends = (0.0, ENDLESS**2), (0.0, small**2, large**2, ENDLESS**2)
        ranges = [every, *pairwise(ends)]
        labels = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(truth.labels for truth in truths)]))
        self._by_size = [[_match_class(truths, found, int(label), size) for label in labels] for size in ranges]

    def figures(self, weights: Weights) -> Values:
        """Figures (6, samples) of the pictures weighted by `weights` (n, samples); NaN where there is no such box."""
        whole, *sizes = (_mean_over_classes([_class_ap(each, weights) for each in one]) for one in self._by_size)
        return np.stack([whole.mean(axis=0), whole[AT_50], whole[AT_75], *(size.mean(axis=0) for size in sizes)])


def _mean_over_classes(each: Sequence[Values]) -> Values:
    """Means (thresholds, samples) over the classes that are not NaN; NaN where all are."""
    found = np.stack(each)
    known = ~np.isnan(found)
    counted = known.sum(axis=0)
    total = np.where(known, found, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, counted, out=np.full(total.shape, np.nan), where=counted > 0))


def _class_ap(matched: _Matched, weights: Weights) -> Values:
    """Average precision (thresholds, samples) of one class and size."""
    wanted = matched.wanted @ weights
    drawn, reached = weights[matched.pictures], []
    for right, ignored in zip(matched.right, matched.ignored, strict=True):
        hits = np.cumsum(drawn * (right & ~ignored)[:, None], axis=0)
        shown = np.cumsum(drawn * ~ignored[:, None], axis=0)
        precision = hits / (shown + EPSILON)
        falling = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached.append([_interpolated(*each) for each in zip(hits.T, falling.T, wanted, strict=True)])
    return np.array(reached).reshape(len(THRESHOLDS), weights.shape[1])


def _interpolated(hits: Values, precision: Values, wanted: float) -> float:
    """The mean precision (d,) at the levels of recall, 0 at those that are not reached; NaN with nothing to find."""
    if not wanted:
        return float("nan")
    places = np.searchsorted(hits / wanted, LEVELS, side="left")
    return float(np.append(precision, 0.0)[places].mean())


def _match_class(truths: Sequence[Truth], found: Sequence[Found], label: int, size: tuple[float, float]) -> _Matched:
    pictures, scores, right, ignored, wanted = [], [], [], [], []
    for number, (truth, detections) in enumerate(zip(truths, found, strict=True)):
        own = Truth(*(values[truth.labels == label] for values in truth))
        best = detections.at(np.flatnonzero(detections.labels == label))
        best = best.at(np.argsort(-best.scores, kind="stable")[:DETECTIONS])
        outside = own.crowds | (own.areas < size[0]) | (own.areas > size[1])
        matched, passed_over = _match_picture(own, best, outside)
        beyond = (areas_of(best.boxes) < size[0]) | (areas_of(best.boxes) > size[1])
        pictures.append(np.full(len(best.scores), number))
        scores.append(best.scores)
        right.append(matched)
        ignored.append(passed_over | (~matched & beyond))
        wanted.append(int((~outside).sum()))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    all_right, all_ignored = (np.concatenate(each, axis=1)[:, order] for each in (right, ignored))
    return _Matched(np.concatenate(pictures)[order], all_right, all_ignored, np.array(wanted))


def _match_picture(truth: Truth, best: Found, outside: Flags) -> tuple[Flags, Flags]:
    """Which detections have a box, and which an ignored one (thresholds, d); each takes the best that is left."""
    order = np.argsort(outside, kind="stable")  # a box that counts comes before one that does not
    overlap = overlaps(best.boxes, truth.boxes[order], truth.crowds[order])
    crowds, outside = truth.crowds[order], outside[order]
    matched = np.zeros((len(THRESHOLDS), len(best.scores)), dtype=bool)
    ignored = np.zeros_like(matched)
    for level, threshold in enumerate(THRESHOLDS):
        free = np.ones(len(order), dtype=bool)
        for at in range(len(best.scores)):
            possible = (free | crowds) & (overlap[at] >= min(threshold, 1 - 1e-10))
            chosen = possible & ~outside if (possible & ~outside).any() else possible
            if chosen.any():
                box = _last_best(np.where(chosen, overlap[at], -1.0))
                matched[level, at], ignored[level, at], free[box] = True, outside[box], False
    return matched, ignored


def _last_best(values: Values) -> int:
    """The place of the largest value, the last of equal ones."""
    return len(values) - 1 - int(np.argmax(values[::-1]))
