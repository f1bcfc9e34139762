"""What ties too many items into one component, and which setting unties them: advice is computed before it is given."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mlim.pairs.components import Places, find_components

LIMITS = (500, 200, 100, 50, 20, 10, 5, 2, 1)  # of validation.max_picture_uses that are tried
HELPS = 0.9  # advice is given when the largest component shrinks to this share of it, or below

NearLinks = Callable[[pd.DataFrame, int], Places]  # links between near copies among items, for a number of bits


@dataclass(frozen=True)
class Tie:
    """What `items` items of the largest component share: a picture, a family, near copies or labelled pairs.

    `value` is the picture's SHA-256 or the family's name, `example` the id of one of the items. With `setting` the
    largest component has `largest` items.
    """

    kind: str
    value: str | None
    items: int
    example: str
    setting: str
    largest: int

    def sentence(self) -> str:
        """The tie and what unties it."""
        named = {
            "family": f"the family `{self.value}` has {self.items} items",
            "picture": f"one picture is on {self.items} items",
        }
        what = named.get(self.kind, f"{self.kind} tie {self.items} items")
        return f"{what} (such as {self.example}); with {self.setting} the largest component has {self.largest} items"

    def summary(self) -> dict[str, Any]:
        """The tie as JSON holds it."""
        return asdict(self)


class Given(NamedTuple):
    """What the components are made of; `near` finds near copies, `bits` is pairs.near_duplicate_bits (None: off)."""

    items: pd.DataFrame
    pairs: pd.DataFrame
    near: NearLinks
    bits: int | None
    labelled: bool

    def components(self) -> Places:
        """The component of each item."""
        links = None if self.bits is None else self.near(self.items, self.bits)
        return find_components(self.items, self.pairs, links)

    def largest(self) -> int:
        """The number of items of the largest component."""
        return int(np.bincount(self.components()).max(initial=0))


def explain_ties(given: Given, most: int) -> list[Tie]:
    """What ties the largest component, the most helpful advice first; empty when no single setting helps.

    `most` is how many items a component should hold at most: the mildest setting that reaches it is advised.
    """
    component = given.components()
    sizes = np.bincount(component)
    inside = given.items[component == sizes.argmax()]
    found = [tie for tie in _ties(given, inside, most) if tie.largest <= HELPS * sizes.max()]
    return sorted(found, key=lambda tie: tie.largest)


def _ties(given: Given, inside: pd.DataFrame, most: int) -> Iterator[Tie]:
    yield from _picture(given, inside, most)
    yield from _family(given, inside)
    yield from _near(given, inside, most)
    if given.labelled:
        untied = given._replace(pairs=given.pairs.iloc[:0])
        advice = "fewer `pairs.labelled` between different products"
        yield Tie("labelled pairs", None, len(inside), str(inside["id"].iloc[0]), advice, untied.largest())


def _picture(given: Given, inside: pd.DataFrame, most: int) -> Iterator[Tie]:
    uses = inside["image_sha256"].value_counts()
    value, count = str(uses.index[0]), int(uses.iloc[0])
    best: tuple[int, int] | None = None
    for limit in (limit for limit in LIMITS if limit < count):
        size = _without_pictures(given, limit).largest()
        if best is None or size < best[1]:
            best = (limit, size)
        if size <= most:
            break
    if best is not None:
        example = str(inside["id"][inside["image_sha256"] == value].iloc[0])
        yield Tie("picture", value, count, example, f"validation.max_picture_uses={best[0]}", best[1])


def _without_pictures(given: Given, limit: int) -> Given:
    uses = given.items.groupby("image_sha256")["id"].transform("size")
    items = given.items[uses <= limit].reset_index(drop=True)
    known = set(items["id"])
    pairs = given.pairs[given.pairs["item_a"].isin(known) & given.pairs["item_b"].isin(known)]
    return given._replace(items=items, pairs=pairs)


def _family(given: Given, inside: pd.DataFrame) -> Iterator[Tie]:
    uses = inside["family"].value_counts()
    if uses.empty:
        return
    value, count = str(uses.index[0]), int(uses.iloc[0])
    items = given.items.assign(family=given.items["family"].where(given.items["family"] != value))
    own = given.pairs["item_a"].isin(set(inside["id"][inside["family"] == value]))
    untied = given._replace(items=items, pairs=given.pairs if given.labelled else given.pairs[~own])
    example = str(inside["id"][inside["family"] == value].iloc[0])
    advice = f"`{value}` in values.missing of catalog.yaml (or another columns.family)"
    yield Tie("family", value, count, example, advice, untied.largest())


def _near(given: Given, inside: pd.DataFrame, most: int) -> Iterator[Tie]:
    if given.bits is None:
        return
    tried = [*range(given.bits - 1, -1, -1), None] if given.bits else [None]
    best: tuple[int | None, int] | None = None
    for bits in tried:
        size = given._replace(bits=bits).largest()
        if best is None or size < best[1]:
            best = (bits, size)
        if size <= most:
            break
    if best is not None:
        setting = f"pairs.near_duplicate_bits={'null' if best[0] is None else best[0]}"
        yield Tie("near copies of pictures", None, len(inside), str(inside["id"].iloc[0]), setting, best[1])
