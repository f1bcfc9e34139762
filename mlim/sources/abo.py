"""Amazon Berkeley Objects in its published layout: a public catalog of 147,702 listings and 398,212 pictures.

J. Collins et al., "ABO: Dataset and Benchmarks for Real-World 3D Object Understanding", CVPR 2022. Listings are read
twice as a stream: once to count on how many listings each picture stands, once for the rows. What is held in memory
grows with the number of different pictures only (their ids and paths).
"""

import csv
import gzip
import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from mlim.catalog.defaults import ABO_FAMILY as FAMILY
from mlim.catalog.defaults import ABO_IMAGE as IMAGE
from mlim.catalog.defaults import ABO_KEY as KEY
from mlim.catalog.description import AboSource
from mlim.catalog.rejection import Rejection
from mlim.catalog.values import comparable
from mlim.config import nearest
from mlim.errors import InputError
from mlim.pictures.base import MISSING_IMAGE, PictureStore
from mlim.pictures.folder import FolderPictures
from mlim.sources.abo_listing import (
    LANGUAGE_FIELDS,
    PLAIN_FIELDS,
    SHAPED_FIELDS,
    Listing,
    listing_cell,
    listing_key,
    picture_ids,
)
from mlim.sources.base import RawRow

LISTINGS = "listings/metadata"
LISTING_FILES = "listings_*.json.gz"
PICTURE_TABLE = "images/metadata/images.csv.gz"
IMAGES = "images"

IMAGE_ID = "image_id"
OWN_COLUMNS = (KEY, IMAGE, IMAGE_ID, FAMILY)  # what no field of a listing says as it is
COLUMNS = (*OWN_COLUMNS, *PLAIN_FIELDS, *LANGUAGE_FIELDS, *SHAPED_FIELDS)

BROKEN_LINE = "broken-line"
BOILERPLATE_IMAGE = "boilerplate-image"

MOST_LINE_BYTES = 1 << 24  # the longest real listing has a few hundred kilobytes
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
FAMILY_HASH_DIGITS = 16
FAMILY_PREFIX_CHARACTERS = 32
NO_WORD = re.compile(r"[^a-z0-9]+")


def listing_files(folder: Path) -> list[Path]:
    """The files of listings of a data set in `folder`, in order."""
    return sorted((folder / LISTINGS).glob(LISTING_FILES))


