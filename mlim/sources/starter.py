"""A first catalog.yaml for a table without a description: best guesses, each with the reason beside it."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from mlim.catalog.description import Download, read_delimiter
from mlim.catalog.rejection import Rejection
from mlim.catalog.values import DEFAULT, WordCounts, comparable, count_words, tidy, warn_of_words
from mlim.errors import InputError
from mlim.pictures.folder import FolderPictures
from mlim.pictures.listed import listed_pictures
from mlim.pictures.router import is_address
from mlim.sources.dialect import CANDIDATES, LINES_COMPARED, Dialect
from mlim.sources.lines import UTF8, WIDE_ENCODINGS, WIDE_MARKS
from mlim.sources.readers import DELIMITERS, PARQUET, TableFile
from mlim.sources.records import USUAL_OTHER_ENCODING
from mlim.sources.starter_pairs import PairsLook, look_at_pairs, pairs_lines
from mlim.sources.table import fixed_parent, table_files

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 1 << 22
SAMPLE_IMAGES = 50
SHOWN_CHARACTERS = 80
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_NAMES = ("image", "photo", "picture", "img")
ID_NAMES = ("id", "sku", "asin", "ean", "gtin", "key", "code")
FAMILY_NAMES = ("family", "parent", "handle", "group_id", "product_code", "product_id", "style", "model", "variation")
TITLE_NAMES = ("title", "name")
CODE_ENDINGS = ("id", "no", "code", "key", "number", "url", "path", "sku", "ean", "gtin")
MOST = 0.5  # a column is what more than this share of its values are
LARGEST_FAMILY_MEAN = 20.0  # larger groups are kinds of things (trousers), not one product's variations
SMALLEST_FAMILY_MEAN = 1.05
FEW_VALUES = 120  # columns with at most so many values can decide pairs,
LEAST_REPEATS = 3  # if a value stands in so many rows on average
LONG_TEXT = 60.0  # mean characters from which a text is a description, which goes last
AFTER_PATH = r"[?#].*"  # of an address
IMAGE_NOTES = {
    "folder": "the picture's path inside the images folder",
    "cells": "the pictures themselves, as bytes",
    "web": "the picture's address",
}
Words = Mapping[str, Mapping[str, int]]  # column -> word that means no value -> rows
ABO_LISTINGS = "listings"  # the folder of their listings
TABLE_NAME = re.compile(r"\.(csv|tsv|jsonl|ndjson|parquet)(\.gz)?$")
MOST_TABLES = 5
MOST_SHOWN = 5  # names of columns in one sentence
NUMBER_OR_PRICE = re.compile(r"(?:[A-Z]{3}|[$€£¥₹])?\s?[+-]?\d[\d.,'\s]*(?:[A-Z]{3}|[$€£¥₹])?")
FEW_NULS = 0.05  # of the bytes that are half a character of UTF-16, and of a plain one not the half that is NUL
LIST = "["  # how a JSON list of pictures begins
PLAIN_YAML = re.compile(r"[\w./-][\w ./-]*")


@dataclass(frozen=True)
class ColumnLook:
    """What a column looks like in the rows that were read; shares are of its values, without those that mean none.

    `distinct` counts values that are compared as different, `spellings` those that are written differently.
    """

    name: str
    rows: int
    filled: int
    distinct: int
    spellings: int
    mean_length: float
    images: float
    addresses: float
    numbers: float
    spaced: float

    @property
    def unique(self) -> bool:
        """Every row has a value of its own."""
        return self.spellings == self.rows

    @property
    def is_pictures(self) -> bool:
        """Most values are addresses or names of pictures, which name no item and no family."""
        return max(self.images, self.addresses) > MOST

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
    delimiter: str | None  # where the table's name does not say it
    bytes_columns: list[str]  # those of a Parquet file that hold pictures, it seems
    rejected: int
    notes: list[str]  # what is odd about the header


@dataclass(frozen=True)
class _Place:
    """Where the pictures are: in cells, behind addresses, or in the folder; how many of the first were found there."""

    kind: Literal["cells", "web", "folder"]
    folder: Path
    found: int
    tried: int
    missing: str = ""  # the first that was not found, as the table writes it,
    other_spelling: str = ""  # and as the folder does
    link: str = ""  # beside the table, which leads into the folder


@dataclass(frozen=True)
class _Guess:
    id: str
    idless: int  # rows whose id is blank or repeats another
    image: str
    place: _Place
    family: str | None
    inherited: list[str]  # blank on later rows of a family
    text: list[str]
    pairs: PairsLook | None

    @property
    def compared(self) -> list[str]:
        """The columns whose values are or may be compared."""
        return list(dict.fromkeys([self.id, *([self.family] if self.family else []), *self.text]))


def starter_yaml(
    table: Path,
    folder: Path | None = None,
    warn: Callable[[str], None] | None = None,
    delimiter: str | None = None,
) -> str:
    """A commented catalog.yaml for `table`, a file or a pattern, to be written into `folder` (default: beside it).

    `InputError` when the table cannot be read, or has one column only. Only the first rows are looked at; `warn` is
    given a sentence for each column that was chosen and says in words that it has no value, and for what is odd about
    the header. `delimiter`: as in catalog.yaml, where the first lines do not tell.
    """
    _refuse_folder(table)
    near = fixed_parent(table)
    sample = _read_sample(table, None if delimiter is None else _option(delimiter))
    guess = _guess(sample, near)
    words = count_words(_missing_words(sample.frame[guess.compared]))
    if warn is not None:
        for sentence in (*sample.notes, *warn_of_words(words)):
            warn(sentence)
    return "\n".join(_render(guess, sample, words, table, folder or near)) + "\n"


def _refuse_folder(path: Path) -> None:
    """`InputError` that says what to do with a folder: name the table in it, or describe a known layout."""
    if not path.is_dir():
        return
    if (path / ABO_LISTINGS).is_dir():
        raise InputError(
            f"{path}: holds listings as Amazon Berkeley Objects publishes them, whose columns are known; write a "
            f"catalog.yaml of two lines, `source: abo` and `abo: {{folder: {_scalar(str(path))}}}`"
        )
    tables = [file.name for file in sorted(path.iterdir()) if TABLE_NAME.search(file.name)]
    found = f"the table in it: {', '.join(tables[:MOST_TABLES])}" if tables else "a table; this folder holds none"
    raise InputError(f"{path}: is a folder; name {found}")


def _option(delimiter: str) -> str:
    try:
        return read_delimiter(delimiter)
    except ValueError as error:
        raise InputError(f"--delimiter {error}") from None


def _read_sample(table: Path, delimiter: str | None) -> _Sample:
    """The first rows of a table's first files that can be read; rows that cannot are left out, repeated columns too."""
    encoding = _guess_encoding(table_files(table)[0])
    files = table_files(table, encoding, delimiter)
    pictures, repeated = files[0].picture_columns(), files[0].repeated_columns()
    columns = [name for name in files[0].columns() if name not in (*pictures, *repeated)]
    _refuse_one_column(files[0], [*columns, *pictures])
    records = list(islice(chain.from_iterable(file.records(columns) for file in files), SAMPLE_ROWS))
    rows = [record for record in records if not isinstance(record, Rejection)]
    if not rows:
        details = [record.detail for record in records if isinstance(record, Rejection)]
        raise InputError(f"{table}: {details[0] if details else 'has a header but no rows; it needs at least one'}")
    frame = pd.DataFrame(rows, columns=columns, dtype="str")
    unusual, notes, rejected = {file.unusual_delimiter() for file in files}, _notes(files[0]), len(records) - len(rows)
    return _Sample(frame, encoding, unusual.pop() if len(unusual) == 1 else None, pictures, rejected, notes)


