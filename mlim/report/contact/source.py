"""A look at the source itself: rows, families, columns, and sampled rows with their pictures, before any ingest."""

import hashlib
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlim.catalog.description import CatalogDescription, load_description
from mlim.catalog.rejection import Rejection
from mlim.errors import InputError
from mlim.ingest.inherit import inherit
from mlim.ingest.run import check_source
from mlim.ingest.screen import SourceRow, screen_rows
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import ImageRules, Picture
from mlim.pictures.sandbox import DecodeLimits, Job, open_sandbox
from mlim.report.contact.reading import MOST_CHARACTERS
from mlim.report.contact.settings import ContactSettings
from mlim.sources.base import RawRow
from mlim.sources.opening import open_source

BYTES_PER_MB = 1_000_000
DIGEST_BYTES = 8  # of a value, so that counting different long texts takes little memory
EXAMPLE_ROWS = 3


@dataclass
class Column:
    """How many rows have a value, and how many different values there are (`more`: at least)."""

    filled: int = 0
    digests: set[bytes] = field(default_factory=set)
    more: bool = False

    def add(self, value: str, limit: int) -> None:
        """Count one cell."""
        self.filled += 1
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        if len(self.digests) < limit or digest in self.digests:
            self.digests.add(digest)
        else:
            self.more = True


@dataclass
class LeakedColumn:
    """How many texts hold the row's own value of a column that decides pairs; `words`: value -> such texts."""

    name: str
    told: int = 0  # rows that have a value
    leaking: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, value: str | None, text: str) -> None:
        """Count one row; values are compared in lower case and between the ends of words."""
        if value is None:
            return
        self.told += 1
        if value in text and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            self.leaking += 1
            self.words[value] += 1


@dataclass(frozen=True)
class SourceSample:
    """One sampled row and its picture, or why there is none."""

    row: SourceRow
    picture: Picture | Rejection


@dataclass(frozen=True)
class SourceLook:
    """What a source holds. `problems`: rows by reason that the cells alone show, before any picture is opened;
    `notes`: what the source tells of itself, in words -> counts.
    """

    description: CatalogDescription
    rows: int
    columns: dict[str, Column]
    families: Counter[str]
    problems: Counter[str]
    notes: Mapping[str, int]
    first: tuple[SourceRow, ...]
    samples: tuple[SourceSample, ...]
    leaked: tuple[LeakedColumn, ...] = ()
    texts: tuple[str, ...] = ()  # the first rows'


def read_source(catalog: Path, cache: Path, settings: ContactSettings, with_pictures: bool) -> SourceLook:
    """Read all rows once, and the pictures of sampled rows if asked; `InputError` when the source is unusable."""
    description = load_description(catalog)
    if description.source == "synthetic":
        raise InputError(f"{catalog}: is drawn when it is ingested; `mlim catalog synthesize` makes one to look at")
    source = open_source(description, str(catalog), cache, round(settings.max_picture_mb * BYTES_PER_MB))
    check_source(source, description, str(catalog))
    tally = _Tally(description, settings)
    tally.read(source.rows(description.needed_columns))
    store = source.pictures() if with_pictures else None
    return tally.finish(store, source.report())


class _Tally:
    """Counts as rows pass by; memory holds the sample, the families and a digest of what differs."""

    def __init__(self, description: CatalogDescription, settings: ContactSettings) -> None:
        self._description, self._settings = description, settings
        self._columns = {name: Column() for name in (*description.text_columns, *description.metadata_columns)}
        self._families, self._problems = Counter[str](), Counter[str]()
        self._rows, self._sample = 0, list[tuple[int, SourceRow]]()
        self._first: list[SourceRow] = []
        self._generator = random.Random(settings.seed)
        pairs = description.pairs
        self._leaked = [LeakedColumn(name) for name in dict.fromkeys((*pairs.decided_by, *pairs.hidden))]
        self._texts, self._text_room = list[str](), MOST_CHARACTERS

    def read(self, rows: Iterator[RawRow]) -> None:
        """Count every row, and keep some of them."""
        inherited = inherit(rows, self._description)  # a second time changes nothing
        for row in screen_rows(self._observed(inherited), self._description, self._settings.max_cell_characters):
            if row.rejection is not None:
                self._problems[row.rejection.reason] += 1
            elif row.family is not None:
                self._families[row.family] += 1
            if row.rejection is None:
                self._read_text(row)
            if len(self._first) < EXAMPLE_ROWS:
                self._first.append(row)
            self._keep(row)

    def _read_text(self, row: SourceRow) -> None:
        self._text_room -= len(row.text)
        if self._text_room >= 0:
            self._texts.append(row.text)
        if self._leaked:
            facts, text = json.loads(row.facts), unicodedata.normalize("NFKC", row.text).lower()
            for column in self._leaked:
                value = self._description.values.of(column.name).comparable(str(facts.get(column.name) or ""))
                column.add(None if value is None else value.lower(), text)

    def _observed(self, rows: Iterator[RawRow]) -> Iterator[RawRow]:
        limit, values = self._settings.distinct_limit, self._description.values
        for raw in rows:
            self._rows += 1
            for name, column in self._columns.items():
                value = values.of(name).comparable(raw.cells.get(name, ""))
                if value is not None:
                    column.add(value, limit)
            yield raw

    def _keep(self, row: SourceRow) -> None:
        """Every row has the same chance to be in the sample (Vitter's algorithm R, 1985)."""
        if len(self._sample) < self._settings.items:
            self._sample.append((self._rows, row))
            return
        place = self._generator.randrange(self._rows)
        if place < self._settings.items:
            self._sample[place] = (self._rows, row)

    def finish(self, store: PictureStore | None, notes: Mapping[str, int]) -> SourceLook:
        """What was counted, with the pictures of the sample where there is a store to read them from."""
        rows = [row for _, row in sorted(self._sample, key=lambda kept: kept[0])]
        samples = _open_pictures(rows, store, self._settings) if store is not None else ()
        counted = (self._rows, self._columns, self._families, self._problems, notes)
        found = (tuple(self._first), tuple(samples), tuple(self._leaked), tuple(self._texts))
        return SourceLook(self._description, *counted, *found)


def _open_pictures(rows: Sequence[SourceRow], store: PictureStore, settings: ContactSettings) -> Iterator[SourceSample]:
    """Pictures come from outside: they are opened in a process that may die, as ingest does."""
    store.prefetch([row.image for row in rows if row.image])
    rules = ImageRules(settings.formats, settings.max_megapixels, settings.thumbnail_side, settings.thumbnail_quality)
    limits = DecodeLimits(settings.decode_seconds, settings.decode_memory_mb)
    with open_sandbox(1, limits, store, rules) as sandbox:
        outcomes = sandbox.decode([Job(row.image, None) for row in rows])
    for row, outcome in zip(rows, outcomes, strict=True):
        known = row.rejection if row.rejection is not None and not isinstance(outcome.result, Picture) else None
        yield SourceSample(row, known or outcome.result)