class AboTable:
    """The listings as rows (a `Source`); columns are `COLUMNS`, pictures larger than `max_picture_bytes` stay closed.

    `InputError` when settings.family_by names a column that is not there.
    """

    def __init__(self, settings: AboSource, max_picture_bytes: int) -> None:
        known = [column for column in COLUMNS if column != FAMILY]
        problems = [
            f"abo.family_by: no column `{name}`{nearest(name, known)}"
            for name in settings.family_by
            if name not in known
        ]
        if problems:
            raise InputError(*problems)
        self._settings, self._max_picture_bytes = settings, max_picture_bytes
        self._counts = Counter[str]()

    def columns(self) -> Sequence[str]:
        """Every column; `InputError` with all that the folder lacks of the published layout."""
        folder, pictures = self._settings.folder, self._pictures_folder
        missing = [] if self._files else [f"{folder / LISTINGS}: holds no {LISTING_FILES}"]
        missing += [] if (folder / PICTURE_TABLE).is_file() else [f"{folder / PICTURE_TABLE}: no such file"]
        missing += [] if pictures.is_dir() else [f"{pictures}: no such folder"]
        if missing:
            hint = "`abo.folder` must hold listings/ and images/ as `mlim catalog fetch abo` leaves them"
            raise InputError(*(f"{problem}; {hint}" for problem in missing))
        return COLUMNS

    def rows(self, columns: Sequence[str]) -> Iterator[RawRow]:
        """One row per listing, or per listing and picture; `InputError` for a broken gzip or no listing at all."""
        boilerplate = self._boilerplate
        self._counts = Counter({"boilerplate pictures": len(boilerplate)})
        for source, number, listing in self._lines():
            if isinstance(listing, Rejection):
                self._counts["broken lines"] += 1
                yield RawRow(source, number, {}, listing)
                continue
            self._counts["listings"] += 1
            texts = self._texts(listing, columns)
            for own, problem in self._pictured(listing, boilerplate):
                cells = {column: own[column] if column in own else texts[column] for column in columns}
                yield RawRow(source, number, cells, problem)
        if not self._counts["listings"]:
            raise InputError(f"{self._settings.folder / LISTINGS}: holds no listing that can be read")

    def pictures(self) -> PictureStore:
        """The files below images/small or images/original."""
        return FolderPictures(self._pictures_folder.absolute(), self._max_picture_bytes)

    def state(self) -> str:
        """Names, sizes and times of the listing files and the table of pictures, hashed."""
        stats = [(path.name, path.stat()) for path in (*self._files, self._settings.folder / PICTURE_TABLE)]
        facts = [(name, found.st_size, found.st_mtime_ns) for name, found in stats]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def report(self) -> Mapping[str, int]:
        """Of the rows read last: listings, and what pruning boilerplate pictures changed."""
        return dict(self._counts)

    @property
    def _pictures_folder(self) -> Path:
        return self._settings.folder / IMAGES / self._settings.size

    @property
    def _files(self) -> list[Path]:
        return listing_files(self._settings.folder)

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        return read_picture_paths(self._settings.folder / PICTURE_TABLE)

    @cached_property
    def _boilerplate(self) -> AbstractSet[str]:
        """Ids of the pictures that stand on more listings than the settings allow."""
        uses = Counter[str]()
        for _, _, listing in self._lines():
            if not isinstance(listing, Rejection):
                uses.update(picture_ids(listing))
        return {name for name, count in uses.items() if count > self._settings.max_picture_uses}

    def _lines(self) -> Iterator[tuple[str, int, Listing | Rejection]]:
        """(source, line from 1, listing or why it cannot be read) of all files in order."""
        for path in self._files:
            source = f"{LISTINGS}/{path.name}"
            for number, line in read_lines(path):
                yield source, number, parse_listing(line)

    def _texts(self, listing: Listing, columns: Sequence[str]) -> dict[str, str]:
        """The cells that all rows of a listing share."""
        languages = self._settings.languages
        texts = {name: listing_cell(listing, name, languages) for name in columns if name not in OWN_COLUMNS}
        texts[KEY] = listing_key(listing)
        if FAMILY in columns:
            texts[FAMILY] = family_of([self._family_cell(listing, name, texts) for name in self._settings.family_by])
        return texts

    def _family_cell(self, listing: Listing, column: str, texts: Mapping[str, str]) -> str:
        if column in (IMAGE, IMAGE_ID):
            return next(iter(picture_ids(listing)), "")
        return texts[column] if column in texts else listing_cell(listing, column, self._settings.languages)

    def _pictured(
        self, listing: Listing, boilerplate: AbstractSet[str]
    ) -> Iterator[tuple[dict[str, str], Rejection | None]]:
        """The cells that differ between the rows of one listing, and what is wrong with its picture."""
        ids = picture_ids(listing)
        kept = [(number, name) for number, name in enumerate(ids, start=1) if name not in boilerplate]
        if self._settings.pictures == "all":
            yield from self._all_pictures(listing, ids, kept)
        elif kept or not ids:
            self._counts["listings with another main picture"] += bool(kept) and kept[0][0] > 1
            yield self._picture(kept[0][1] if kept else "")
        else:
            yield self._only_boilerplate(ids[0])

    def _all_pictures(
        self, listing: Listing, ids: Sequence[str], kept: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[dict[str, str], Rejection | None]]:
        """Numbered as in the listing, so that an id stays the same whatever counts as boilerplate."""
        key = listing_key(listing)
        self._counts["rows left out for boilerplate pictures"] += len(ids) - len(kept) if kept else 0
        for number, name in kept:
            cells, problem = self._picture(name)
            yield {KEY: f"{key}#{number}" if key else "", **cells}, problem
        if not kept:
            cells, problem = self._only_boilerplate(ids[0]) if ids else self._picture("")
            yield {KEY: f"{key}#1" if key else "", **cells}, problem

    def _picture(self, name: str) -> tuple[dict[str, str], Rejection | None]:
        path = self._paths.get(name, "")
        if path or not name:
            return {IMAGE: path, IMAGE_ID: name}, None
        self._counts["pictures that images.csv.gz does not list"] += 1
        return {IMAGE: name, IMAGE_ID: name}, Rejection(MISSING_IMAGE, f"the picture {name} is not in {PICTURE_TABLE}")

    def _only_boilerplate(self, name: str) -> tuple[dict[str, str], Rejection]:
        self._counts["listings with boilerplate pictures only"] += 1
        cells = {IMAGE: self._paths.get(name, name), IMAGE_ID: name}
        limit = self._settings.max_picture_uses
        detail = f"each picture of the listing ({name} first) stands on more than abo.max_picture_uses {limit} listings"
        return cells, Rejection(BOILERPLATE_IMAGE, detail)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of a gzip file of text, blank lines left out; one of `MOST_LINE_BYTES` + 1 was cut there.

    `InputError` when the gzip is broken: what follows the break is lost, and so the catalog is not complete.
    """
    number = 0
    with _explained(path), gzip.open(path) as source:
        while line := source.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                _skip_line(source, line)
            if line.strip():
                yield number, line


def _skip_line(source: gzip.GzipFile, part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = source.readline(MOST_LINE_BYTES)


def parse_listing(line: bytes) -> Listing | Rejection:
    """The listing in a line of JSON, or why there is none."""
    if len(line) > MOST_LINE_BYTES:
        return Rejection(BROKEN_LINE, f"the line is longer than {MOST_LINE_BYTES} bytes, which no listing is")
    try:
        listing = json.loads(line.removeprefix(BYTE_ORDER_MARK).decode("utf-8"))
    except UnicodeDecodeError as error:
        return Rejection(BROKEN_LINE, f"the line is not UTF-8 text (byte {error.start + 1})")
    except json.JSONDecodeError as error:
        return Rejection(BROKEN_LINE, f"the line is not JSON: {error.msg} at character {error.pos + 1}")
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        return Rejection(BROKEN_LINE, "the line holds JSON that no listing needs (endless digits or brackets)")
    if not isinstance(listing, dict):
        return Rejection(BROKEN_LINE, f"the line holds a JSON {type(listing).__name__}, not an object")
    return listing


def read_picture_paths(path: Path) -> Mapping[str, str]:
    """Picture id -> path below images/<size>, of the whole images.csv.gz; `InputError` when it cannot be read."""
    with _explained(path), gzip.open(path, "rt", encoding="utf-8-sig", newline="") as source:
        rows = csv.reader(source)
        header = next(rows, [])
        if "image_id" not in header or "path" not in header:
            raise InputError(f"{path}: the header must name image_id and path, but is: {','.join(header)}")
        name, place = header.index("image_id"), header.index("path")
        return {cells[name]: cells[place] for cells in rows if len(cells) == len(header)}


def family_of(values: Sequence[str]) -> str:
    """The family of the listings with these values, whatever their case and spaces; "" when one is empty."""
    plain = [comparable(value) or "" for value in values]
    if not all(plain):
        return ""
    digits = hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:FAMILY_HASH_DIGITS]
    letters = unicodedata.normalize("NFKD", "-".join(plain)).encode("ascii", "ignore").decode()
    prefix = NO_WORD.sub("-", letters)[:FAMILY_PREFIX_CHARACTERS].strip("-")
    return f"{prefix}-{digits}" if prefix else digits


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What reading a gzip file raises, as one sentence with its name."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: is a broken gzip file ({error}); fetch it again") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check that the file is there") from None