def _notes(file: TableFile) -> list[str]:
    """A sentence for the columns that the header leaves unread, and for what looks like a row in place of a header."""
    notes, places = list[str](), file.unnamed_columns()
    if repeated := file.repeated_columns():
        notes.append(
            f"the header names {_named(repeated)} more than once, so it is not read; rename all but one of them"
        )
    if places:
        named = f"{'columns' if len(places) > 1 else 'column'} {', '.join(map(str, places[:MOST_SHOWN]))}"
        notes.append(f"the header has no name for {_more(named, places)}, so that is not read; name what you need")
    values = [name for name in file.columns() if _looks_like_value(name)] if file.kind in DELIMITERS else []
    if values:
        notes.append(
            f"the header says {_named(values)}, which looks like a value; if the table has no header, its first row is "
            "taken for one and lost: put a line of column names above it"
        )
    return notes


def _named(names: Sequence[str]) -> str:
    """Names on one line, the first of them where there are many."""
    return _more(", ".join(f"`{repr(name)[1:-1][:SHOWN_CHARACTERS]}`" for name in names[:MOST_SHOWN]), names)


def _more(shown: str, every: Sequence[Any]) -> str:
    return f"{shown} and {len(every) - MOST_SHOWN} more" if len(every) > MOST_SHOWN else shown


