"""From a source's raw rows to rows of items: texts are joined, and what the cells alone rule out is refused."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlim.catalog.description import CatalogDescription
from mlim.catalog.item import join_text
from mlim.catalog.refusal import Refusal
from mlim.catalog.sources.base import RawRow

EMPTY_ID = "empty-id"
DUPLICATE_ID = "duplicate-id"
NO_IMAGE_NAME = "no-image-name"
NO_TEXT = "no-text"
CELL_TOO_LONG = "cell-too-long"

SHOWN_CHARACTERS = 80  # of an id or a cell that is itself the problem
DIGEST_BYTES = 16  # of an id, so that millions of long ids take little memory


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of the source, before its picture is opened; `refusal` when it is already known to be bad."""

    source: str
    row: int
    id: str
    family: str | None
    category: str | None
    image: str
    text: str
    attributes: str
    facts: str
    refusal: Refusal | None

    def content(self) -> tuple[str | None, ...]:
        """All that decides what the row becomes; not where it stands in its file."""
        refusal = "" if self.refusal is None else f"{self.refusal.reason}: {self.refusal.detail}"
        return (self.id, self.family, self.category, self.image, self.text, self.attributes, self.facts, refusal)


def screen_rows(
    rows: Iterable[RawRow], description: CatalogDescription, max_cell_characters: int
) -> Iterator[SourceRow]:
    """The rows in order, each with the refusal that its cells call for; of rows with one id the first is kept."""
    seen, facts = set[bytes](), description.fact_columns
    for raw in rows:
        row = _source_row(raw, description, facts, max_cell_characters)
        digest = hashlib.blake2b(row.id.encode(), digest_size=DIGEST_BYTES).digest()
        repeated = digest in seen and row.refusal is None
        seen.add(digest)
        yield _refused(row, Refusal(DUPLICATE_ID, f"an earlier row already has the id {row.id}")) if repeated else row


def _refused(row: SourceRow, refusal: Refusal) -> SourceRow:
    kept = (row.source, row.row, row.id, row.family, row.category, row.image, row.text, row.attributes, row.facts)
    return SourceRow(*kept, refusal)


def _source_row(
    raw: RawRow, description: CatalogDescription, facts: Sequence[str], max_cell_characters: int
) -> SourceRow:
    columns, refusal = description.columns, raw.problem or _too_long(raw.cells, max_cell_characters)
    cells = raw.cells if refusal is None else _shortened(raw.cells)
    attributes = {text.column: " ".join(cells.get(text.column, "").split()) for text in columns.text}
    text = join_text([(text.label, attributes[text.column]) for text in columns.text])
    identity, image = cells.get(columns.id, ""), cells.get(columns.image, "").strip()
    return SourceRow(
        source=raw.source,
        row=raw.row,
        id=identity,
        family=_cell(cells, columns.family),
        category=_cell(cells, columns.category),
        image=image,
        text=text,
        attributes=json.dumps(attributes, ensure_ascii=False),
        facts=json.dumps({name: cells.get(name, "") for name in facts}, ensure_ascii=False),
        refusal=refusal or _incomplete(identity, image, text, columns.image),
    )


def _cell(cells: Mapping[str, str], column: str | None) -> str | None:
    """The value of an optional column; None where it is empty or not named."""
    return None if column is None else cells.get(column) or None


def _too_long(cells: Mapping[str, str], limit: int) -> Refusal | None:
    for column, value in cells.items():
        if len(value) > limit:
            return Refusal(
                CELL_TOO_LONG,
                f"the column {column} has {len(value)} characters, more than ingest.max_cell_characters {limit}; "
                "shorten it or raise the limit",
            )
    return None


def _shortened(cells: Mapping[str, str]) -> Mapping[str, str]:
    """What is kept of a refused row: enough to recognise it."""
    return {column: value[:SHOWN_CHARACTERS] for column, value in cells.items()}


def _incomplete(identity: str, image: str, text: str, image_column: str) -> Refusal | None:
    if not identity.strip():
        return Refusal(EMPTY_ID, "the row has no id")
    if not image:
        return Refusal(NO_IMAGE_NAME, f"the column {image_column} is empty")
    if not text:
        return Refusal(NO_TEXT, "every text column is empty")
    return None
