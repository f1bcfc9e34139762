"""What a metric is: figures of one training that can be computed again when its examples get other weights.

Intervals, paired differences and pooled seeds of every task follow from that alone (mlim/evaluation/resampling.py).
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlim.evaluation.pr_auc import Weights

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Figure(NamedTuple):
    """A figure that a measure gives: its name in files, what people call it, and the largest value it can have."""

    name: str
    title: str
    most: float = 1.0


class Measure(Protocol):
    """What one training answered to all examples of a test set, ready to be judged under any weights of these."""

    def figures(self, weights: Weights) -> Values:
        """Figures (figures, samples) from weights (examples, samples) of at least 0.

        A figure is NaN where nothing that it is about has weight.
        """

    def about(self) -> Flags:
        """Which examples (figures, examples) each figure is about: it is a number where one of them has weight."""


class WeightedMeans:
    """Means of values (figures, n) over examples; `counted` (figures, n) says how much an example matters to each.

    It is 0 for an example that a figure is not about; None: every example matters alike.
    """

    def __init__(self, values: Values, counted: Values | None = None) -> None:
        self._counted = np.ones_like(values) if counted is None else counted
        self._values = np.where(self._counted > 0, values, 0.0) * self._counted

    def figures(self, weights: Weights) -> Values:
        """Weighted means (figures, samples); NaN where no example counts."""
        counted = self._counted @ weights
        means = np.full(counted.shape, np.nan)
        return np.asarray(np.divide(self._values @ weights, counted, out=means, where=counted > 0))

    def about(self) -> Flags:
        """The examples (figures, n) that count."""
        return np.asarray(self._counted > 0)


class Together:
    """The figures of several measures of the same examples, one below the other."""

    def __init__(self, *parts: Measure) -> None:
        self._parts = parts

    def figures(self, weights: Weights) -> Values:
        """Figures (figures, samples) of all parts."""
        return np.concatenate([part.figures(weights) for part in self._parts])

    def about(self) -> Flags:
        """What the figures (figures, examples) of all parts are about."""
        return np.concatenate([part.about() for part in self._parts])


class Chosen:
    """Some of the figures of a measure, by their places among them."""

    def __init__(self, measure: Measure, places: Sequence[int]) -> None:
        self._measure, self._places = measure, list(places)

    def figures(self, weights: Weights) -> Values:
        """Figures (chosen, samples)."""
        return self._measure.figures(weights)[self._places]

    def about(self) -> Flags:
        """What the chosen figures (chosen, examples) are about."""
        return self._measure.about()[self._places]


def plain_figures(measure: Measure, examples: int) -> Values:
    """Figures (figures,) where each of so many examples counts once."""
    return measure.figures(np.ones((examples, 1)))[:, 0]
