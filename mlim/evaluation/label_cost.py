"""How many labels a way of choosing pairs needs for what random pairs reach with all of theirs."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

DRAWS: Final = 2000  # of seeds

Curves = NDArray[np.float64]  # (seeds, rounds): PR-AUC


def label_cost(labels: Sequence[int], curves: Curves, of_random: Curves, confidence: float, seed: int) -> Any:
    """The share of the random labels after which the mean PR-AUC of a way first reaches that of all random labels.

    Between rounds it is interpolated. Seeds are drawn with replacement for the interval. A limit, or the value, is None
    where the way does not get that far with as many labels.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(curves), size=(DRAWS, len(curves)))
    costs = np.array([_cost(labels, curves[rows], of_random[rows]) for rows in drawn])
    tail = 100 * (1 - confidence) / 2
    low, high = (float(np.percentile(costs, at, method="nearest")) for at in (tail, 100 - tail))
    found = {"value": _cost(labels, curves, of_random), "low": low, "high": high}
    return {name: share if np.isfinite(share) else None for name, share in found.items()}


def _cost(labels: Sequence[int], curves: Curves, of_random: Curves) -> float:
    mean, wanted = curves.mean(axis=0), of_random.mean(axis=0)[-1]
    reached = np.flatnonzero(mean >= wanted)
    if not len(reached):
        return np.inf
    at = int(reached[0])
    if at == 0:
        return labels[0] / labels[-1]
    part = (wanted - mean[at - 1]) / (mean[at] - mean[at - 1])
    return float((labels[at - 1] + part * (labels[at] - labels[at - 1])) / labels[-1])
