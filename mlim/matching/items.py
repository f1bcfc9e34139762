"""Items of the caller as the model reads them: a text and a square picture, prepared as `mlim ingest` prepares them."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from numbers import Number
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mlim.catalog.item import join_text
from mlim.catalog.rejection import Rejection
from mlim.catalog.texts import clean_text
from mlim.catalog.values import tidy
from mlim.errors import InputError
from mlim.matching.decoding_room import DecodingRoom, decoded_pixels
from mlim.matching.settings import MOST_CHARACTERS, SHARD_FORMAT, ServingSettings
from mlim.pictures.base import EMPTY_IMAGE, MISSING_IMAGE
from mlim.pictures.decoding import ImageRules, prepare_picture, to_rgb, turned_upright
from mlim.received import UnreadableError, check_text
from mlim.recipe.base import Modality
from mlim.sources.text import as_text
from mlim.stacking.items import UNKNOWN, Columns

Pixels: TypeAlias = NDArray[np.uint8]
Item: TypeAlias = Mapping[str, Any]
"""One item: the key `image` (a path, the bytes of a file, or a PIL image) and either `text` or fields.

Fields are all other keys. Their values are joined in the order given, as `mlim ingest` joins the text columns of
catalog.yaml, with its labels, so give the same fields in the same order and leave out ids. A key that the chosen
modality does not read may be missing.
"""

IMAGE: Final = "image"
TEXT: Final = "text"
PNG: Final = "PNG"
ADDRESS: Final = re.compile(r"(https?|ftp|s3|gs):/", re.IGNORECASE)  # a path makes one slash of two

ITEM_FORM: Final = 'a mapping such as {"text": "Red shirt", "image": "a.jpg"}'

# Codes of what is wrong with an item, beside those of rejected pictures (mlim.pictures)
INVALID_ITEM: Final = "invalid-item"
INVALID_FIELD: Final = "invalid-field"
MISSING_TEXT: Final = "missing-text"
UNREADABLE_TEXT: Final = "unreadable-text"


class ItemError(InputError):
    """An item that cannot be read: one sentence, and a stable code for programs."""

    def __init__(self, sentence: str, code: str = INVALID_ITEM) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class DecodedPicture:
    """A picture of an item that was read already: (size, size, 3)."""

    pixels: Pixels


class ItemsInMemory:
    """Texts, pictures and columns by name: a `ColumnSource`."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._pictures: dict[str, Pixels] = {}
        self._columns: dict[str, Columns] = {}

    def add(self, name: str, text: str, picture: Pixels, columns: Columns = UNKNOWN) -> None:
        """Keep an item whose picture is (size, size, 3)."""
        self._texts[name], self._pictures[name], self._columns[name] = text, picture, columns

    def text(self, item: str) -> str:
        """The text of one item."""
        return self._texts[item]

    def image(self, item: str) -> Pixels:
        """The picture of one item (size, size, 3)."""
        return self._pictures[item]

    def columns(self, item: str) -> Columns:
        """The columns of one item; nothing where they are not known."""
        return self._columns[item]


def read_items(
    items: Sequence[Item], where: Sequence[str], modality: Modality, settings: ServingSettings
) -> ItemsInMemory:
    """The items under the names in `where`, which messages use too; `ItemError` for the first that cannot be read."""
    found = ItemsInMemory()
    for item, name in zip(items, where, strict=True):
        _check_item(item, name)
        text = "" if modality == "image" else _words_of(item, name, settings)
        picture = blank(settings) if modality == "text" else _picture_of(item, name, settings.image_rules)
        found.add(name, text, picture, {} if TEXT in item else fields_of(item, name))
    return found


def read_text(text: str, where: str, settings: ServingSettings) -> str:
    """A text as training read it; `ItemError` for one that is too long or that UTF-8 cannot hold."""
    try:
        check_text(text, settings.max_text_characters)
    except UnreadableError as problem:
        raise ItemError(f"{where} {problem}", UNREADABLE_TEXT) from None
    return clean_text(text) if settings.clean_texts else text


