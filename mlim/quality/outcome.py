"""What validation leaves behind: the index of accepted items and the quarantine of rejected ones, written in chunks."""

import io
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA
from mlim.pictures.decoding import encode_thumbnail
from mlim.quality.measures import METADATA, Chunk, Measures, read_chunk, shard_places

STAGE = "validate"
ACCEPTED = 0
SHOWN_CHARACTERS = 80
UNPRINTABLE = r"[\s\x00-\x1f\x7f]+"
# columns whose values repeat; a dictionary of the others would only cost time
REPETITIVE = ["family", "category", "facts", "shard", "source", "stage", "reason"]
INDEX_SCHEMA: Any = pa.schema(
    [*(ITEM_SCHEMA.field(name) for name in METADATA), pa.field("shard", pa.string()), pa.field("position", pa.int64())]
)


class Rule(Protocol):
    """What rejects a row: a stable code, words for a person, and the column whose value explains it."""

    @property
    def code(self) -> str:
        """The reason in quarantine."""

    @property
    def problem(self) -> str:
        """What is wrong."""

    @property
    def advice(self) -> str:
        """What to do."""

    @property
    def shows(self) -> str | None:
        """The column of the item or of its measures that is quoted."""


@dataclass(frozen=True)
class Verdict:
    """`rejected` (items,): 0 where an item is accepted, else the number, from 1, of the first rule that rejects it."""

    rejected: NDArray[np.int16]
    rules: Sequence[Rule]

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which items are accepted, (items,)."""
        accepted: NDArray[np.bool_] = self.rejected == ACCEPTED
        return accepted

    def counts(self) -> dict[str, int]:
        """Refused items by the rule's code, in alphabetical order."""
        numbers = np.bincount(self.rejected, minlength=len(self.rules) + 1)[1:].tolist()
        codes = sorted({rule.code for rule in self.rules})
        found = {c: sum(n for n, rule in zip(numbers, self.rules, strict=True) if rule.code == c) for c in codes}
        return {code: count for code, count in found.items() if count}


@dataclass(frozen=True)
class Outcome:
    """Where the results go: `index` is None when nothing may be accepted; `thumbnails` bounds the small pictures."""

    items: Path
    quarantine: Path
    index: Path | None
    thumbnails: int


def write_outcome(outcome: Outcome, chunks: Sequence[Chunk], measures: Measures, verdict: Verdict) -> None:
    """Write quarantine and index, a chunk in memory at a time; rows keep the order of the items."""
    left = outcome.thumbnails
    with ExitStack() as stack:
        quarantine = stack.enter_context(_writer(outcome.quarantine, QUARANTINE_SCHEMA))
        index = stack.enter_context(_writer(outcome.index, INDEX_SCHEMA)) if outcome.index else None
        for chunk in chunks:
            rejected = verdict.rejected[chunk.places]
            if index is not None:
                index.write_table(_accepted(outcome.items, chunk, rejected == ACCEPTED))
            if rejected.any():
                allowed = replace(outcome, thumbnails=left)
                quarantine.write_table(_set_aside(allowed, chunk, measures, verdict))
                left = max(0, left - int((rejected != ACCEPTED).sum()))


def _writer(path: Path, schema: Any) -> Any:
    return pq.ParquetWriter(path, schema, use_dictionary=[name for name in REPETITIVE if name in schema.names])


def _accepted(items: Path, chunk: Chunk, accepted: NDArray[np.bool_]) -> Any:
    shards, positions = shard_places(chunk)
    table = read_chunk(items, chunk).append_column("shard", shards).append_column("position", pa.array(positions))
    return (table if accepted.all() else table.filter(pa.array(accepted))).cast(INDEX_SCHEMA)


def _set_aside(outcome: Outcome, chunk: Chunk, measures: Measures, verdict: Verdict) -> Any:
    """The rejected rows of a chunk as lines of the quarantine."""
    numbers = verdict.rejected[chunk.places]
    rows = np.flatnonzero(numbers)
    table = read_chunk(outcome.items, chunk).take(pa.array(rows))
    measured = {name: values[chunk.places][rows] for name, values in measures.columns.items()}
    codes = pa.array([rule.code for rule in verdict.rules], pa.string())
    columns = {
        "source": pa.array(measures.sources, pa.string()).take(pa.array(measured["source"])),
        "row": pa.array(measured["row"]),
        "id": table["id"],
        "stage": pa.repeat(STAGE, len(rows)),
        "reason": codes.take(pa.array(numbers[rows] - 1)),
        "detail": _details(table, measured, verdict.rules, numbers[rows] - 1),
        "thumbnail": _thumbnails(outcome, chunk, rows),
    }
    return pa.table(columns).cast(QUARANTINE_SCHEMA)


def _details(table: Any, measured: dict[str, Any], rules: Sequence[Rule], numbers: NDArray[np.int16]) -> Any:
    """One sentence for each row: what is wrong, the value that shows it, what to do."""
    details = np.empty(len(numbers), dtype=object)
    for number in np.unique(numbers).tolist():
        rule, rows = rules[number], np.flatnonzero(numbers == number)
        values = _quoted(table, measured, rule.shows, rows)
        said = pc.binary_join_element_wise(f"{rule.problem} ({rule.shows}: ", values, f"); {rule.advice}", "")
        details[rows] = said.to_numpy(zero_copy_only=False)
    return pa.array(details, pa.string())


def _quoted(table: Any, measured: dict[str, Any], column: str | None, rows: NDArray[np.int64]) -> Any:
    """The values of a column as short printable text, null as `null`."""
    if column not in table.column_names:
        values = measured[column][rows] if column in measured else np.zeros(len(rows), dtype=bool)
        return pa.array(values).cast(pa.string())
    found = table[column].take(pa.array(rows)).combine_chunks()
    if not pa.types.is_string(found.type):
        return pc.fill_null(found.cast(pa.string()), "null")
    plain = pc.replace_substring_regex(pc.utf8_slice_codeunits(found, 0, SHOWN_CHARACTERS), UNPRINTABLE, " ")
    more = pc.if_else(pc.greater(pc.utf8_length(found), SHOWN_CHARACTERS), '..."', '"')
    return pc.fill_null(pc.binary_join_element_wise('"', plain, more, ""), "null")


def _thumbnails(outcome: Outcome, chunk: Chunk, rows: NDArray[np.int64]) -> Any:
    """A small picture for the first rows, null for those beyond `outcome.thumbnails`."""
    first = rows[: outcome.thumbnails]
    pictures = read_chunk(outcome.items, chunk, ("image", "image_width", "image_height")).take(pa.array(first))
    made = [_thumbnail(row["image"], row["image_width"], row["image_height"]) for row in pictures.to_pylist()]
    return pa.array([*made, *[None] * (len(rows) - len(first))], pa.binary())


def _thumbnail(data: bytes | None, width: int | None, height: int | None) -> bytes | None:
    try:
        with Image.open(io.BytesIO(data or b""), formats=["JPEG"]) as picture:
            return encode_thumbnail(picture, max(width or 0, 1), max(height or 0, 1))
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken bytes
        return None
