"""What a text and a picture find first."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mlim.report.examples.pictures import Pictures, some
from mlim.report.kit.blocks import Block, Card, Fact, Gallery
from mlim.report.kit.words import clip

QUERIES = 2  # that find their own first, and as many that do not
CHARACTERS = 160  # of a text


def retrieved_blocks(label: str, scores: pd.DataFrame, pictures: Pictures) -> Iterator[Block]:
    """For a few texts the pictures that stand first, for a few pictures the texts; earlier scores do not tell."""
    if "images" not in scores:
        return
    rows = scores.sort_values("id", ignore_index=True)
    for row in _queries(rows, "image_rank"):
        text, own = clip(pictures.text(row["id"]), CHARACTERS), _place(row["image_rank"])
        cards = [_card(pictures, place, item, row["id"]) for place, item in enumerate(row["images"], 1)]
        yield Gallery(f"{label}, pictures of “{text}” (its own: {own})", tuple(cards))
    cards = [
        pictures.card(row["id"], f"its own text: {_place(row['text_rank'])}", _texts(pictures, row["texts"], row["id"]))
        for row in _queries(rows, "text_rank")
    ]
    if cards:
        yield Gallery(f"{label}, texts of a picture", tuple(cards))


def _queries(rows: pd.DataFrame, rank: str) -> Iterator[dict[Any, Any]]:
    """A few that find their own first, and a few that do not."""
    for first in (True, False):
        yield from some(rows[(rows[rank] == 0) == first], QUERIES).to_dict("records")


def _place(rank: int) -> str:
    return f"place {rank + 1}"


def _card(pictures: Pictures, place: int, item: str, query: str) -> Card:
    own = (Fact("its own", "picture", differs=True),) if item == query else ()
    return pictures.card(item, f"{place}", own)


def _texts(pictures: Pictures, items: list[str], query: str) -> tuple[Fact, ...]:
    """The texts that stand first; marked is the picture's own."""
    texts = enumerate((clip(pictures.text(item), CHARACTERS // 2) for item in items), 1)
    return tuple(Fact(f"{place}", text, item == query) for (place, text), item in zip(texts, items, strict=True))
