"""What ties items into one component, and advice that was tried."""

import numpy as np
import pandas as pd
import pytest

from mlim.pairs.ties import Given, explain_ties
from mlim.quality.uses import count_families

NOBODY = pd.DataFrame({"item_a": [], "item_b": []}, dtype=str)


def items_of(families=20, size=4):
    names = [f"f{number:02d}" for number in range(families) for _ in range(size)]
    ids = [f"i{number:03d}" for number in range(len(names))]
    return pd.DataFrame({"id": ids, "family": names, "image_sha256": [f"picture of {item}" for item in ids]})


def no_links(items, bits):
    return np.empty((0, 2), dtype=np.int64)


def test_a_placeholder_is_named_with_a_limit_that_unties_it():
    """Point 3: the picture, its items, one of them, and the value of the setting that changes the component."""
    items = items_of()
    items.loc[::5, "image_sha256"] = "no image"
    [tie] = explain_ties(Given(items, NOBODY, no_links, 2, False), 8)
    assert (tie.kind, tie.value, tie.items, tie.example) == ("picture", "no image", 16, "i000")
    assert (tie.setting, tie.largest) == ("validation.max_picture_uses=10", 4)
    assert tie.sentence().startswith("one picture is on 16 items (such as i000); with validation.max_picture_uses=10 ")


def test_a_family_that_is_no_product_is_named():
    """Point 3: the family's value and how many items it has."""
    items = items_of()
    items.loc[::5, "family"] = "Other"
    [tie] = explain_ties(Given(items, NOBODY, no_links, None, False), 8)
    assert (tie.kind, tie.value, tie.items) == ("family", "Other", 16)
    assert "values.missing" in tie.setting
    assert tie.largest == 4


def test_near_copies_are_advised_only_where_fewer_bits_help():
    """Point 3: of the settings, the mildest one that was tried and helps."""

    def links(items, bits):
        places = np.arange(0, len(items) - 4, 4) if bits > 1 else np.empty(0, dtype=np.int64)
        return np.column_stack([places, places + 4])

    [tie] = explain_ties(Given(items_of(), NOBODY, links, 3, False), 8)
    assert (tie.kind, tie.setting, tie.largest) == ("near copies of pictures", "pairs.near_duplicate_bits=1", 4)


def test_labelled_pairs_that_tie_are_named():
    pairs = pd.DataFrame({"item_a": ["i000"] * 19, "item_b": [f"i{4 * number:03d}" for number in range(1, 20)]})
    ties = explain_ties(Given(items_of(), pairs, no_links, None, True), 8)
    assert [(tie.kind, tie.largest) for tie in ties] == [("labelled pairs", 4)]


@pytest.mark.parametrize("none", [True, False])
def test_the_families_of_a_picture_are_counted(none):
    """Point 3: a picture on items of many families is a placeholder; variants of one product may share theirs."""
    pictures, families = np.array([7, 7, 7, 8, 8, 9]), np.array([1, 2, 2, 3, 3, 4])
    has_family = np.array([True, True, True, True, True, not none])
    assert count_families(pictures, families, has_family).tolist() == [2, 2, 2, 1, 1, int(not none)]
