"""What validation leaves behind: the index of accepted items and the quarantine of rejected ones, written in chunks."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from mlim.catalog.item import ITEM_SCHEMA, QUARANTINE_SCHEMA
from mlim.pictures.decoding import encode_thumbnail
from mlim.quality.chunks import METADATA, Chunk, shard_places
from mlim.quality.measures import Measures
from mlim.shards.belonging import schema_for

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
    """`accepted` (items,): which items are; `rejected` (rules,): how many items each rule was the first to reject."""

    accepted: NDArray[np.bool_]
    rejected: NDArray[np.int64]
    rules: Sequence[Rule]

    @classmethod
    def of(cls, items: int, rules: Sequence[Rule]) -> Self:
        """The verdict about so many items, to be filled."""
        return cls(np.zeros(items, dtype=bool), np.zeros(len(rules), dtype=np.int64), rules)

    def add(self, places: slice, numbers: NDArray[np.integer]) -> None:
        """Add a chunk: 0 where an item is accepted, else the number, from 1, of the first rule that rejects it."""
        self.accepted[places] = numbers == ACCEPTED
        self.rejected[:] += np.bincount(numbers, minlength=len(self.rules) + 1)[1:]

    def counts(self) -> dict[str, int]:
        """Refused items by the rule's code, in alphabetical order."""
        found = Counter[str]()
        for rule, count in zip(self.rules, self.rejected.tolist(), strict=True):
            found[rule.code] += count
        return {code: count for code, count in sorted(found.items()) if count}


@dataclass(frozen=True)
class ChunkOutcome:
    """The items of a chunk: the rows that the index takes, and those set aside.

    `rows` (rows set aside,) are the places of the latter in the chunk, `numbers` the numbers, from 0, of the rules that
    reject them, and `measures` theirs; `shards` is the chunk, mapped, from which pictures can be taken.
    """

    accepted: Any
    aside: Any
    rows: NDArray[np.int64]
    numbers: NDArray[np.int64]
    measures: Measures
    shards: Any


def split_chunk(table: Any, chunk: Chunk, measures: Measures, numbers: NDArray[np.integer]) -> ChunkOutcome:
    """Divide a chunk; `numbers` (items,) is 0 where an item is accepted, else the number, from 1, of a rule."""
    names, positions = shard_places(chunk)
    items = table.select(METADATA)
    index = items.append_column("shard", names).append_column("position", pa.array(positions)).cast(INDEX_SCHEMA)
    rows = np.flatnonzero(numbers)
    return ChunkOutcome(
        accepted=index.filter(pa.array(numbers == ACCEPTED)) if len(rows) else index,
        aside=items.filter(pa.array(numbers != ACCEPTED)) if len(rows) else items.slice(0, 0),
        rows=rows,
        numbers=numbers[rows].astype(np.int64) - 1,
        measures=measures.at(rows),
        shards=table,
    )


class OutcomeWriter:
    """Writes the index of accepted items and the quarantine, chunk after chunk; rows keep the order of the items."""

    def __init__(self, index: Path, quarantine: Path, rules: Sequence[Rule], thumbnails: int, version: str) -> None:
        """`thumbnails` bounds the small pictures in the quarantine; `version` is the data version."""
        self._index = _writer(index, schema_for(INDEX_SCHEMA, version))
        self._quarantine = _writer(quarantine, QUARANTINE_SCHEMA)
        self._rules, self._left = rules, thumbnails

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._index.close()
        self._quarantine.close()

    def add(self, outcome: ChunkOutcome) -> None:
        """Append a chunk."""
        self._index.write_table(outcome.accepted)
        if len(outcome.numbers):
            self._quarantine.write_table(_set_aside(outcome, self._rules, self._left))
            self._left = max(0, self._left - len(outcome.numbers))


def _writer(path: Path, schema: Any) -> Any:
    return pq.ParquetWriter(path, schema, use_dictionary=[name for name in REPETITIVE if name in schema.names])


def _set_aside(outcome: ChunkOutcome, rules: Sequence[Rule], thumbnails: int) -> Any:
    """The rejected rows of a chunk as lines of the quarantine."""
    measured, codes = outcome.measures, pa.array([rule.code for rule in rules], pa.string())
    columns = {
        "source": pa.array(measured.sources, pa.string()).take(pa.array(measured.columns["source"])),
        "row": pa.array(measured.columns["row"]),
        "id": outcome.aside["id"],
        "stage": pa.repeat(STAGE, len(outcome.numbers)),
        "reason": codes.take(pa.array(outcome.numbers)),
        "detail": _details(outcome, rules),
        "thumbnail": _thumbnails(outcome, thumbnails),
    }
    return pa.table(columns).cast(QUARANTINE_SCHEMA)


def _details(outcome: ChunkOutcome, rules: Sequence[Rule]) -> Any:
    """One sentence for each row: what is wrong, the value that shows it, what to do."""
    details = np.empty(len(outcome.numbers), dtype=object)
    for number in np.unique(outcome.numbers).tolist():
        rule, rows = rules[number], np.flatnonzero(outcome.numbers == number)
        values = _quoted(outcome.aside, outcome.measures.columns, rule.shows, rows)
        said = pc.binary_join_element_wise(f"{rule.problem} ({rule.shows}: ", values, f"); {rule.advice}", "")
        details[rows] = said.to_numpy(zero_copy_only=False)
    return pa.array(details, pa.string())


def _quoted(table: Any, measured: Mapping[str, Any], column: str | None, rows: NDArray[np.int64]) -> Any:
    """The values of a column as short printable text, null as `null`."""
    if column is None or column not in table.column_names:
        values = measured[column][rows] if column and column in measured else np.zeros(len(rows), dtype=bool)
        return pa.array(values).cast(pa.string())
    found = table[column].take(pa.array(rows)).combine_chunks()
    if not pa.types.is_string(found.type):
        return pc.fill_null(found.cast(pa.string()), "null")
    plain = pc.replace_substring_regex(pc.utf8_slice_codeunits(found, 0, SHOWN_CHARACTERS), UNPRINTABLE, " ")
    more = pc.if_else(pc.greater(pc.utf8_length(found), SHOWN_CHARACTERS), '..."', '"')
    return pc.fill_null(pc.binary_join_element_wise('"', plain, more, ""), "null")


def _thumbnails(outcome: ChunkOutcome, count: int) -> Any:
    """A small picture for the first rows, null for those beyond `count`."""
    wanted = np.zeros(len(outcome.shards), dtype=bool)
    wanted[outcome.rows[:count]] = True
    pictures = outcome.shards.select(["image", "image_width", "image_height"]).filter(pa.array(wanted))
    made = [_thumbnail(row["image"], row["image_width"], row["image_height"]) for row in pictures.to_pylist()]
    return pa.array([*made, *[None] * (len(outcome.rows) - len(made))], pa.binary())


def _thumbnail(data: bytes | None, width: int | None, height: int | None) -> bytes | None:
    try:
        with Image.open(io.BytesIO(data or b""), formats=["JPEG"]) as picture:
            return encode_thumbnail(picture, max(width or 0, 1), max(height or 0, 1))
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for broken bytes
        return None
