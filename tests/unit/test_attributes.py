"""The classes that a training asks for: the values by which a catalog's rule decides."""

import numpy as np

from mlim.data.attributes import MOST_CLASSES, DecidingValues
from mlim.losses import UNKNOWN

ITEMS = ["a", "b", "c", "d", "e"]


def test_frequent_values_become_classes_and_others_are_unknown():
    """Missing values (0), values of one item, and items that are not trained on tell nothing."""
    values = DecidingValues.learn(ITEMS, np.array([[7, 3], [7, 3], [2, 0], [2, 5], [9, 5]]))
    assert values is not None
    assert values.counts == (2, 2)
    assert values.classes_of([*ITEMS, "z"]).tolist() == [
        [1, 0],
        [1, 0],
        [0, UNKNOWN],
        [0, 1],
        [UNKNOWN, 1],
        [UNKNOWN, UNKNOWN],
    ]


def test_an_attribute_that_does_not_vary_is_left_out():
    values = DecidingValues.learn(ITEMS, np.array([[1, 1], [1, 1], [1, 2], [1, 2], [1, 2]]))
    assert values is not None
    assert values.counts == (2,)
    assert DecidingValues.learn(ITEMS, np.ones((5, 1), dtype=np.int64)) is None
    assert DecidingValues.learn(ITEMS, np.empty((5, 0), dtype=np.int64)) is None  # pairs of the user's own


def test_names_are_no_kinds():
    numbers = np.repeat(np.arange(1, 1000), 2)
    items = [str(number) for number in range(len(numbers))]
    values = DecidingValues.learn(items, numbers[:, None])
    assert values is not None
    assert values.counts == (MOST_CLASSES,)
