"""Rows of a request as the model reads them; a row that cannot be read becomes an error in its place."""

import time
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from mlim.catalog.rejection import RejectedError
from mlim.http_api.pictures import Pictures
from mlim.http_api.schema import ItemIn, PairIn, RowError
from mlim.matching.explain import Shown
from mlim.matching.items import IMAGE, TEXT, Item, ItemError, read_items
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


def read_rows(
    rows: Sequence[Row | RowError], modality: Modality, settings: ServingSettings, pictures: Pictures, until: Deadline
) -> list[ReadRow | RowError]:
    """Texts and pictures of every row, or why it cannot be read; `TimeoutError` when the time is over."""
    return [_read_row(row, modality, settings, pictures, until) for row in rows]


def given_item(item: ItemIn, where: str, modality: Modality, pictures: Pictures) -> Item:
    """The item in the form that a Python program gives it; `ItemError` when its picture cannot be had."""
    given = dict(item.fields or {}) if item.text is None else {TEXT: item.text}
    if modality == "text":
        return given
    try:
        data = pictures.read(item)
    except RejectedError as rejected:
        why = rejected.rejection
        raise ItemError(f"{where}: {why.detail} ({why.reason})", why.reason) from None
    return given if data is None else {**given, IMAGE: data}


def _read_row(
    row: Row | RowError, modality: Modality, settings: ServingSettings, pictures: Pictures, until: Deadline
) -> ReadRow | RowError:
    if isinstance(row, RowError):
        return row
    until.check()
    try:
        return tuple(_read(item, where, modality, settings, pictures) for where, item in row)
    except ItemError as error:
        return RowError(error.code, str(error))


def _read(item: ItemIn, where: str, modality: Modality, settings: ServingSettings, pictures: Pictures) -> Shown:
    found = read_items([given_item(item, where, modality, pictures)], [where], modality, settings)
    return Shown(found.text(where), found.image(where), found.columns(where))
