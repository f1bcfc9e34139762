"""A first catalog.yaml for a table nobody has described yet: best guesses, each with the reason beside it."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml

from mlim.catalog.description import Download
from mlim.catalog.pictures.anywhere import is_address
from mlim.catalog.refusal import Refusal
from mlim.catalog.sources.readers import PARQUET, UTF8, WIDE_ENCODINGS, WIDE_MARKS, TableFile
from mlim.catalog.sources.records import USUAL_OTHER_ENCODING
from mlim.catalog.sources.table import fixed_parent, table_files
from mlim.errors import InputError

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 1 << 22
SAMPLE_IMAGES = 50
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_NAMES = ("image", "photo", "picture", "img")
ID_NAMES = ("id", "sku", "asin", "ean", "gtin", "key", "code")
FAMILY_NAMES = ("family", "parent", "group_id", "product_code", "product_id", "style", "model", "variation")
TITLE_NAMES = ("title", "name")
CODE_ENDINGS = ("id", "no", "code", "key", "number", "url", "path", "sku", "ean", "gtin")
MOST = 0.5  # a column is what more than this share of its values are
LARGEST_FAMILY_MEAN = 20.0  # larger groups are kinds of things (trousers), not one product's variations
SMALLEST_FAMILY_MEAN = 1.05
FEW_VALUES = 120  # columns with at most so many values can decide pairs,
LEAST_REPEATS = 3  # if a value stands in so many rows on average
HARDLY = 0.05  # a column that differs in fewer of the families is the same in a family
BALANCED = 0.5  # as many matches as mismatches
LONG_TEXT = 60.0  # mean characters from which a text is a description, which goes last
MOST_CANDIDATES = 5
AFTER_PATH = r"[?#].*"  # of an address
IMAGE_NOTES = {
    "folder": "the picture's path inside the images folder",
    "cells": "the pictures themselves, as bytes",
    "web": "the picture's address",
}
PLAIN_YAML = re.compile(r"[\w./-][\w ./-]*")


@dataclass(frozen=True)
class ColumnLook:
    """What a column looks like in the rows that were read; shares are of its values that are not empty."""

    name: str
    rows: int
    filled: int
    distinct: int
    mean_length: float
    images: float
    addresses: float
    numbers: float
    spaced: float

    @property
    def unique(self) -> bool:
        """Every row has a value of its own."""
        return self.distinct == self.rows

    def named(self, hints: Sequence[str]) -> bool:
        """The name is one of the hints, or has one as a part."""
        parts = _name_parts(self.name)
        return self.name.lower() in hints or any(hint in parts for hint in hints)

    @property
    def is_code(self) -> bool:
        """The name says that the values are keys, not words."""
        return _name_parts(self.name)[-1] in CODE_ENDINGS


@dataclass(frozen=True)
class _Sample:
    """The first rows of a table as texts, and what was found out by reading them."""

    frame: pd.DataFrame
    encoding: str
    bytes_columns: list[str]  # those of a Parquet file that hold pictures, it seems
    refused: int


@dataclass(frozen=True)
class _Place:
    """Where the pictures are: in cells, behind addresses, or in the folder; how many of the first were found there."""

    kind: Literal["cells", "web", "folder"]
    folder: Path
    found: int
    tried: int


@dataclass(frozen=True)
class _Guess:
    id: str
    image: str
    place: _Place
    family: str | None
    text: list[str]
    decided_by: list[tuple[str, float]]  # column, share of the families with several items in which it varies
    same: list[str]


def starter_yaml(table: Path, folder: Path | None = None) -> str:
    """A commented catalog.yaml for `table`, a file or a pattern, to be written into `folder` (default: beside it).

    `InputError` when the table cannot be read. Only the first rows are looked at.
    """
    near = fixed_parent(table)
    sample = _read_sample(table)
    return "\n".join(_render(_guess(sample, near), sample, table, folder or near)) + "\n"


def _read_sample(table: Path) -> _Sample:
    """The first rows of a table's first files that can be read; rows that cannot are left out."""
    encoding = _guess_encoding(table_files(table)[0])
    files = table_files(table, encoding)
    pictures = files[0].picture_columns()
    columns = [name for name in files[0].columns() if name not in pictures]
    records = list(islice(chain.from_iterable(file.records(columns) for file in files), SAMPLE_ROWS))
    rows = [record for record in records if not isinstance(record, Refusal)]
    if not rows:
        details = [record.detail for record in records if isinstance(record, Refusal)]
        raise InputError(f"{table}: {details[0] if details else 'has a header but no rows; it needs at least one'}")
    frame = pd.DataFrame(rows, columns=columns, dtype="str")
    return _Sample(frame, encoding, pictures, len(records) - len(rows))


