"""Average precision of detections, by the rules of COCO (Lin et al. 2014), on pictures with weights.

Detections of a class are matched once, in the pictures that hold anything of it, for all sizes and IoU thresholds; a
resample is then a column of weights of pictures on the sorted detections. Precision is interpolated at 101 levels of
recall.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.metrics.measure import Figure, Flags, Values
from mlim.evaluation.pr_auc import Weights

Boxes = NDArray[np.float64]
Places = NDArray[np.int64]

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
LEAST_OVERLAPS: Final = np.minimum(THRESHOLDS, 1 - 1e-10)  # IoU from which on a detection has a box, as COCO has it


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

    def best_of(self, label: int) -> "Found":
        """The `DETECTIONS` surest of a class, by falling score."""
        places = np.flatnonzero(self.labels == label)
        places = places[np.argsort(-self.scores[places], kind="stable")[:DETECTIONS]]
        return Found(self.boxes[places], self.labels[places], self.scores[places])


class _Cell(NamedTuple):
    """A class in one picture: the scores (d,) of its detections, whether they are right and whether they are ignored
    (sizes, thresholds, d), and how many boxes there are to find of each size (sizes,)."""

    picture: int
    scores: Values
    right: Flags
    ignored: Flags
    wanted: Places


class _Matched(NamedTuple):
    """A class in one size: its detections by falling score, their pictures (d,), whether they are right and whether
    they are ignored (thresholds, d); `wanted` (p,) is how many boxes the pictures `holding` (p,) have to find."""

    pictures: Places
    right: Flags
    ignored: Flags
    holding: Places
    wanted: Places


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
        self._about, ranges = about(truths, small, large), _ranges(small, large)
        cells: dict[int, list[_Cell]] = {label: [] for label in _labels(truths)}
        for picture, each in enumerate(zip(truths, found, strict=True)):
            for label, cell in _cells(picture, *each, ranges):
                if label in cells:  # of a class that no picture holds nothing can be found
                    cells[label].append(cell)
        self._by_size = [[_sorted(each, size) for each in cells.values()] for size in range(len(ranges))]

    def about(self) -> Flags:
        """Which pictures (6, n) hold something to find for each figure."""
        return self._about

    def figures(self, weights: Weights) -> Values:
        """Figures (6, samples) of the pictures weighted by `weights` (n, samples); NaN where there is no such box."""
        whole, *sizes = (_mean_over_classes([_class_ap(each, weights) for each in one]) for one in self._by_size)
        return np.stack([whole.mean(axis=0), whole[AT_50], whole[AT_75], *(size.mean(axis=0) for size in sizes)])


def about(truths: Sequence[Truth], small: float = SMALL_SIDE, large: float = LARGE_SIDE) -> Flags:
    """Which pictures (6, n) hold something to find for each of FIGURES; crowds are nothing to find."""
    ranges = _ranges(small, large)
    held = np.array([_inside(ranges, truth).any(axis=1) for truth in truths], dtype=bool).reshape(-1, len(ranges))
    whole, *sizes = held.T
    return np.stack([whole, whole, whole, *sizes])


def _ranges(small: float, large: float) -> Values:
    """The least and the largest area (4, 2) of all boxes and of the three sizes."""
    most = ENDLESS**2
    return np.array([(0.0, most), (0.0, small**2), (small**2, large**2), (large**2, most)])


def _inside(ranges: Values, truth: Truth) -> Flags:
    """Which boxes (sizes, n) count in each size."""
    return ~truth.crowds & _within(ranges, truth.areas)


def _within(ranges: Values, areas: Values) -> Flags:
    """Which areas (sizes, n) are of each size; one at a limit is of both."""
    return np.asarray((areas >= ranges[:, :1]) & (areas <= ranges[:, 1:]))


def _labels(truths: Sequence[Truth]) -> list[int]:
    every = [np.empty(0, dtype=np.int64), *(truth.labels for truth in truths)]
    return [int(label) for label in np.unique(np.concatenate(every))]


def _mean_over_classes(each: Sequence[Values]) -> Values:
    """Means (thresholds, samples) over the classes that are not NaN; NaN where all are."""
    found = np.stack(each)
    known = ~np.isnan(found)
    counted = known.sum(axis=0)
    total = np.where(known, found, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, counted, out=np.full(total.shape, np.nan), where=counted > 0))


def _class_ap(matched: _Matched, weights: Weights) -> Values:
    """Average precision (thresholds, samples) of one class and size."""
    wanted, drawn = matched.wanted @ weights[matched.holding], weights[matched.pictures]
    reached = []
    for right, ignored in zip(matched.right, matched.ignored, strict=True):
        hit = np.flatnonzero(right & ~ignored)  # between hits recall stays and precision falls
        hits, shown = np.cumsum(drawn[hit], axis=0), np.cumsum(drawn * ~ignored[:, None], axis=0)[hit]
        falling = np.maximum.accumulate((hits / (shown + EPSILON))[::-1], axis=0)[::-1]
        reached.append(_interpolated(hits, falling, wanted))
    return np.stack(reached)


def _interpolated(hits: Values, precision: Values, wanted: Values) -> Values:
    """The mean precision (h, samples) at the levels of recall, 0 at those that are not reached: (samples,).

    NaN with nothing to find.
    """
    recall = np.divide(hits, wanted, out=np.zeros_like(hits), where=wanted > 0)
    levels = np.diff(np.searchsorted(LEVELS, recall, side="right"), axis=0, prepend=0)  # that each hit reaches first
    return np.where(wanted > 0, (levels * precision).sum(axis=0) / len(LEVELS), np.nan)


def _cells(picture: int, truth: Truth, found: Found, ranges: Values) -> Iterator[tuple[int, _Cell]]:
    """The classes that a picture holds, or that are detected in it, matched."""
    for label in np.union1d(truth.labels, found.labels).tolist():
        own, best = Truth(*(values[truth.labels == label] for values in truth)), found.best_of(label)
        inside = _inside(ranges, own)
        matched, passed_over = _match(overlaps(best.boxes, own.boxes, own.crowds), own.crowds, ~inside)
        beyond = ~_within(ranges, areas_of(best.boxes))[:, None]
        ignored = passed_over | (~matched & beyond)
        yield label, _Cell(picture, best.scores, matched, ignored, inside.sum(axis=1))


def _match(overlap: Values, crowds: Flags, outside: Flags) -> tuple[Flags, Flags]:
    """Which detections have a box, and which an ignored one (sizes, thresholds, d).

    By falling score each takes, of the boxes that are left, the one that it overlaps most (d, n), and one that counts
    before one `outside` (sizes, n); a crowd is never taken.
    """
    shape = (len(outside), len(THRESHOLDS))
    matched, ignored = np.zeros((2, *shape, len(overlap)), dtype=bool)
    free = np.ones((*shape, len(crowds)), dtype=bool)
    for at in np.flatnonzero((overlap >= LEAST_OVERLAPS[0]).any(axis=1)):
        possible = (free | crowds) & (overlap[at] >= LEAST_OVERLAPS[:, None])
        counting = possible & ~outside[:, None]
        chosen = np.where(counting.any(axis=2, keepdims=True), counting, possible)
        size, level = np.nonzero(chosen.any(axis=2))
        box = _last_best(np.where(chosen, overlap[at], -1.0))[size, level]
        matched[size, level, at], ignored[size, level, at] = True, outside[size, box]
        free[size, level, box] = False
    return matched, ignored


def _last_best(values: Values) -> Places:
    """The place of the largest value of the last axis, the last of equal ones."""
    return np.asarray(values.shape[-1] - 1 - np.argmax(values[..., ::-1], axis=-1))


def _sorted(cells: Sequence[_Cell], size: int) -> _Matched:
    """A class in one size, from its pictures."""
    order = np.argsort(-np.concatenate([cell.scores for cell in cells]), kind="stable")
    right, ignored = (
        np.concatenate([flags[size] for flags in each], axis=1)[:, order]
        for each in zip(*((cell.right, cell.ignored) for cell in cells), strict=True)
    )
    places = np.array([cell.picture for cell in cells], dtype=np.int64)
    pictures = places.repeat([len(cell.scores) for cell in cells])[order]
    return _Matched(pictures, right, ignored, places, np.array([cell.wanted[size] for cell in cells]))
