"""An item in the parts that an explanation names: its text by column, and its picture."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mlim.catalog.item import ATTRIBUTE_SEPARATOR, LABEL_SEPARATOR, join_text
from mlim.catalog.texts import clean_text
from mlim.matching.items import TEXT, Item, Pixels, fields_of, read_items
from mlim.matching.settings import ServingSettings
from mlim.recipe.base import Modality
from mlim.stacking.items import Columns

_LABEL: Final = rf"(?:.*?{LABEL_SEPARATOR})??"  # the value alone first: what follows may repeat it with a label
_END: Final = rf"(?={ATTRIBUTE_SEPARATOR}|$)"


@dataclass(frozen=True)
class ItemParts:
    """What the model reads of an item: the stretches of its text by column, in order, and its picture (size, size, 3).

    `stretches` joined are the text; an empty one is a column without a value. `values` are the same without labels, as
    a person reads them. `columns` are the columns that the text is made from, also where its stretches cannot be told;
    nothing where they are not known.
    """

    stretches: Mapping[str, str]
    values: Mapping[str, str]
    picture: Pixels
    columns: Columns = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole text."""
        return join_text([(None, stretch) for stretch in self.stretches.values()])

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known of the columns that the text comes from."""
        return [*self.stretches] == [TEXT]

    def stretch(self, column: str) -> str:
        """What a column says; the whole text for `text` where it is no column of its own."""
        return self.text if column == TEXT and TEXT not in self.stretches else self.stretches.get(column, "")

    def value(self, column: str) -> str:
        """The same without its label."""
        return self.values.get(column, "") if column in self.stretches else self.stretch(column)


def parts_of(text: str, attributes: Mapping[str, str], picture: Pixels) -> ItemParts:
    """An item of a catalog; `attributes` are its text columns as the catalog wrote them, in the order of the text."""
    stretches = split_text(text, attributes)
    if TEXT in stretches and TEXT not in attributes:
        return ItemParts(stretches, stretches, picture, attributes)
    return ItemParts(stretches, {name: attributes[name] for name in stretches}, picture, attributes)


def split_text(text: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """The stretches of a text, with their labels, by the column that each comes from.

    One stretch called `text` where they cannot be told, because the text was not joined from these columns.
    """
    found, rest = dict[str, str](), text
    for name, value in attributes.items():
        stretch = _stretch(rest, value)
        if stretch is None:
            return {TEXT: text}
        found[name], rest = stretch, rest[len(stretch) :]
        rest = rest.removeprefix(ATTRIBUTE_SEPARATOR) if stretch else rest
    return {TEXT: text} if rest or not found else found


def _stretch(text: str, value: str) -> str | None:
    """The beginning of a text that says `value`, as it is or without markup; None where it says something else."""
    for words in dict.fromkeys((value, clean_text(value))):
        if not words:
            return ""
        if found := re.match(f"{_LABEL}{re.escape(words)}{_END}", text, re.DOTALL):
            return found[0]
    return None


def read_parts(
    items: Iterable[Item], where: Iterable[str], modality: Modality, settings: ServingSettings
) -> list[ItemParts]:
    """Items of the caller in parts; `where` names each in messages. `InputError` for one that cannot be read."""
    names = [*where]
    given = dict(zip(names, items, strict=True))
    read = read_items([*given.values()], names, modality, settings)
    return [
        parts_of(read.text(name), {} if modality == "image" else fields_of(item, name), read.image(name))
        for name, item in given.items()
    ]