def _guess_encoding(file: TableFile) -> str:
    """UTF-8 unless most of the first lines that tell (those with accents) are something else."""
    if file.kind == PARQUET:
        return UTF8
    start = file.start(SAMPLE_BYTES)
    if start.startswith(WIDE_MARKS):
        return WIDE_ENCODINGS[0]
    telling = [line for line in start.splitlines() if not line.isascii()]
    readable = sum(map(_is_utf8, telling))
    return UTF8 if readable >= MOST * len(telling) else USUAL_OTHER_ENCODING


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode(UTF8)
    except UnicodeDecodeError:
        return False
    return True


def look_at(name: str, values: pd.Series) -> ColumnLook:
    """The look of one column of texts."""
    filled = values[values.str.strip() != ""]
    addresses = filled.map(is_address).astype(bool)
    lower = filled.str.lower().where(~addresses, filled.str.lower().str.replace(AFTER_PATH, "", regex=True))

    def share(found: pd.Series) -> float:
        return float(found.mean()) if len(found) else 0.0

    return ColumnLook(
        name=name,
        rows=len(values),
        filled=len(filled),
        distinct=int(filled.nunique()),
        mean_length=float(filled.str.len().mean()) if len(filled) else 0.0,
        images=share(lower.str.endswith(IMAGE_SUFFIXES)),
        addresses=share(addresses),
        numbers=share(filled.str.fullmatch(r"[\d.,\s-]+")),
        spaced=share(filled.str.contains(" ", regex=False)),
    )


def _guess(sample: _Sample, near: Path) -> _Guess:
    frame = sample.frame
    looks = [look_at(str(name), frame[name]) for name in frame.columns]
    image, place = _guess_image(looks, sample, near)
    others = [look for look in looks if look.name != image]
    identity = _guess_id(others) or image
    family = _guess_family([look for look in others if look.name != identity])
    text = _guess_text([look for look in others if look.name not in (identity, family)])
    decided_by, same = _guess_pairs(frame, family, [look for look in looks if look.name in text])
    return _Guess(identity, image, place, family, text or [identity], decided_by, same)


def _guess_image(looks: Sequence[ColumnLook], sample: _Sample, near: Path) -> tuple[str, _Place]:
    """The column of the pictures, and where it leads."""
    if sample.bytes_columns:
        return _name_first(sample.bytes_columns), _Place("cells", near / "images", 0, 0)
    best = max(looks, key=lambda look: (look.images > MOST, look.named(IMAGE_NAMES), look.images, look.addresses))
    if best.addresses > MOST:
        return best.name, _Place("web", near / "images", 0, 0)
    names = sample.frame[best.name].head(SAMPLE_IMAGES).tolist()
    return best.name, _Place("folder", *_guess_folder(names, near), len(names))


def _name_first(columns: Sequence[str]) -> str:
    """The column that is named like pictures, else the first."""
    return next((name for name in columns if set(_name_parts(name)) & set(IMAGE_NAMES)), columns[0])


def _name_parts(name: str) -> list[str]:
    return re.split(r"[\W_]+", name.lower())


def _guess_id(looks: Sequence[ColumnLook]) -> str | None:
    unique = [look for look in looks if look.unique]
    best = max(unique, key=lambda look: (look.named(ID_NAMES), -look.spaced, -look.mean_length), default=None)
    return best.name if best else None


def _guess_family(looks: Sequence[ColumnLook]) -> str | None:
    def grouped(look: ColumnLook) -> bool:
        return look.distinct > 1 and SMALLEST_FAMILY_MEAN <= look.filled / look.distinct <= LARGEST_FAMILY_MEAN

    candidates = [look for look in looks if grouped(look) and look.mean_length < LONG_TEXT]
    best = max(
        candidates, key=lambda look: (look.named(FAMILY_NAMES), look.is_code, -look.spaced, look.distinct), default=None
    )
    return best.name if best else None


def _guess_text(looks: Sequence[ColumnLook]) -> list[str]:
    """Columns of words that differ between rows: titles first, long descriptions last."""
    words = [
        look
        for look in looks
        if look.distinct > 1 and not look.is_code and max(look.numbers, look.images, look.addresses) < MOST
    ]
    ordered = sorted(words, key=lambda look: (look.mean_length >= LONG_TEXT, not _is_title(look)))
    return [look.name for look in ordered]


def _is_title(look: ColumnLook) -> bool:
    return look.named(TITLE_NAMES) and look.distinct > FEW_VALUES


def _guess_folder(names: Sequence[str], near: Path) -> tuple[Path, int]:
    """The folder beside the table under which most of the first pictures lie, and how many do."""
    folders = [near, *sorted(entry for entry in near.iterdir() if entry.is_dir())]
    counts = [sum(bool(name) and _exists(folder / name) for name in names) for folder in folders]
    best = counts.index(max(counts))
    return (folders[best], counts[best]) if counts[best] else (near / "images", 0)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no usable path at all
        return False


