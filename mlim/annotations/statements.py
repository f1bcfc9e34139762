"""NLVR2 (Suhr et al., 2019): sentences about two pictures, one JSON object per line."""

from collections.abc import Iterator
from pathlib import Path

from mlim.annotations.coco import names_of
from mlim.annotations.json_stream import lines
from mlim.annotations.records import Statement

SIDES = ("left_url", "right_url")
PARTS = 4  # of an identifier: split, set, pair, sentence
LABELS = {"true": True, "false": False}


def read_nlvr2(path: Path) -> Iterator[Statement]:
    """Statements; the pictures are SPLIT-SET-PAIR-img0 and -img1, or else what `left_url` and `right_url` name.

    The pairs of one set share the sentence; consistency counts sentences that are right on all of them.
    """
    for entry in lines(path):
        identifier = entry.get("identifier", str)
        parts = identifier.rsplit("-", PARTS - 1)
        if len(parts) != PARTS:
            raise entry.refuse(f"`identifier` must be SPLIT-SET-PAIR-SENTENCE, it is {identifier!r}")
        split, number, pair, sentence = parts
        label = LABELS.get(entry.word("label").lower())
        if label is None:
            raise entry.refuse(f"`label` must be True or False, it is {entry.word('label')!r}")
        if further := [name for name in entry.value if name.endswith("_url") and name not in SIDES]:
            raise entry.refuse(f"`{further[0]}`: a statement is about two pictures, {' and '.join(SIDES)}")
        left, right = (
            (f"{split}-{number}-{pair}-img{side}", *names_of(entry.get(name, str, " ").strip()))
            for side, name in enumerate(SIDES)
        )
        text = entry.get("sentence", str)
        yield Statement(entry.place, left, right, identifier, text, label, f"{split}-{number}-{sentence}")
