"""From sums of log-probabilities to calibrated probabilities of values, and the evidence for a written value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

EXPONENTS: Final = (0.0, 0.5, 1.0)  # of the length: the sum, between, the mean of the tokens' log-probabilities
LOG_TEMPERATURES: Final = (-4.0, 4.0)
ROUNDS: Final = 10  # of the scaling that makes values as probable as they are frequent
SMALLEST: Final = 1e-12  # a probability
NORMAL: Final = 1.4826  # median absolute deviations in a standard deviation of the normal distribution
LEAST_SPREAD: Final = 0.5  # of evidence: where a model knows nothing, nothing may contradict

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """Probabilities of values: softmax of (sum of log-probabilities) / length ** exponent / temperature + bias.

    The exponent is the length normalisation of Wu et al. 2016, the temperature that of Guo et al. 2017. The bias (one
    of each value) makes a value as probable on average as it is frequent (compare Zhao et al. 2021): a network prefers
    some words whatever it is shown. Without any evidence, temperature infinite, the shares remain.
    """

    exponent: float
    temperature: float
    lengths: tuple[int, ...]
    bias: tuple[float, ...]

    @classmethod
    def fit(cls, scores: Floats, true: Places, lengths: Sequence[int], shares: Floats) -> "Calibration":
        """What has the lowest log loss of the `true` places (cells,) in `scores` (cells, values).

        `lengths` and `shares` are those of the values (values,).
        """

        def at(exponent: float, log_temperature: float) -> Calibration:
            temperature = float(np.exp(log_temperature))
            plain = cls(exponent, temperature, tuple(lengths), (0.0,) * len(lengths))
            return replace(plain, bias=tuple(_balance(plain.logits(scores), shares)))

        def best(exponent: float) -> tuple[float, Calibration]:
            def loss(log_temperature: float) -> float:
                return log_loss(at(exponent, log_temperature).probabilities(scores), true)

            found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
            return float(found.fun), at(exponent, float(found.x))

        return min((best(exponent) for exponent in EXPONENTS), key=lambda one: one[0])[1]

    def probabilities(self, scores: Floats) -> Floats:
        """Probabilities (cells, values) from sums of log-probabilities (cells, values)."""
        return np.asarray(np.exp(log_softmax(self.logits(scores), axis=1)))

    def logits(self, scores: Floats) -> Floats:
        """What the softmax is taken of (cells, values)."""
        return np.asarray(scores / np.power(self.lengths, self.exponent) / self.temperature + self.bias)


def _balance(logits: Floats, shares: Floats) -> Floats:
    """The bias of each value (values,) with which the mean probabilities are the shares (Sinkhorn's scaling)."""
    bias = np.zeros(len(shares))
    for _ in range(ROUNDS):
        average = np.exp(log_softmax(logits + bias, axis=1)).mean(axis=0)
        bias += np.log(shares / np.maximum(average, SMALLEST))
    return bias


def log_loss(probabilities: Floats, true: Places) -> float:
    """The mean negative log-probability of the values at the places `true` (cells,)."""
    return float(-np.log(np.maximum(_at(probabilities, true), SMALLEST)).mean())


def evidence(probabilities: Floats, places: Places, shares: Floats) -> Floats:
    """What text and picture say for the values at `places` (cells,): their log-odds minus those of their share.

    Rare values are improbable everywhere; their `shares` (values,) of the training items take that out.
    """
    return _log_odds(_at(probabilities, places)) - _log_odds(shares[places])


def _log_odds(chances: Floats) -> Floats:
    inside = np.clip(chances, SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(inside) - np.log1p(-inside))


class Usual(NamedTuple):
    """Which evidence values have that were held back: its median and its robust standard deviation."""

    median: float
    spread: float

    @classmethod
    def of(cls, held_back: Floats) -> Self:
        """Of the evidence of held-back values (cells,)."""
        median = float(np.median(held_back))
        return cls(median, max(NORMAL * float(np.median(np.abs(held_back - median))), LEAST_SPREAD))

    def sigmas(self, found: Floats) -> Floats:
        """How many standard deviations evidence lies above the median; below it they are negative."""
        return (found - self.median) / self.spread


def _at(probabilities: Floats, places: Places) -> Floats:
    return np.asarray(probabilities[np.arange(len(places)), places])
