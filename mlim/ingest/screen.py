"""From a source's raw rows to rows of items: texts are joined, and what the cells alone rule out is rejected."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from json.encoder import encode_basestring as quoted
from typing import NamedTuple

from mlim.catalog.description import CatalogDescription, TextColumn
from mlim.catalog.item import join_text
from mlim.catalog.rejection import Rejection
from mlim.catalog.texts import clean_text
from mlim.catalog.values import Comparison, Remembered, Spellings, WordCounts
from mlim.ingest.inherit import inherit
from mlim.pictures.listed import listed_pictures
from mlim.sources.base import RawRow

EMPTY_ID = "empty-id"
DUPLICATE_ID = "duplicate-id"
NO_IMAGE_NAME = "no-image-name"
NO_TEXT = "no-text"
CELL_TOO_LONG = "cell-too-long"

SHOWN_CHARACTERS = 80  # of an id or a cell that is itself the problem
DIGEST_BYTES = 16  # of an id, so that millions of long ids take little memory


class SourceRow(NamedTuple):
    """One row of the source, before its picture is opened; `rejection` when it is already known to be bad."""

    source: str
    row: int
    id: str
    family: str | None
    category: str | None
    image: str
    text: str
    attributes: str
    facts: str
    rejection: Rejection | None
    further: tuple[str, ...] = ()  # pictures after the first, where the catalog takes all
    listed: int = 1  # different pictures in the cell

    @property
    def pictures(self) -> tuple[str, ...]:
        """Every picture to open, in order; of a rejected row only the first, shown to the person who corrects it."""
        return (self.image, *self.further) if self.rejection is None else (self.image,)

    def content(self) -> tuple[str | None, ...]:
        """All that decides what the row becomes; not where it stands in its file."""
        rejection = "" if self.rejection is None else f"{self.rejection.reason}: {self.rejection.detail}"
        cells = (self.id, self.family, self.category, self.image, self.text, self.attributes, self.facts)
        return (*cells, rejection, *self.further)


def screen_rows(
    rows: Iterable[RawRow],
    description: CatalogDescription,
    max_cell_characters: int,
    words: WordCounts | None = None,
) -> Iterator[SourceRow]:
    """The rows in order, each with the rejection that its cells call for; of others with one id the first is kept.

    Families and categories that are equal as `values` of catalog.yaml compares them get the spelling of the first row.
    Blank cells of `columns.inherit` have the value of their family's first row. What compared columns say in place of a
    value is counted in `words`.
    """
    seen, screen = set[bytes](), _Screen(description, max_cell_characters, WordCounts() if words is None else words)
    for raw in inherit(rows, description):
        row = screen.row(raw)
        digest = hashlib.blake2b(row.id.encode(), digest_size=DIGEST_BYTES).digest()
        repeated = digest in seen and row.rejection is None
        if row.rejection is None:  # a rejected row becomes no item, so its id is still free
            seen.add(digest)
        if repeated:
            detail = f"an earlier row already has the id {row.id}; give one of them another"
            row = row._replace(rejection=Rejection(DUPLICATE_ID, detail))
        yield row


class _Screen:
    """What is asked of every row, and what is remembered of the earlier ones."""

    def __init__(self, description: CatalogDescription, max_cell_characters: int, words: WordCounts) -> None:
        self._columns, self._facts = description.columns, list(dict.fromkeys(description.metadata_columns))
        self._text_names = [f"{quoted(name)}: " for name in dict.fromkeys(text.column for text in self._columns.text)]
        self._fact_names = [f"{quoted(name)}: " for name in self._facts]
        self._texts = description.text_columns
        self._limit, self._words = max_cell_characters, words
        values = description.values
        compared = {column: values.of(column) for column in description.compared_columns}
        self._missing_words = {column: Remembered(values_of.missing_word) for column, values_of in compared.items()}
        self._must = {column: values.of(column) for column in (self._columns.id, self._columns.image.column)}
        self._family, self._category = (
            Spellings(values.of(column or "")) for column in (self._columns.family, self._columns.category)
        )
        self._families_with_text = set[str]()
        self._texts_kept = dict[str, int]()  # family -> hash of the text of its first row that is not rejected

    def row(self, raw: RawRow) -> SourceRow:
        """A raw row as a row of items, with what its own cells call for."""
        columns, rejection = self._columns, raw.problem or _too_long(raw.cells, self._limit)
        cells = raw.cells
        if rejection is not None:  # what is kept is enough to recognise the row
            cells = {column: value[:SHOWN_CHARACTERS] for column, value in cells.items()}
        attributes = {text.column: " ".join(cells.get(text.column, "").split()) for text in columns.text}
        text = join_text([(text.label, _read(attributes[text.column], text)) for text in columns.text])
        listed = list(dict.fromkeys(listed_pictures(cells.get(columns.image.column, ""), columns.image.separator)))
        image = next(iter(listed), "")
        self._count_words(cells)
        family = self._family.of(_cell(cells, columns.family))
        if text and family:
            self._families_with_text.add(family)
        rejection = rejection or self._incomplete(cells, image, text, family)
        if rejection is None and family:
            self._texts_kept.setdefault(family, hash(text))
        return SourceRow(
            source=raw.source,
            row=raw.row,
            id=cells.get(columns.id, ""),
            family=family,
            category=self._category.of(_cell(cells, columns.category)),
            image=image,
            text=text,
            attributes=_as_json(self._text_names, attributes.values()),
            facts=_as_json(self._fact_names, [cells.get(name, "") for name in self._facts]),
            rejection=rejection,
            further=tuple(listed[1 : columns.image.most]) if columns.image.choose == "all" else (),
            listed=len(listed),
        )

    def _further(self, family: str | None, text: str) -> str:
        """What a row without an id and a text of its own is: a further picture, for which shops write one more row."""
        first = self._texts_kept.get(family or "")
        if first is None or (text and hash(text) != first):
            return ""
        return f"; if it only brings a further picture of {family}: list an item's pictures in one cell"

    def _count_words(self, cells: Mapping[str, str]) -> None:
        for column, missing_words in self._missing_words.items():
            if word := missing_words[cells.get(column, "")]:
                self._words[column, word] += 1

    def _incomplete(self, cells: Mapping[str, str], image: str, text: str, family: str | None) -> Rejection | None:
        for column, reason, lack in (
            (self._columns.id, EMPTY_ID, "the row has no id"),
            (self._columns.image.column, NO_IMAGE_NAME, "the row names no picture"),
        ):
            cell, comparison = cells.get(column, ""), self._must[column]
            if comparison.comparable(cell) is None:
                further = self._further(family, text) if reason == EMPTY_ID and image else ""
                return Rejection(reason, f"{lack}: the column {column} {_says(comparison, cell)}{further}")
        if not image:
            column = self._columns.image.column
            return Rejection(NO_IMAGE_NAME, f"the row names no picture: the column {column} lists none")
        if text:
            return None
        names = ", ".join(self._texts)
        if family in self._families_with_text:
            advice = f"an earlier row of the family {family} has text: name the columns in columns.inherit"
            return Rejection(NO_TEXT, f"every text column is empty or markup alone ({names}); {advice}")
        return Rejection(NO_TEXT, f"every text column is empty or markup alone ({names}); fill one in")


def _as_json(names: Iterable[str], values: Iterable[str]) -> str:
    """As `json.dumps` with ensure_ascii=False has them, without the encoder that it prepares for each call.

    `names` are quoted, with a colon and a blank behind each.
    """
    return "{" + ", ".join([f"{name}{quoted(value)}" for name, value in zip(names, values, strict=True)]) + "}"


def _cell(cells: Mapping[str, str], column: str | None) -> str:
    """What stands in a column; nothing where none is named."""
    return "" if column is None else cells.get(column, "")


def _says(comparison: Comparison, cell: str) -> str:
    """What stands where a value is missing."""
    word = comparison.missing_word(cell)
    return "is empty" if word is None else f"says `{word}`, which means no value (see `values` in catalog.yaml)"


def _read(value: str, text: TextColumn) -> str:
    """What the model reads of a cell; the attributes keep what is written there."""
    return clean_text(value) if text.clean else value


def _too_long(cells: Mapping[str, str], limit: int) -> Rejection | None:
    if max(map(len, cells.values()), default=0) <= limit:
        return None
    for column, value in cells.items():
        if len(value) > limit:
            return Rejection(
                CELL_TOO_LONG,
                f"the column {column} has {len(value)} characters, more than ingest.max_cell_characters {limit}; "
                "shorten it or raise the limit",
            )
    return None
