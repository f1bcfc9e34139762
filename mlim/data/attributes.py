"""By which values a catalog's pair rule decides, as classes that a training may ask for item by item."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.losses import UNKNOWN

FEWEST_ITEMS = 2  # of a class: a value that one item has teaches nothing about others
MOST_CLASSES = 256  # of an attribute, the most frequent ones: more are no kinds but names
EMPTY = 0  # in the work folder, the number of a missing value


class DecidingValues:
    """The classes (A,) of items in the A attributes that decide; UNKNOWN where a value is missing or rare."""

    def __init__(self, classes: Mapping[str, Sequence[int]], counts: Sequence[int]) -> None:
        """Prefer `learn`; `counts` says how many classes each attribute has."""
        self._classes, self.counts = classes, tuple(counts)
        self._unknown = [UNKNOWN] * len(self.counts)

    @classmethod
    def learn(cls, items: Sequence[str], numbers: NDArray[np.int64]) -> Self | None:
        """The classes of training items from the numbers (items, attributes) of their values.

        An attribute of fewer than two classes is left out; None when no attribute is left.
        """
        columns = [_classes(column) for column in numbers.T]
        with_classes = [column for column in columns if column.max(initial=0) > 0]
        if not with_classes:
            return None
        rows = np.column_stack(with_classes).tolist()
        return cls(dict(zip(items, rows, strict=True)), [int(column.max()) + 1 for column in with_classes])

    def classes_of(self, items: Sequence[str]) -> torch.Tensor:
        """The classes (items, A), long."""
        return torch.tensor([self._classes.get(item, self._unknown) for item in items], dtype=torch.long)


def _classes(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... for the frequent values of a column, in the order of their numbers; UNKNOWN elsewhere."""
    values, counts = np.unique(numbers[numbers != EMPTY], return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    kept = np.sort(values[frequent[counts[frequent] >= FEWEST_ITEMS]])
    found = np.full(len(numbers), UNKNOWN, dtype=np.int64)
    known = np.isin(numbers, kept)
    found[known] = np.searchsorted(kept, numbers[known])
    return found