def _looks_like_value(name: str) -> bool:
    """Whether a name in a header is a picture's, a number or a price."""
    return name.lower().endswith(IMAGE_SUFFIXES) or is_address(name) or bool(NUMBER_OR_PRICE.fullmatch(name.strip()))


def _refuse_one_column(file: TableFile, columns: Sequence[str]) -> None:
    """`InputError` when the whole line is the only column, which can name no item, picture and text."""
    if len(columns) > 1:
        return
    found = f"`{columns[0][:SHOWN_CHARACTERS]}`" if columns else "none that has a name of its own"
    if wider := _wider_line(file):
        line, cells = wider
        raise InputError(
            f"{file.path}: has one column ({found}), but line {line} and most lines below it have {cells} cells; "
            "remove the lines above the header"
        )
    advice = f"; name its delimiter with --delimiter (looked for: {', '.join(map(repr, CANDIDATES))})"
    raise InputError(
        f"{file.path}: has one column ({found}), but a catalog needs a picture and a text at least"
        f"{advice if file.kind in DELIMITERS else ''}"
    )


def _wider_line(file: TableFile) -> tuple[int, int] | None:
    """The first line that has as many cells as most lines below the first, if that is more than one; and how many."""
    if file.kind not in DELIMITERS:
        return None
    text = file.start(SAMPLE_BYTES).decode(file.encoding, errors="replace")
    numbered = enumerate(re.split(r"\r\n|\r|\n", text)[:LINES_COMPARED], start=1)
    below = [(number, line) for number, line in numbered if line.strip()][1:]
    for dialect in map(Dialect, [file.delimiter] if file.delimiter else CANDIDATES):
        widths = {number: len(dialect.cut(line)) for number, line in below}
        usual, lines = max(Counter(widths.values()).items(), key=itemgetter(1), default=(0, 0))
        if usual > 1 and lines > MOST * len(below):
            return next(number for number, width in widths.items() if width == usual), usual
    return None


def _guess_encoding(file: TableFile) -> str:
    """UTF-8 unless most of the first lines that tell (those with accents) are something else."""
    if file.kind == PARQUET:
        return UTF8
    start = file.start(SAMPLE_BYTES)
    if start.startswith(WIDE_MARKS):
        return WIDE_ENCODINGS[0]
    if wide := _unmarked_wide(start):
        return wide
    telling = [line for line in start.splitlines() if not line.isascii()]
    readable = sum(map(_is_utf8, telling))
    return UTF8 if readable >= MOST * len(telling) else USUAL_OTHER_ENCODING


def _unmarked_wide(start: bytes) -> str | None:
    """UTF-16 without a mark at its start: every other byte of most of its characters is NUL."""
    halves = {"utf-16-be": start[::2], "utf-16-le": start[1::2]}
    nuls = {encoding: half.count(0) / max(len(half), 1) for encoding, half in halves.items()}
    likely, other = sorted(nuls, key=nuls.__getitem__, reverse=True)
    return likely if nuls[likely] > MOST and nuls[other] < FEW_NULS else None


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode(UTF8)
    except UnicodeDecodeError:
        return False
    return True


