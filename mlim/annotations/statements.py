"""NLVR2 (Suhr et al., 2019): sentences about two pictures, one JSON object per line."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlim.annotations.json_stream import Entry, lines
from mlim.annotations.names import Names, file_names
from mlim.annotations.records import Statement

SIDES = ("left_url", "right_url")
PARTS = 4  # of an identifier: split, set, pair, sentence
WEB = "://"
LABELS = {"true": True, "false": False}


def read_nlvr2(path: Path) -> Iterator[Statement]:
    """Statements; the pictures are SPLIT-SET-PAIR-img0 and -img1, or else the files of `left_url` and `right_url`.

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
        left, right = (_names(entry, name, f"{split}-{number}-{pair}-img{side}") for side, name in enumerate(SIDES))
        text = entry.get("sentence", str)
        yield Statement(entry.place, left, right, identifier, text, label, f"{split}-{number}-{sentence}")


def _names(entry: Entry, side: str, own: str) -> Names:
    """The picture's own name, and those of the file that `side` names.

    The last part of an address of the web, such as `1000.jpg`, says nothing: any site may call a picture so.
    """
    file = entry.get(side, str, "").strip()
    if not file or WEB in file:
        return Names((own, file) if file else (own,))
    names = file_names(file)
    return replace(names, texts=(own, *names.texts))
