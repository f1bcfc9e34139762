"""Rows of a request as the model reads them; a row that cannot be read becomes an error in its place."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mlim.catalog.rejection import RejectedError
from mlim.http_api.pictures import Pictures
from mlim.http_api.schema import ItemIn, PairIn, RowError
from mlim.matching.decoding_room import DecodingRoom
from mlim.matching.explain import Shown
from mlim.matching.items import IMAGE, TEXT, DecodedPicture, Item, ItemError, Pixels, read_items, read_picture
from mlim.matching.settings import ServingSettings
from mlim.recipe.base import Modality

Row: TypeAlias = tuple[tuple[str, ItemIn], ...]
"""The items of one row, each with what messages call it."""
ReadRow: TypeAlias = tuple[Shown, ...]


class Deadline:
    """When a request is given up: work on it ends then too."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def check(self) -> None:
        """`TimeoutError` when its time is over."""
        if time.monotonic() > self._end:
            raise TimeoutError


@dataclass(frozen=True)
class Reading:
    """How the items of one request are read: `pictures` gives bytes, which are decoded when there is `room`.

    With `keep`, what lies at a path is read once: `known` has the pixels (size, size, 3).
    """

    modality: Modality
    settings: ServingSettings
    pictures: Pictures
    room: DecodingRoom
    until: Deadline
    keep: bool = False
    known: dict[str, Pixels] = field(default_factory=dict)


def as_row(row: PairIn | ItemIn | RowError) -> Row | RowError:
    """The items of a pair, or the one item, with names."""
    match row:
        case RowError():
            return row
        case PairIn():
            return ("item a", row.a), ("item b", row.b)
        case ItemIn():
            return (("the item", row),)


def items_in(rows: Iterable[Row | RowError]) -> list[ItemIn]:
    """All items of the rows."""
    return [item for row in rows if not isinstance(row, RowError) for _, item in row]


def read_rows(rows: Sequence[Row | RowError], how: Reading) -> list[ReadRow | RowError]:
    """Texts and pictures of every row, or why it cannot be read; `TimeoutError` when the time is over."""
    return [_read_row(row, how) for row in rows]


def given_item(item: ItemIn, where: str, how: Reading) -> Item:
    """The item in the form that a Python program gives it, its picture decoded: of its bytes nothing is kept.

    `ItemError` when its picture cannot be had; `TimeoutError` when the time is over.
    """
    how.until.check()
    given = dict(item.fields or {}) if item.text is None else {TEXT: item.text}
    pixels = None if how.modality == "text" else _pixels_of(item, where, how)
    return given if pixels is None else {**given, IMAGE: DecodedPicture(pixels)}


def _pixels_of(item: ItemIn, where: str, how: Reading) -> Pixels | None:
    """The decoded picture of an item, None where it has none."""
    if item.path is not None and item.path in how.known:
        return how.known[item.path]
    try:
        data = how.pictures.read(item)
    except RejectedError as rejected:
        why = rejected.rejection
        raise ItemError(f"{where}: {why.detail} ({why.reason})", why.reason) from None
    if data is None:
        return None
    pixels = read_picture(data, f"{where}: the image", how.settings.image_rules, how.room)
    if item.path is not None and how.keep:
        how.known[item.path] = pixels
    return pixels


def _read_row(row: Row | RowError, how: Reading) -> ReadRow | RowError:
    if isinstance(row, RowError):
        return row
    try:
        return tuple(_read(item, where, how) for where, item in row)
    except ItemError as error:
        return RowError(error.code, str(error))


def _read(item: ItemIn, where: str, how: Reading) -> Shown:
    found = read_items([given_item(item, where, how)], [where], how.modality, how.settings)
    return Shown(found.text(where), found.image(where), found.columns(where))
