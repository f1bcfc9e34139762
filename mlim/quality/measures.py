"""What validation looks at, as a few numbers per item, for some shards at a time.

The shards are read through memory maps with Arrow's and numpy's kernels: no Python per row, and the pictures' bytes are
not touched. The kernels leave the interpreter lock, so that threads measure several chunks at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.catalog.item import ROW_LOG_SCHEMA
from mlim.catalog.row_log import iterate_row_log
from mlim.quality.chunks import Chunk, shard_places

READABLE = r"[\pL\pN]"  # a letter or digit of any script
# blanks of any alphabet and what is never seen at the ends (no-break, zero-width, ...); control characters anywhere
UNTIDY = r"^[\pZ\p{Cf}\p{Cc}]|[\pZ\p{Cf}\p{Cc}]$|[\p{Cc}\p{Zl}\p{Zp}\x{200b}\x{2060}\x{feff}]"
SHA256, PERCEPTUAL = 64, 16  # hexadecimal digits
ROW_LOG_COLUMNS = tuple(ROW_LOG_SCHEMA.names)

Column = NDArray[Any]


@dataclass(frozen=True)
class Measures:
    """One value per item of a chunk and column (`columns`; all (items,)).

    `categories` are the names behind the codes of the column category, `sources` those behind source.
    """

    columns: Mapping[str, Column]
    categories: Sequence[str | None]
    sources: Sequence[str | None]

    def at(self, rows: NDArray[np.int64]) -> "Measures":
        """The measures of some rows of the chunk."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Measures(columns, self.categories, self.sources)


def measure(table: Any, chunk: Chunk, lines: "Lines", uses: Mapping[str, Column]) -> Measures:
    """Measure the items of a chunk: its `table`, what the row log says of it, and how often its values are used."""
    categories, category = _encoded(table["category"])
    sources, source = _encoded(lines.table["source"])
    rows = len(table)
    columns = {
        **_measured(table),
        **{name: values[chunk.places] for name, values in uses.items()},
        "category": category,
        "in_row_log": _agreement(table, lines.table, chunk),
        "source": _padded(source + 1, rows),
        "row": _padded(lines.table["row"].to_numpy(), rows),
    }
    return Measures(columns, categories, [lines.first_source, *sources])  # the first: of lines that are missing


def _measured(table: Any) -> dict[str, Column]:
    identifier, text, family = table["id"], table["text"], table["family"]
    width, height = _numbers(table["image_width"], np.int32), _numbers(table["image_height"], np.int32)
    sides = np.maximum(np.stack([width, height]), 1)
    has_family = given(family)
    return {
        "id_characters": _numbers(pc.utf8_length(identifier), np.int32),
        "id_tidy": given(identifier) & ~_matches(identifier, UNTIDY),
        "text_characters": _numbers(pc.utf8_length(text), np.int32),
        "text_readable": _matches(text, READABLE),
        "picture_named": _hexadecimal(table["image_sha256"], SHA256) & _hexadecimal(table["image_hash"], PERCEPTUAL),
        "image_width": width,
        "image_height": height,
        "aspect_ratio": (sides.max(axis=0) / sides.min(axis=0)).astype(np.float32),
        "image_brightness": _numbers(table["image_brightness"], np.float32),
        "image_contrast": _numbers(table["image_contrast"], np.float32),
        "has_family": has_family,
        "family_named": ~has_family | (_numbers(pc.utf8_length(pc.utf8_trim_whitespace(family)), np.int32) > 0),
    }


def given(column: Any) -> Column:
    """Where a column has a value."""
    return _flags(pc.is_valid(column))


def _matches(column: Any, pattern: str) -> Column:
    return _flags(pc.match_substring_regex(column, pattern))