def look_at(name: str, values: pd.Series) -> ColumnLook:
    """The look of one column of texts."""
    compared = values.map(comparable)
    filled = values[compared.notna()]
    names = filled.map(lambda cell: _first_picture(cell) if cell.startswith(LIST) else cell)
    addresses = names.map(is_address).astype(bool)
    lower = names.str.lower().where(~addresses, names.str.lower().str.replace(AFTER_PATH, "", regex=True))

    def share(found: pd.Series) -> float:
        return float(found.mean()) if len(found) else 0.0

    return ColumnLook(
        name=name,
        rows=len(values),
        filled=len(filled),
        distinct=int(compared.nunique()),
        spellings=int(filled.map(tidy).nunique()),
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
    others = [look for look in looks if look.name != image and not look.is_pictures and not look.named(IMAGE_NAMES)]
    identity = _guess_id(others) or image
    family = _guess_family([look for look in others if look.name != identity])
    text = _guess_text([look for look in others if look.name not in (identity, family)])
    pairs = look_at_pairs(frame, family, image, _few_values([look for look in looks if look.name in text]), text)
    idless = next((look.rows - look.spellings for look in looks if look.name == identity), 0)
    items = frame[frame[identity].map(comparable).notna()] if identity in frame else frame
    inherited = _guess_inherited(items, family, text)
    return _Guess(identity, idless, image, place, family, inherited, text or [identity], pairs)


def _missing_words(frame: pd.DataFrame) -> WordCounts:
    """How often each column says a word in place of a value."""
    words = WordCounts()
    for column in frame.columns:
        for value, rows in frame[column].value_counts().items():
            if word := DEFAULT.missing_word(str(value)):
                words[str(column), word] += int(rows)
    return words


def _guess_image(looks: Sequence[ColumnLook], sample: _Sample, near: Path) -> tuple[str, _Place]:
    """The column of the pictures, and where it leads."""
    if sample.bytes_columns:
        return _name_first(sample.bytes_columns), _Place("cells", near / "images", 0, 0)
    best = max(looks, key=lambda look: (look.images > MOST, look.named(IMAGE_NAMES), look.images, look.addresses))
    if best.addresses > MOST:
        return best.name, _Place("web", near / "images", 0, 0)
    names = sample.frame[best.name].head(SAMPLE_IMAGES).map(_first_picture).tolist()
    return best.name, _guess_folder(names, near)


def _first_picture(cell: str) -> str:
    """The first of the pictures that a cell lists."""
    return next(iter(listed_pictures(cell)), "")


def _name_first(columns: Sequence[str]) -> str:
    """The column that is named like pictures, else the first."""
    return next((name for name in columns if set(_name_parts(name)) & set(IMAGE_NAMES)), columns[0])


def _name_parts(name: str) -> list[str]:
    return re.split(r"[\W_]+", name.lower())


def _guess_id(looks: Sequence[ColumnLook]) -> str | None:
    """A column in which no value repeats, best without a blank; else the one that repeats least."""

    def fitness(look: ColumnLook) -> tuple[bool, bool, bool, bool, bool, int, float, float]:
        named, own = look.named(ID_NAMES), look.spellings == look.filled > MOST * look.rows
        whole = look.unique and (named or look.spaced < MOST)
        nearly = named and not look.named(FAMILY_NAMES) and look.spellings > MOST * look.rows
        return (
            whole,
            own and named,
            nearly,
            look.unique,
            own,
            0 if own else look.spellings,
            -look.spaced,
            -look.mean_length,
        )

    best = max((look for look in looks if look.filled), key=fitness, default=None)
    return best.name if best else None


def _guess_family(looks: Sequence[ColumnLook]) -> str | None:
    def grouped(look: ColumnLook) -> bool:
        return look.distinct > 1 and SMALLEST_FAMILY_MEAN <= look.filled / look.distinct <= LARGEST_FAMILY_MEAN

    candidates = [look for look in looks if grouped(look) and look.mean_length < LONG_TEXT]
    best = max(
        candidates, key=lambda look: (look.named(FAMILY_NAMES), look.is_code, -look.spaced, look.distinct), default=None
    )
    return best.name if best else None


def _guess_inherited(frame: pd.DataFrame, family: str | None, names: Sequence[str]) -> list[str]:
    """Columns that the first row of most families says, and a later row leaves blank."""
    if family is None or not names:
        return []
    key = frame[family].map(comparable)
    said = pd.DataFrame({name: frame[name].map(comparable).notna() for name in names})[key.notna()]
    groups = said.groupby(key[key.notna()])
    split = (groups.first() & ~groups.min())[groups.size() > 1]
    return [name for name in names if len(split) and split[name].mean() > MOST]


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


def _guess_folder(names: Sequence[str], near: Path) -> _Place:
    """The folder beside the table under which most of the first pictures lie, else one that spells them otherwise."""
    inner = sorted(entry for entry in near.iterdir() if entry.is_dir())
    links = {entry.resolve().parent: entry.name for entry in inner if _leads_out(entry)}
    folders = [near, *inner, *links]
    stores = [FolderPictures(folder.absolute(), 0) for folder in folders]
    counts = [sum(map(store.has, names)) for store in stores]
    best = counts.index(max(counts))
    missing = next((name for name in names if not stores[best].has(name)), "")
    if counts[best]:
        other, link = stores[best].other_spelling(missing), links.get(folders[best], "")
        return _Place("folder", folders[best], counts[best], len(names), missing, other, link)
    others = [store.other_spelling(missing) for store in stores]
    alike = next((place for place in zip(folders, others, strict=True) if place[1]), (near / "images", ""))
    return _Place("folder", alike[0], 0, len(names), missing, alike[1])


def _leads_out(entry: Path) -> bool:
    """Whether it is a link to a folder of the same name elsewhere, whose parent then stands for that of the link."""
    return entry.is_symlink() and entry.resolve().name == entry.name


def _few_values(looks: Sequence[ColumnLook]) -> list[str]:
    """Columns that repeat few values, so that they can decide pairs."""
    return [look.name for look in looks if look.distinct <= min(FEW_VALUES, look.filled / LEAST_REPEATS)]


def _render(guess: _Guess, sample: _Sample, words: Words, table: Path, folder: Path) -> Iterator[str]:
    rows = len(sample.frame)
    yield f"# What is what in {table.name}. Guessed from its first {rows} rows: read every line, then `mlim ingest`."
    if sample.rejected:
        yield f"# {sample.rejected} more rows could not be read; `mlim ingest` quarantines such rows and says why."
    yield from (f"# NOTE: {note}." for note in sample.notes)
    yield "# Paths are relative to this file; ${NAME} stands for an environment variable."
    yield "source: table"
    yield f"table: {_scalar(_relative(table, folder))}"
    if sample.encoding != UTF8:
        yield f"encoding: {sample.encoding}  # the table is not UTF-8; look whether its accents and umlauts come right"
    if sample.delimiter:
        yield f"delimiter: {json.dumps(sample.delimiter)}  # between the values of a row"
    yield from _render_place(guess.place, folder)
    yield ""
    yield "columns:"
    yield f"  id: {_scalar(guess.id)}  # {_id_note(guess.idless, rows)}"
    yield f"  image: {_scalar(guess.image)}  # {IMAGE_NOTES[guess.place.kind]}"
    yield from _render_family(guess.family)
    if guess.inherited:
        yield f"  # inherit: [{', '.join(map(_scalar, guess.inherited))}]  # blank on later rows of a family: take the"
        yield "  #   value of its first row. Without this line these rows lack it; take the # away if it is meant so."
    yield "  # What the model reads, in this order, the telling columns first: it reads as many tokens as"
    yield "  # text.max_tokens of the recipe says, and `mlim validate` says how much that cuts off. HTML is left"
    yield "  # out; {column: NAME, clean: false} keeps it. Take out prices, codes, dates, and whatever gives the"
    yield "  # answer away. For values that mean little alone, write {column: NAME, label: WORD}."
    yield "  text:"
    yield from (f"    - {_scalar(name)}" for name in guess.text)
    yield from _render_values(words)
    yield ""
    yield from pairs_lines(guess.pairs, _scalar)


def _id_note(idless: int, rows: int) -> str:
    if idless:
        note = f"names an item, but {idless} of {rows} rows are blank here or repeat another: they will be quarantined"
        return f"{note}, and ingest.max_quarantined_share of the recipe must allow it"
    return "names an item: no two rows may have the same value"


def _render_place(place: _Place, folder: Path) -> Iterator[str]:
    if place.kind == "folder":
        written = str(place.folder) if place.link else _relative(place.folder, folder)
        yield f"images: {_scalar(written)}  # {_folder_note(place)}"
    elif place.kind == "cells":
        yield "# images: FOLDER  # only where a cell holds the path of a picture instead of its bytes"
    else:
        yield "# Pictures are downloaded once and kept in the work folder. What you do not write stands at its default:"
        yield "# download:"
        for name, field in Download.model_fields.items():
            yield f"#   {name}: {json.dumps(field.default)}  # {field.description}"


def _folder_note(place: _Place) -> str:
    if place.other_spelling:
        return (
            f"{place.found} of the first {place.tried} pictures were found here: the table writes {place.missing!r}, "
            f"but the folder {place.other_spelling!r}; change one of them"
        )
    if place.found:
        link = f": `{place.link}` beside the table is a link to a folder in it" if place.link else ""
        return f"{place.found} of the first {place.tried} pictures were found here{link}"
    return "NOT FOUND beside the table: write the folder, or the .tar or .zip archives, that hold the pictures"


def _render_family(family: str | None) -> Iterator[str]:
    if family is None:
        yield "  # family: COLUMN  # no column looks like one; its value is shared by the variations of one product"
    else:
        yield f"  family: {_scalar(family)}  # rows with the same value are variations of one product (colours, sizes)"


def _render_values(words: Words) -> Iterator[str]:
    """What columns say in place of a value; nothing where none does."""
    if not words:
        return
    yield ""
    yield "# These words count as no value where values are compared. Where one is a value of its own, take the # away:"
    yield "# values:"
    yield "#   columns:"
    for column, counts in words.items():
        said = ", ".join(f"{count} x {json.dumps(word, ensure_ascii=False)}" for word, count in counts.items())
        yield f"#     {_scalar(column)}: {{missing: []}}  # {said}"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _scalar(text: str) -> str:
    """A YAML scalar on one line that reads back as exactly this text."""
    plain = PLAIN_YAML.fullmatch(text) and text == text.strip() and yaml.safe_load(text) == text
    return text if plain else yaml.safe_dump(text, default_style='"', width=float("inf")).strip()
