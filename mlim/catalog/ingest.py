"""A described table and its pictures -> shards of items; every row ends as an item or in quarantine, with a reason."""

import json
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from mlim.catalog.description import CatalogDescription
from mlim.catalog.images import ImageRules, Picture, Refusal, prepare_picture, thumbnail
from mlim.catalog.item import QUARANTINE_SCHEMA, join_text
from mlim.catalog.quarantine import QUARANTINE_FILE, Quarantined, QuarantineWriter, describe_reasons
from mlim.catalog.rows import RowWriter
from mlim.catalog.shards import ShardWriter
from mlim.catalog.table import column_names, read_table
from mlim.config import nearest
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.recipe import Recipe

EMPTY_ID = "empty-id"
DUPLICATE_ID = "duplicate-id"
NO_IMAGE_NAME = "no-image-name"
NO_TEXT = "no-text"

ROWS_PER_CHUNK = 64  # rows that a decoding process gets at once
CHUNKS_AHEAD = 4  # chunks in flight per process: keeps all busy, and memory flat
FEWEST_FAMILIES = 2

Outcome = tuple[Picture | Refusal, bytes | None]
Job = tuple[str, Refusal | None]


@dataclass(frozen=True)
class SourceRow:
    """One row of the source, before its picture is opened; `refusal` when it is already known to be bad."""

    number: int
    id: str
    family: str | None
    image: str
    text: str
    attributes: str
    facts: str
    refusal: Refusal | None

    def job(self) -> Job:
        """What a decoding process needs."""
        return self.image, self.refusal


def read_source(description: CatalogDescription, where: str) -> pd.DataFrame:
    """The columns that the description needs, as text; `InputError` led by `where` when the source is unusable."""
    table, images = description.table, description.images
    if table is None or images is None:
        raise InputError(f"{where}: names no table and images folder to read")
    if not images.is_dir():
        raise InputError(f"{where}: the images folder {images} does not exist; check `images`")
    _check_columns(table, description.needed_columns, where)
    frame = read_table(table, description.needed_columns)
    _check_families(frame, description, where)
    return frame


def ingest_items(
    frame: pd.DataFrame, description: CatalogDescription, recipe: Recipe, folder: Path, terminal: Terminal
) -> dict[str, Any]:
    """Write shards, manifest and quarantine of every row into `folder`; returns the ledger and the data version.

    The bytes depend on the rows, the pictures and the recipe only, never on the number of processes.
    """
    rules = image_rules(description, recipe)
    rows = source_rows(frame, description)
    with (
        ShardWriter(folder, recipe.ingest.rows_per_shard) as shards,
        RowWriter(folder / QUARANTINE_FILE, QUARANTINE_SCHEMA) as refused,
        terminal.progress("ingest", total=len(frame)) as bar,
    ):
        quarantine = QuarantineWriter(refused)
        for row, outcome in decode_rows(rows, rules, _workers(len(frame), recipe)):
            _record(row, outcome, shards, quarantine)
            bar.advance()
        version = shards.finish()
    return check_ledger(
        {
            "rows_in": len(frame),
            "ingested": shards.rows,
            "quarantined": quarantine.counts,
            "data_version": version,
        }
    )


def check_ledger(ledger: dict[str, Any]) -> dict[str, Any]:
    """The ledger itself when every row is accounted for; `MlimError` otherwise (a fault of this program)."""
    bad = sum(ledger["quarantined"].values())
    if ledger["rows_in"] != ledger["ingested"] + bad:
        raise MlimError(
            f"{ledger['rows_in']} rows came in but {ledger['ingested']} were ingested and {bad} quarantined; "
            "nothing was written: please report this"
        )
    return ledger


def check_share(ledger: Mapping[str, Any], limit: float, kept: Path) -> None:
    """`DataError` when no row is good or more than `limit` of them are bad; `kept` is the quarantine to look into."""
    bad, total = sum(ledger["quarantined"].values()), ledger["rows_in"]
    if ledger["ingested"] and bad <= limit * total:
        return
    raise DataError(
        f"{bad} of {total} rows ({bad / total:.1%}) were quarantined, more than ingest.max_quarantined_share "
        f"({limit:.1%}): {describe_reasons(ledger['quarantined'])}; every row and its reason is in {kept}. "
        "Mend the source, or raise the limit with --set ingest.max_quarantined_share=SHARE"
    )


def image_rules(description: CatalogDescription, recipe: Recipe) -> ImageRules:
    """What the recipe allows and wants of the pictures in the description's folder."""
    return ImageRules(
        folder=description.images or Path(),
        formats=recipe.ingest.formats,
        max_megapixels=recipe.ingest.max_megapixels,
        size=recipe.image.size,
        quality=recipe.image.jpeg_quality,
    )