def _hexadecimal(column: Any, digits: int) -> Column:
    """Which values are so many small hexadecimal digits: all, mostly, which the bytes of all values tell at once."""
    lengths = pc.min_max(pc.binary_length(column)).as_py()
    even = lengths == {"min": digits, "max": digits} and not column.null_count
    if even and all(_all_hexadecimal(part, digits) for part in column.chunks):
        return np.ones(len(column), dtype=bool)
    return _matches(column, f"^[0-9a-f]{{{digits}}}$")


def _all_hexadecimal(values: Any, digits: int) -> bool:
    """Whether an Arrow array of texts, each of so many bytes, holds nothing but small hexadecimal digits."""
    if not len(values):
        return True
    start = np.frombuffer(values.buffers()[1], np.int32)[values.offset]
    data = np.frombuffer(values.buffers()[2], np.uint8)[start : start + len(values) * digits]
    decimal, letter = data - ord("0") < 10, data - ord("a") < 6  # what lies below wraps around, beyond both
    return bool((decimal | letter).all())


def _flags(column: Any) -> Column:
    """A column of true and false; null is false."""
    values: Column = pc.fill_null(column, False).to_numpy()
    return values.astype(bool)


def _numbers(column: Any, kind: type[np.generic]) -> Column:
    """A column of numbers; null is 0."""
    values: Column = pc.fill_null(column, pa.scalar(0, column.type)).to_numpy()
    return values.astype(kind)


def _agreement(table: Any, known: Any, chunk: Chunk) -> Column:
    """Whether the row log names each item at its place in its shard."""
    count = len(known)
    names, positions = shard_places(chunk)
    same = pc.and_kleene(
        pc.equal(known["id"], table["id"].slice(0, count)), pc.equal(known["shard"], pa.chunked_array([names[:count]]))
    )
    return _padded(_flags(same) & (known["position"].to_numpy() == positions[:count]), len(table))


def _padded(values: Column, count: int) -> Column:
    """The values, then zeros up to `count`: items that the row log does not have."""
    return np.concatenate([values, np.zeros(count - len(values), dtype=values.dtype)])


def _encoded(column: Any) -> tuple[list[str | None], Column]:
    """The different values of a column, and for each row the number of its value."""
    encoded = pc.dictionary_encode(column.cast(pa.string()), null_encoding="encode")
    if not encoded.num_chunks:
        return [], np.zeros(0, dtype=np.int32)
    codes = np.concatenate([part.indices.to_numpy() for part in encoded.chunks])
    return encoded.chunk(0).dictionary.to_pylist(), codes


@dataclass(frozen=True)
class Lines:
    """Lines of the row log that name items; `first_source` is the first line's, null when there is none."""

    table: Any
    first_source: str | None


class RowLog:
    """The row log's lines of items, some at a time."""

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the items."""
        self._batches = iterate_row_log(folder, ROW_LOG_COLUMNS)
        self._waiting: list[Any] = []
        self._first_source: str | None = None
        self.given = 0

    def take(self, count: int) -> Lines:
        """The next `count` lines; fewer when there are no more."""
        tables, have = self._waiting, sum(map(len, self._waiting))
        for batch in self._batches if have < count else ():
            tables.append(_item_lines(batch))
            have += len(tables[-1])
            if have >= count:
                break
        lines = pa.concat_tables(tables) if tables else ROW_LOG_SCHEMA.empty_table().select(ROW_LOG_COLUMNS)
        self._waiting, taken = [lines.slice(count)] if have > count else [], lines.slice(0, count)
        if self._first_source is None and len(taken):
            self._first_source = taken["source"][0].as_py()
        self.given += len(taken)
        return Lines(taken, self._first_source)

    def count_rest(self) -> int:
        """How many lines of items were not taken."""
        return sum(map(len, self._waiting)) + sum(len(_item_lines(batch)) for batch in self._batches)


def _item_lines(batch: Any) -> Any:
    no_item = batch["reason"].null_count < len(batch)
    return pa.Table.from_batches([batch.filter(pc.is_null(batch["reason"])) if no_item else batch])
