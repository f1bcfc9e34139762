"""What is said of detected objects beyond where they are: their attributes, and how many there are."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.metrics.ap import Found, Truth, overlaps
from mlim.evaluation.metrics.measure import Figure, WeightedMeans

ATTRIBUTES: Final = Figure("attributes", "attributes right, of hits")
COUNT: Final = Figure("count", "number of objects right")
NEAR: Final = 0.5  # IoU of a hit, as of AP50
SURE: Final = 0.5  # score from which on a detection is counted: its class is likelier than all else


class Hit(NamedTuple):
    """A detection and the object that it is, by their places in a picture."""

    found: int
    truth: int


def hits_of(truth: Truth, found: Found) -> list[Hit]:
    """Detections by falling score, each with the free object of its class that it overlaps most, at least `NEAR`."""
    near = overlaps(found.boxes, truth.boxes, truth.crowds)
    near[(found.labels[:, None] != truth.labels) | truth.crowds] = 0.0
    hits = []
    for place in np.argsort(-found.scores, kind="stable").tolist():
        if near.shape[1] and near[place].max() >= NEAR:
            best = int(near[place].argmax())
            near[:, best] = 0.0
            hits.append(Hit(place, best))
    return hits


def attribute_accuracy(known: Sequence[NDArray[np.bool_]], right: Sequence[NDArray[np.bool_]]) -> WeightedMeans:
    """Of the attributes of hits, the share that is right; pictures hold flags (hits, kinds): known, and right."""
    counted = np.array([float(flags.sum()) for flags in known])
    agreeing = np.array([float((flags & told).sum()) for flags, told in zip(known, right, strict=True)])
    shares = np.divide(agreeing, counted, out=np.zeros_like(counted), where=counted > 0)
    return WeightedMeans(shares[None], counted[None])


def count_accuracy(truths: Sequence[Truth], found: Sequence[Found]) -> WeightedMeans:
    """The share of pictures with as many detections of at least `SURE` as objects; pictures of crowds do not count."""
    numbers = np.array(
        [[len(truth.labels), int((one.scores >= SURE).sum())] for truth, one in zip(truths, found, strict=True)]
    )
    counted = np.array([not truth.crowds.any() for truth in truths], dtype=np.float64)
    return WeightedMeans((numbers[:, 0] == numbers[:, 1]).astype(np.float64)[None], counted[None])