def read_picture(data: bytes, where: str, rules: ImageRules, room: DecodingRoom | None = None) -> Pixels:
    """The picture (size, size, 3) in the bytes of a file, under the same limits as the catalog's; else `ItemError`.

    One that has the model's size already (an item's, out of the shards) is taken as it is: encoding it once more would
    make these scores differ from the evaluated ones. It is decoded when there is `room`, None: at once.
    """
    if not data:
        raise ItemError(f"{where} holds 0 bytes ({EMPTY_IMAGE})", EMPTY_IMAGE)
    with nullcontext() if room is None else room.taken(decoded_pixels(data, rules)):
        picture = prepare_picture(data, where, rules)
    if isinstance(picture, Rejection):
        raise ItemError(f"{picture.detail} ({picture.reason})", picture.reason)
    fits = (picture.width, picture.height) == (rules.size, rules.size)
    with Image.open(io.BytesIO(data if fits else picture.jpeg), formats=[*rules.formats, SHARD_FORMAT]) as square:
        return np.asarray(to_rgb(turned_upright(square)))


def blank(settings: ServingSettings) -> Pixels:
    """The picture of an item whose picture is not looked at."""
    return np.zeros((settings.image_size, settings.image_size, 3), dtype=np.uint8)


def fields_of(item: Item, where: str) -> dict[str, str]:
    """The fields of an item as they are read, in the order given; `ItemError` for one that is no value of a table."""
    named = {name: value for name, value in item.items() if name not in (TEXT, IMAGE)}
    for name in named:
        _check_name(name, where)
    return {name: _field(value, f"{where}: the field `{name}`") for name, value in named.items()}


def _check_item(item: Any, where: str) -> None:
    """`ItemError` unless it is a mapping."""
    if not isinstance(item, Mapping):
        raise ItemError(f"{where} is no item but {type(item).__name__}; give {ITEM_FORM}")


def _words_of(item: Item, where: str, settings: ServingSettings) -> str:
    """The text of an item as training read it; `ItemError` where it says nothing: two such texts would be equal."""
    text = read_text(_text_of(item, where, settings), f"{where}: the text", settings)
    if not tidy(text):
        given = "`text`" if TEXT in item else "every field"
        raise ItemError(f'{where} has no text: {given} is empty; give words, or choose modality="image"', MISSING_TEXT)
    return text


def _text_of(item: Item, where: str, settings: ServingSettings) -> str:
    names = [name for name in item if name not in (TEXT, IMAGE)]
    if TEXT not in item:
        if not names:
            raise ItemError(f'{where} has no text: give `text` or fields, or choose modality="image"', MISSING_TEXT)
        return join_text([(settings.field_labels.get(name), value) for name, value in fields_of(item, where).items()])
    if names:
        raise ItemError(f"{where} has `text` and also {', '.join(map(repr, names))}: give one text, or fields alone")
    if not isinstance(item[TEXT], str):
        raise ItemError(f"{where}: `text` is not a string but {type(item[TEXT]).__name__}")
    return str(item[TEXT])


def _check_name(name: Any, where: str) -> None:
    """`ItemError` for the name of a field that is too long or that UTF-8 cannot hold, as no message could quote it."""
    try:
        check_text(str(name), MOST_CHARACTERS)
    except UnreadableError as problem:
        raise ItemError(f"{where}: the name of a field {problem}", INVALID_FIELD) from None


def _field(value: Any, where: str) -> str:
    """A field on one line, spelled as ingest spells a cell; nothing where a table has no value."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    if not isinstance(value, str | Number):
        raise ItemError(f"{where} is neither a string nor a number but {type(value).__name__}", INVALID_FIELD)
    # a string stays as it is: what UTF-8 cannot hold is refused later, where ingest would replace it
    return " ".join((value if isinstance(value, str) else as_text(value)).split())


def _picture_of(item: Item, where: str, rules: ImageRules) -> Pixels:
    image, where = item.get(IMAGE), f"{where}: the image"
    match image:
        case DecodedPicture():
            return image.pixels
        case bytes():
            return read_picture(image, where, rules)
        case str() | PathLike() if ADDRESS.match(str(image)):
            raise ItemError(f"{where} {image} is an address, which is not fetched; give the path or bytes of a file")
        case str() | PathLike():
            return read_picture(_read(Path(image), where), where, rules)
        case Image.Image():
            return read_picture(_as_png(image), where, replace(rules, formats=(PNG,)))
        case None:
            raise ItemError(f'{where} is missing: give `image`, or choose modality="text"', MISSING_IMAGE)
        case _:
            found = type(image).__name__
            raise ItemError(f"{where} is neither a path, the bytes of a file nor a PIL image but {found}")


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ItemError(f"{where} {path} cannot be read ({error.strerror})", MISSING_IMAGE) from None


def _as_png(image: Image.Image) -> bytes:
    target = io.BytesIO()
    to_rgb(turned_upright(image)).save(target, PNG)  # lossless
    return target.getvalue()