def source_rows(frame: pd.DataFrame, description: CatalogDescription) -> Iterator[SourceRow]:
    """The rows in order, each with the refusal that its cells alone call for."""
    seen = set[str]()
    names = list(frame.columns)
    for number, cells in enumerate(zip(*(frame[name] for name in names), strict=True), start=1):
        row = _source_row(number, dict(zip(names, cells, strict=True)), description, seen)
        seen.add(row.id)
        yield row


def decode_rows(rows: Iterable[SourceRow], rules: ImageRules, workers: int) -> Iterator[tuple[SourceRow, Outcome]]:
    """Each row with its picture or refusal, in the order of the rows, decoded by `workers` processes."""
    chunks = _chunked(iter(rows))
    if workers == 1:
        for chunk in chunks:
            yield from zip(chunk, _decode([row.job() for row in chunk], rules), strict=True)
        return
    # spawn: a forked copy of a process that has started threads (torch, arrow) can hang
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from _decode_ahead(pool, chunks, rules, workers * CHUNKS_AHEAD)
    except BrokenProcessPool:
        raise MlimError("a decoding process died (out of memory?); try --set ingest.workers=1") from None


def _chunked(rows: Iterator[SourceRow]) -> Iterator[list[SourceRow]]:
    while chunk := list(islice(rows, ROWS_PER_CHUNK)):
        yield chunk


def _decode_ahead(
    pool: ProcessPoolExecutor, chunks: Iterable[Sequence[SourceRow]], rules: ImageRules, ahead: int
) -> Iterator[tuple[SourceRow, Outcome]]:
    waiting = deque[Any]()
    for chunk in chunks:
        waiting.append((chunk, pool.submit(_decode, [row.job() for row in chunk], rules)))
        if len(waiting) > ahead:
            done, future = waiting.popleft()
            yield from zip(done, future.result(), strict=True)
    for done, future in waiting:
        yield from zip(done, future.result(), strict=True)


def _decode(jobs: Sequence[Job], rules: ImageRules) -> list[Outcome]:
    """Runs in a decoding process. A row that is refused already still gets a thumbnail for the person who mends it."""
    return [
        (prepare_picture(name, rules), None) if refusal is None else (refusal, thumbnail(name, rules))
        for name, refusal in jobs
    ]


def _workers(rows: int, recipe: Recipe) -> int:
    """No more processes than there is work for: starting one costs more than a chunk."""
    return max(1, min(recipe.ingest.workers, rows // ROWS_PER_CHUNK))


def _record(row: SourceRow, outcome: Outcome, shards: ShardWriter, quarantine: QuarantineWriter) -> None:
    result, small = outcome
    if isinstance(result, Refusal):
        quarantine.add(Quarantined(row.number, row.id, "ingest", result.reason, result.detail, small))
        return
    shards.add(
        {
            "id": row.id,
            "family": row.family,
            "text": row.text,
            "attributes": row.attributes,
            "facts": row.facts,
            "image": result.jpeg,
            "image_sha256": result.sha256,
            "image_width": result.width,
            "image_height": result.height,
            "row": row.number,
        }
    )


def _source_row(number: int, cells: Mapping[str, str], description: CatalogDescription, seen: set[str]) -> SourceRow:
    columns = description.columns
    attributes = {text.column: _one_line(cells[text.column]) for text in columns.text}
    text = join_text([(text.label, attributes[text.column]) for text in columns.text])
    identity, image = cells[columns.id], cells[columns.image].strip()
    return SourceRow(
        number=number,
        id=identity,
        family=cells[columns.family] or None if columns.family else None,
        image=image,
        text=text,
        attributes=json.dumps(attributes, ensure_ascii=False),
        facts=json.dumps({name: cells[name] for name in description.fact_columns}, ensure_ascii=False),
        refusal=_screen(identity, image, text, columns.image, seen),
    )


def _screen(identity: str, image: str, text: str, image_column: str, seen: set[str]) -> Refusal | None:
    if not identity.strip():
        return Refusal(EMPTY_ID, "the row has no id")
    if identity in seen:
        return Refusal(DUPLICATE_ID, f"an earlier row already has the id {identity}")
    if not image:
        return Refusal(NO_IMAGE_NAME, f"the column {image_column} is empty")
    if not text:
        return Refusal(NO_TEXT, "every text column is empty")
    return None


def _one_line(value: str) -> str:
    return " ".join(value.split())


def _check_columns(table: Path, needed: Sequence[str], where: str) -> None:
    known = column_names(table)
    problems = [
        f"{where}: {table.name} has no column `{name}`{nearest(name, known)}" for name in needed if name not in known
    ]
    if problems:
        raise InputError(*problems)


def _check_families(frame: pd.DataFrame, description: CatalogDescription, where: str) -> None:
    family = description.columns.family
    if family is None:
        return
    count = frame[family][frame[family] != ""].nunique()
    if count < FEWEST_FAMILIES:
        held = "holds only one family" if count else "is empty in every row"
        raise InputError(
            f"{where}: the family column `{family}` {held}; train and test need different families: "
            "name the column whose value is shared by the variations of one product"
        )
