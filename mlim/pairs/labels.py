"""The names of splits and labels, and the table of pairs."""

from typing import Final

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS: Final = (TRAIN, VALIDATION, TEST)
MATCH, MISMATCH = 1, 0
LABELS: Final = {"1": MATCH, "0": MISMATCH}
LABEL_NAMES: Final = {MATCH: "matching", MISMATCH: "mismatching"}
LABELLED_COLUMNS: Final = ("item_a", "item_b", "label")
PAIR_COLUMNS: Final = ("item_a", "item_b", "label", "split", "component", "kind")
