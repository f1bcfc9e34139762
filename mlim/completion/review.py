"""Cells whose written value does not fit text and picture, for a person to look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.completion.calibration import Usual, evidence
from mlim.completion.values import ABSENT, Candidates

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """A value contradicts its item when the evidence for it lies `sigmas` below the usual, or its probability `below`.

    `below` is None where the evidence decides; `shares` (values,) are those of the training items.
    """

    usual: Usual
    shares: Floats
    sigmas: float
    below: float | None = None

    @classmethod
    def learn(cls, probabilities: Floats, true: Places, shares: Floats, sigmas: float, below: float | None) -> Self:
        """The rule with the usual evidence for held-back values, which are at the places `true` (cells,)."""
        return cls(Usual.of(evidence(probabilities, true, shares)), shares, sigmas, below)

    def judge(self, probabilities: Floats, written: Places) -> pd.DataFrame:
        """For each cell: `probability` and `sigmas` of the value at its place, and whether it `contradicts`.

        None of them is known of a value that is no candidate.
        """
        known = np.flatnonzero(written != ABSENT)
        sigmas = self.usual.sigmas(evidence(probabilities[known], written[known], self.shares))
        chance = probabilities[known, written[known]]
        far = sigmas <= -self.sigmas if self.below is None else chance < self.below
        table = pd.DataFrame({"probability": chance, "sigmas": sigmas, "contradicts": far}, index=known)
        return table.astype({"contradicts": "boolean"}).reindex(range(len(written)))

    def power(self, probabilities: Floats, true: Places, seed: int) -> dict[str, float | None]:
        """Which share of held-back cells contradicts, as written and with a random other value written instead.

        The other value is drawn by its share of the training items; a share is None without cells.
        """
        known = true != ABSENT
        shares = np.tile(self.shares, (int(known.sum()), 1))
        shares[np.arange(len(shares)), true[known]] = 0
        generator = np.random.default_rng(seed)
        others = np.array([generator.choice(len(one), p=one / one.sum()) for one in shares], dtype=np.int64)
        return {
            "of_written": self._share(probabilities[known], true[known]),
            "of_planted": self._share(probabilities[known], others),
        }

    def _share(self, probabilities: Floats, written: Places) -> float | None:
        return float(self.judge(probabilities, written)["contradicts"].mean()) if len(written) else None


def likeliest(probabilities: Floats, candidates: Candidates, most: int) -> pd.DataFrame:
    """The `most` likeliest values of each cell: `value_1`, `probability_1`, `value_2` ..."""
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    names, columns = np.array(candidates.values, dtype=object), dict[str, Any]()
    for rank, places in enumerate(order.T, start=1):
        columns[f"value_{rank}"] = names[places]
        columns[f"probability_{rank}"] = probabilities[np.arange(len(places)), places]
    return pd.DataFrame(columns)


def contradictions(table: pd.DataFrame) -> Mapping[str, Any]:
    """How many cells contradict, by their split."""
    found = table.loc[table["contradicts"].fillna(False).astype(bool), "split"].value_counts()
    return {"cells": int(found.sum()), "by_split": {str(split): int(count) for split, count in found.items()}}
