"""Fewer training pairs: which ones, and what a training may then learn from."""

from itertools import pairwise

import numpy as np
import pytest

from mlim.pairs.fewer import first_pairs
from mlim.steps.trained import TRAIN, open_training_data, read_deciding, with_pairs

COMPONENTS = np.repeat(np.arange(60), 5)
LABELS = (np.arange(300) % 5 < 2).astype(np.int64)


def test_the_fewer_pairs_are_among_the_more_and_families_stay_together():
    chosen = [first_pairs(COMPONENTS, LABELS, most).tolist() for most in (2, 50, 120, 300, 999)]
    for fewer, more in pairwise(chosen):
        assert set(fewer) <= set(more)
    assert [len(one) for one in chosen] == [2, 50, 120, 300, 300]
    assert chosen[-1] == list(range(300))
    _, sizes = np.unique(COMPONENTS[chosen[1]], return_counts=True)
    assert sizes.tolist() == [5] * 10
    assert not set(COMPONENTS[chosen[1]].tolist()) <= set(range(20))  # a sample, not the beginning of the file


@pytest.mark.parametrize("rare", [0, 299])
def test_both_labels_are_there_however_rare_one_is(rare):
    labels = (np.arange(300) == rare).astype(np.int64)
    assert {*labels[first_pairs(COMPONENTS, labels, 2)]} == {0, 1}


def test_no_item_of_another_pair_tells_its_values(tiny_recipe, tiny_workspace):
    """The loss on attributes is a label too: of the items in the pairs that are left, and of no other."""
    data = open_training_data(tiny_recipe, tiny_workspace)
    fewer = with_pairs(data, 12, tiny_workspace)
    assert len(fewer.pairs[TRAIN]) == 12
    assert fewer.pairs["test"] == data.pairs["test"]
    left = {item for pair in fewer.pairs[TRAIN] for item in (pair.item_a, pair.item_b)}
    others = sorted({item for pair in data.pairs[TRAIN] for item in (pair.item_a, pair.item_b)} - left)
    known, all_known = read_deciding(fewer, tiny_workspace), read_deciding(data, tiny_workspace)
    assert others
    assert (all_known.classes_of(others) >= 0).all()
    assert (known.classes_of(others) < 0).all()
    assert (known.classes_of(sorted(left)) >= 0).any()
