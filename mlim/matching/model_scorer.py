"""A model as what explanations ask: scores of pairs of items that exist in memory alone."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from mlim.data.collate import Pair
from mlim.matching.explain import Floats, Shown
from mlim.matching.items import ItemsInMemory, Pixels
from mlim.matching.settings import ServingSettings
from mlim.recipe.base import Modality
from mlim.stacking.items import ColumnSource
from mlim.stacking.pictures import Measure, Picture


class ScoresItems(Protocol):
    """A matching model."""

    settings: ServingSettings

    @property
    def measure(self) -> Measure:
        """What measures a picture as a stack reads it."""

    def score_source(self, source: ColumnSource, pairs: Sequence[Pair], modality: Modality, measure: Measure) -> Floats:
        """The score (n,) of one batch of pairs of the items in `source`; `measure` is for a stack's pictures."""


class ModelScorer:
    """The scores by which a model decides, a batch at a time; what a stack measures of a picture is remembered.

    `check` is called before every batch and ends the work by raising.
    """

    def __init__(self, model: ScoresItems, modality: Modality, check: Callable[[], None] | None = None) -> None:
        self._model, self._modality, self._check = model, modality, check
        self._measured: dict[bytes, Picture] = {}

    def __call__(self, pairs: Sequence[tuple[Shown, Shown]]) -> Floats:
        """The score (n,) of every pair."""
        size = self._model.settings.batch_size
        parts = [self._batch(pairs[start : start + size]) for start in range(0, len(pairs), size)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _batch(self, pairs: Sequence[tuple[Shown, Shown]]) -> Floats:
        if self._check is not None:
            self._check()
        source, names = ItemsInMemory(), [Pair(f"a{number}", f"b{number}", 0) for number in range(len(pairs))]
        for name, (first, second) in zip(names, pairs, strict=True):
            source.add(name.item_a, *first)
            source.add(name.item_b, *second)
        return self._model.score_source(source, names, self._modality, self._measure)

    def _measure(self, picture: Pixels) -> Picture:
        key = hashlib.sha256(picture.tobytes()).digest()
        if key not in self._measured:
            self._measured[key] = self._model.measure(picture)
        return self._measured[key]
