"""Which test pairs two versions are compared on: those with nothing that one of them has learned from."""

import pandas as pd

from mlim.steps.compare import _unseen
from mlim.steps.seen import learned_from

LEARNED = pd.DataFrame(
    {
        "id": ["a1", "a2", "b1", "c1"],
        "split": ["train", "validation", "test", "train"],
        "family": ["shirt", "shirt", "shoe", None],
        "image_sha256": ["00", "01", "02", "03"],
    }
)
# After a renaming: the shirt and the picture 03 under other ids, the shoe that only judged, and something new
INDEX = pd.DataFrame(
    {
        "id": ["x1", "x2", "x3", "x4", "x5", "a1"],
        "family": ["shirt", None, "shoe", "hat", None, "hat"],
        "image_sha256": ["10", "03", "02", "13", None, "14"],
    }
)
PAIRS = pd.DataFrame({"item_a": ["x1", "x2", "x3", "x4", "a1"], "item_b": ["x4", "x5", "x4", "x5", "x5"]})


def test_an_item_under_another_id_is_known_by_its_family_and_its_picture():
    fresh = _unseen(PAIRS, INDEX, [learned_from(LEARNED)])
    assert fresh.to_numpy().tolist() == [["x3", "x4"], ["x4", "x5"]]


def test_a_record_of_ids_alone_is_compared_by_id_and_no_record_leaves_all():
    fresh = _unseen(PAIRS, INDEX, [learned_from(LEARNED[["id", "split"]])])
    assert fresh["item_a"].tolist() == ["x1", "x2", "x3", "x4"]
    assert len(_unseen(PAIRS, INDEX, [])) == len(PAIRS)
