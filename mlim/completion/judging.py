"""How often held-back values are restored, with intervals by family."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlim.completion.calibration import log_loss
from mlim.completion.compared import MODEL
from mlim.completion.values import ABSENT
from mlim.evaluation.probes import ItemLosses
from mlim.evaluation.resampling import Effect, Resampled, draw_units, effect_of
from mlim.evaluation.threshold import calibration_error

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Judge:
    """Figures of held-back cells with the places of their true values; what is no candidate is never right."""

    def __init__(self, true: Places, families: Places, samples: int, confidence: float, seed: int) -> None:
        """`true` and `families` (cells,): cells of one family are drawn together, `samples` times."""
        self._true, self._known, self._confidence = true, true != ABSENT, confidence
        known, numbered = np.unique(families, return_inverse=True)
        self._families = known.size
        self._draws = draw_units(known.size, samples, np.random.default_rng(seed))[numbered].T

    def figures(self, found: Mapping[str, Floats], most: int) -> dict[str, Any]:
        """Exact match, the true value among the `most` likeliest, log loss and calibration error.

        `found` has probabilities (cells, values) by the name of what gave them; `MODEL` is compared with the others.
        """
        exact = {name: self._resampled(self._hits(values, 1)) for name, values in found.items()}
        return {
            "cells": len(self._true),
            "families": int(self._families),
            "never_seen": int((~self._known).sum()),
            "exact_match": {name: self._effect(one).interval._asdict() for name, one in exact.items()},
            "model_minus": {
                name: self._effect(exact[MODEL].minus(one)).difference._asdict()
                for name, one in exact.items()
                if name != MODEL
            },
            f"among_{most}": {
                name: self._effect(self._resampled(self._hits(values, most))).interval._asdict()
                for name, values in found.items()
            },
            "log_loss": {name: self._log_loss(values) for name, values in found.items()},
            "calibration_error": calibration_error(found[MODEL].max(axis=1), self._hits(found[MODEL], 1) > 0),
        }

    def _hits(self, probabilities: Floats, most: int) -> Floats:
        """1 for each cell (cells,) whose true value is among the `most` likeliest, else 0."""
        likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
        return np.asarray((likeliest == self._true[:, None]).any(axis=1), dtype=np.float64)

    def _log_loss(self, probabilities: Floats) -> float | None:
        return log_loss(probabilities[self._known], self._true[self._known]) if self._known.any() else None

    def _resampled(self, hits: Floats) -> Resampled:
        return ItemLosses(hits[None], np.ones((1, len(hits)))).resampled(self._draws)

    def _effect(self, resampled: Resampled) -> Effect:
        return effect_of(resampled, self._families, self._confidence)