def _guess_pairs(
    frame: pd.DataFrame, family: str | None, looks: Sequence[ColumnLook]
) -> tuple[list[tuple[str, float]], list[str]]:
    """Columns that vary inside families (could decide), and columns that hardly do (could be held the same)."""
    few = [look.name for look in looks if look.distinct <= min(FEW_VALUES, look.filled / LEAST_REPEATS)]
    if family is None or not few:
        return [], []
    groups = frame[frame[family] != ""].groupby(family)
    distinct = groups[few].nunique()[groups.size() > 1]
    varies = {name: float((distinct[name] > 1).mean()) for name in few}
    deciding = sorted((name for name in few if varies[name] > HARDLY), key=lambda name: abs(varies[name] - BALANCED))
    same = sorted((name for name in few if varies[name] <= HARDLY), key=lambda name: varies[name])
    return [(name, varies[name]) for name in deciding[:MOST_CANDIDATES]], same[:MOST_CANDIDATES]


def _render(guess: _Guess, sample: _Sample, table: Path, folder: Path) -> Iterator[str]:
    rows = len(sample.frame)
    yield f"# What is what in {table.name}. Guessed from its first {rows} rows: read every line, then `mlim ingest`."
    if sample.refused:
        yield f"# {sample.refused} more rows could not be read; `mlim ingest` sets such rows aside and says why."
    yield "# Paths are relative to this file; ${NAME} stands for an environment variable."
    yield "source: table"
    yield f"table: {_scalar(_relative(table, folder))}"
    if sample.encoding != UTF8:
        yield f"encoding: {sample.encoding}  # the table is not UTF-8; look whether its accents and umlauts come right"
    yield from _render_place(guess.place, folder)
    yield ""
    yield "columns:"
    yield f"  id: {_scalar(guess.id)}  # names an item: no two rows may have the same value"
    yield f"  image: {_scalar(guess.image)}  # {IMAGE_NOTES[guess.place.kind]}"
    yield from _render_family(guess.family)
    yield "  # What the model reads, in this order (a long text is cut at the end). Take out prices, codes, dates, and"
    yield "  # whatever gives the answer away. For values that mean little alone, write {column: NAME, label: WORD}."
    yield "  text:"
    yield from (f"    - {_scalar(name)}" for name in guess.text)
    yield ""
    yield from _render_pairs(guess)


def _render_place(place: _Place, folder: Path) -> Iterator[str]:
    if place.kind == "folder":
        yield f"images: {_scalar(_relative(place.folder, folder))}  # {_folder_note(place)}"
    elif place.kind == "cells":
        yield "# images: FOLDER  # only where a cell holds the path of a picture instead of its bytes"
    else:
        yield "# Pictures are downloaded once and kept in the work folder. What you do not write stands at its default:"
        yield "# download:"
        for name, field in Download.model_fields.items():
            yield f"#   {name}: {json.dumps(field.default)}  # {field.description}"


def _folder_note(place: _Place) -> str:
    if place.found:
        return f"{place.found} of the first {place.tried} pictures were found here"
    return "NOT FOUND beside the table: write the folder, or the .tar or .zip archives, that hold the pictures"


def _render_family(family: str | None) -> Iterator[str]:
    if family is None:
        yield "  # family: COLUMN  # no column looks like one; its value is shared by the variations of one product"
    else:
        yield f"  family: {_scalar(family)}  # rows with the same value are variations of one product (colours, sizes)"


def _render_pairs(guess: _Guess) -> Iterator[str]:
    yield "# Pairs to learn from: two items of one family match when `decided_by` is equal in both. Choose a column"
    yield "# that shows in the pictures and differs about half the time, and take it out of columns.text: the model"
    yield "# must not read the answer."
    yield "pairs:"
    yield "  max_family_size: 8  # larger families would make most of the pairs"
    yield from (
        f"  # decided_by: [{_scalar(name)}]  # differs inside {share:.0%} of the families with several items"
        for name, share in guess.decided_by
    )
    if not guess.decided_by:
        yield "  # decided_by: [COLUMN]  # no column with few values differs inside a family"
    same = ", ".join(map(_scalar, guess.same)) or "COLUMN"
    yield f"  # same: [{same}]  # compare only items that are equal in these"
    yield "  # labelled: pairs.csv  # or your own pairs instead"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _scalar(text: str) -> str:
    """A YAML scalar that reads back as exactly this text."""
    plain = PLAIN_YAML.fullmatch(text) and text == text.strip() and yaml.safe_load(text) == text
    return text if plain else json.dumps(text)
