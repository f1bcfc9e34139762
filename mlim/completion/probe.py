"""A classifier over what a pre-trained network makes of a cell: the outputs behind its MLM head, and the head's answer.

The MLM head sees the output at the mask alone, and learns late to find the picture in it; the mean outputs of text and
picture say more. A linear classifier of frozen outputs is the usual way to read them (Alain and Bengio 2016).
"""

from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlim.completion.calibration import Calibration, log_loss
from mlim.completion.values import Candidates

STRENGTHS: Final = (0.01, 0.1, 1.0)  # C of the regression; validation cells choose
MOST_ITERATIONS: Final = 300
SMOOTHING: Final = 1e-3  # probability that is shared out by frequency, so that no value is impossible or certain

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Reading(NamedTuple):
    """What a network makes of cells: `scores` (cells, values) of its MLM head, and its outputs `states` (cells, F)."""

    scores: Floats
    states: Floats

    def of(self, chosen: NDArray[np.bool_]) -> "Reading":
        """That of some of the cells, `chosen` (cells,)."""
        return Reading(self.scores[chosen], self.states[chosen])


class Known(NamedTuple):
    """Cells with known values: what the network makes of them, and the places (cells,) of their values."""

    reading: Reading
    places: Places


class Completer(NamedTuple):
    """From a reading to calibrated probabilities of values."""

    head: Calibration  # of the MLM head's scores
    probe: Pipeline
    calibration: Calibration  # of the probe's log-probabilities
    strength: float
    shares: Floats

    @classmethod
    def fit(cls, training: Known, validation: Known, candidates: Candidates, seed: int) -> Self:
        """The classifier that training cells teach, chosen and calibrated on validation cells."""
        shares, ones = candidates.shares, (1,) * len(candidates.values)
        head = Calibration.fit(validation.reading.scores, validation.places, candidates.lengths, shares)

        def at(strength: float) -> tuple[float, Self]:
            probe = _probe(head, training, strength, seed)
            found = _log_probabilities(probe, _inputs(head, validation.reading), shares)
            calibration = Calibration.fit(found, validation.places, ones, shares)
            loss = log_loss(calibration.probabilities(found), validation.places)
            return loss, cls(head, probe, calibration, strength, shares)

        return min((at(strength) for strength in STRENGTHS), key=lambda one: one[0])[1]

    def probabilities(self, reading: Reading) -> Floats:
        """Calibrated probabilities (cells, values)."""
        found = _log_probabilities(self.probe, _inputs(self.head, reading), self.shares)
        return _softened(self.calibration.probabilities(found), self.shares)

    def by_head(self, reading: Reading) -> Floats:
        """Those of the MLM head alone (cells, values), calibrated likewise."""
        return self.head.probabilities(reading.scores)


def _probe(head: Calibration, training: Known, strength: float, seed: int) -> Pipeline:
    single = np.unique(training.places).size == 1  # a regression needs two values to tell apart
    regression = LogisticRegression(C=strength, max_iter=MOST_ITERATIONS, random_state=seed)
    probe = make_pipeline(StandardScaler(), DummyClassifier() if single else regression)
    with threadpool_limits(limits=1):
        return probe.fit(_inputs(head, training.reading), training.places)


def _inputs(head: Calibration, reading: Reading) -> Floats:
    return np.concatenate([np.log(head.probabilities(reading.scores) + SMOOTHING), reading.states], axis=1)


def _log_probabilities(probe: Pipeline, inputs: Floats, shares: Floats) -> Floats:
    found = np.zeros((len(inputs), len(shares)))
    found[:, probe.classes_] = probe.predict_proba(inputs)
    return np.asarray(np.log(_softened(found, shares)))


def _softened(probabilities: Floats, shares: Floats) -> Floats:
    return (1 - SMOOTHING) * probabilities + SMOOTHING * shares
