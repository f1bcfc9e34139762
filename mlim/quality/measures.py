"""What validation looks at, as a few numbers per item: compact columns that fit into memory for millions of items.

The shards are read through memory maps, some at a time, with Arrow's and numpy's kernels: no Python per row, and the
pictures' bytes are not touched. How often a value is used is counted over 64-bit hashes of the values (pandas'
SipHash); among 6 million values, the chance that any two differ with equal hashes is one in a million.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.catalog.item import ALL_PICTURES_SCHEMA, ITEM_SCHEMA, ROW_LOG_SCHEMA
from mlim.catalog.row_log import iterate_row_log
from mlim.errors import InputError
from mlim.shards.shard import ShardEntry, read_shard

READABLE = r"[\pL\pN]"  # a letter or digit of any script
# blanks of any alphabet and what is never seen at the ends (no-break, zero-width, ...); control characters anywhere
UNTIDY = r"^[\pZ\p{Cf}\p{Cc}]|[\pZ\p{Cf}\p{Cc}]$|[\p{Cc}\p{Zl}\p{Zp}\x{200b}\x{2060}\x{feff}]"
SHA256 = "^[0-9a-f]{64}$"
PERCEPTUAL = "^[0-9a-f]{16}$"
METADATA = tuple(name for name in ITEM_SCHEMA.names if name != "image")
ROW_LOG_COLUMNS = tuple(ROW_LOG_SCHEMA.names)

Column = NDArray[Any]


@dataclass(frozen=True)
class Chunk:
    """Some shards in a row and the places of their items: from `start` up to, not including, `stop`."""

    entries: Sequence[ShardEntry]
    start: int
    stop: int

    @property
    def places(self) -> slice:
        """The places of the chunk's items among all items."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Measures:
    """One value per item and column, in the order of the manifest (`columns`; all (items,)).

    `categories` are the names behind the codes of the column category, `sources` those behind source; `row_log_items`
    is how many lines of the row log name an item.
    """

    columns: Mapping[str, Column]
    categories: Sequence[str | None]
    sources: Sequence[str | None]
    row_log_items: int

    def __len__(self) -> int:
        return len(self.columns["row"])


def chunks_of(entries: Sequence[ShardEntry], rows: int) -> Iterator[Chunk]:
    """Consecutive shards in chunks of about `rows` items; a larger shard is a chunk of its own."""
    ends = [0, *accumulate(entry.items for entry in entries)]
    first = 0
    for last, (start, stop) in enumerate(pairwise(ends)):
        if start > ends[first] and stop - ends[first] > rows:
            yield Chunk(entries[first:last], ends[first], start)
            first = last
    if entries:
        yield Chunk(entries[first:], ends[first], ends[-1])


def read_chunk(folder: Path, chunk: Chunk, columns: Sequence[str] = METADATA) -> Any:
    """Columns of a chunk as one table over memory maps; `InputError` when the shards have other columns."""
    tables = [read_shard(folder / entry.file) for entry in chunk.entries]
    for entry, table in zip(chunk.entries, tables, strict=True):
        if table.schema.names not in (ITEM_SCHEMA.names, ALL_PICTURES_SCHEMA.names):
            raise InputError(f"{folder / entry.file}: has other columns than this version writes; run `mlim ingest`")
    return pa.concat_tables([table.select(list(columns)) for table in tables])


def measure_items(folder: Path, chunks: Sequence[Chunk]) -> Measures:
    """Measure every item of a folder of shards; `InputError` when shards or row log cannot be read."""
    lines, categories, sources = _Lines(folder), _Names(), _Names()
    parts: dict[str, list[Column]] = {}
    for chunk in chunks:
        table, known = read_chunk(folder, chunk), lines.take(chunk.stop - chunk.start)
        measured = {
            **_measure(table),
            "category": categories.codes(table["category"]),
            "in_row_log": _agreement(table, known, chunk),
            "source": _padded(sources.codes(known["source"]), len(table)),
            "row": _padded(known["row"].to_numpy(), len(table)),
        }
        for name, values in measured.items():
            parts.setdefault(name, []).append(values)
    columns = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    return Measures(_with_uses(columns), categories.names, sources.names, lines.given + lines.count_rest())


def shard_places(chunk: Chunk) -> tuple[Any, Column]:
    """The shard's name and the position in it of every item of a chunk."""
    names = pa.array([entry.file for entry in chunk.entries], pa.string())
    sizes = [entry.items for entry in chunk.entries]
    positions = [np.arange(size, dtype=np.int64) for size in sizes]
    return names.take(pa.array(np.repeat(np.arange(len(sizes)), sizes))), np.concatenate(positions)


def sample_places(candidates: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the candidates, ascending; the same ones for the same seed."""
    if len(candidates) <= count:
        return candidates
    return np.sort(np.random.default_rng(seed).choice(candidates, count, replace=False, shuffle=False))


def read_values(folder: Path, chunks: Sequence[Chunk], places: NDArray[np.int64], column: str) -> list[Any]:
    """The values of one column at some places (ascending), in their order."""
    values: list[Any] = []
    for chunk in chunks:
        wanted = places[(places >= chunk.start) & (places < chunk.stop)] - chunk.start
        if len(wanted):
            values += read_chunk(folder, chunk, [column])[column].take(pa.array(wanted)).to_pylist()
    return values


def _measure(table: Any) -> dict[str, Column]:
    identifier, text, family = table["id"], table["text"], table["family"]
    named = pc.and_kleene(_matches(table["image_sha256"], SHA256), _matches(table["image_hash"], PERCEPTUAL))
    has_family = _flags(pc.is_valid(family))
    width, height = _numbers(table["image_width"], np.int32), _numbers(table["image_height"], np.int32)
    sides = np.maximum(np.stack([width, height]), 1)
    return {
        "id_hash": _hashes(identifier),
        "id_characters": _numbers(pc.utf8_length(identifier), np.int32),
        "id_tidy": _flags(pc.invert(_matches(identifier, UNTIDY))),
        "text_hash": _hashes(text),
        "text_characters": _numbers(pc.utf8_length(text), np.int32),
        "text_readable": _flags(_matches(text, READABLE)),
        "picture_hash": _hashes(table["image_sha256"]),
        "picture_named": _flags(named),
        "image_width": width,
        "image_height": height,
        "aspect_ratio": (sides.max(axis=0) / sides.min(axis=0)).astype(np.float32),
        "image_brightness": _numbers(table["image_brightness"], np.float32),
        "image_contrast": _numbers(table["image_contrast"], np.float32),
        "family_hash": _hashes(family),
        "has_family": has_family,
        "family_named": ~has_family | (_numbers(pc.utf8_length(pc.utf8_trim_whitespace(family)), np.int32) > 0),
    }


def _with_uses(columns: dict[str, Column]) -> dict[str, Column]:
    """The columns with counts of equal values in place of hashes; drops each hash as soon as it is counted."""
    columns["picture_families"] = _families_of(columns["picture_hash"], columns["family_hash"], columns["has_family"])
    for name in ("id", "text", "picture", "family"):
        columns[f"{name}_uses"] = _uses(columns.pop(f"{name}_hash"))
    columns["family_uses"] *= columns["has_family"]
    return columns


def _families_of(pictures: Column, families: Column, has_family: Column) -> Column:
    """How many different families have each item's picture."""
    codes, distinct = pd.factorize(pictures)
    family = pd.factorize(families)[0]
    known = pd.unique((codes * (family.max(initial=0) + 1) + family)[has_family])
    return np.bincount(known // (family.max(initial=0) + 1), minlength=len(distinct)).astype(np.int32)[codes]


def _uses(values: Column) -> Column:
    codes, distinct = pd.factorize(values)
    return np.bincount(codes, minlength=len(distinct)).astype(np.int32)[codes]


def _hashes(column: Any) -> Column:
    return pd.util.hash_array(column.to_numpy(), categorize=False)


def _matches(column: Any, pattern: str) -> Any:
    return pc.match_substring_regex(column, pattern)


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


class _Names:
    """Numbers names in the order they come."""

    def __init__(self) -> None:
        self.names: list[str | None] = []
        self._numbers: dict[str | None, int] = {}

    def codes(self, column: Any) -> Column:
        """The number of each value."""
        encoded = pc.dictionary_encode(column, null_encoding="encode").combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], encoded.type)
        numbers = [self._number(name) for name in encoded.dictionary.to_pylist()]
        return np.array(numbers, dtype=np.int32)[encoded.indices.to_numpy()] if numbers else np.empty(0, np.int32)

    def _number(self, name: str | None) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]


class _Lines:
    """The row log's lines of items, some at a time."""

    def __init__(self, folder: Path) -> None:
        self._batches = iterate_row_log(folder, ROW_LOG_COLUMNS)
        self._waiting = ROW_LOG_SCHEMA.empty_table().select(ROW_LOG_COLUMNS)
        self.given = 0

    def take(self, count: int) -> Any:
        """The next `count` lines as a table; fewer when there are no more."""
        tables, have = [self._waiting] if len(self._waiting) else [], len(self._waiting)
        for batch in self._batches if have < count else ():
            tables.append(_item_lines(batch))
            have += len(tables[-1])
            if have >= count:
                break
        lines = pa.concat_tables(tables) if tables else self._waiting
        self._waiting, taken = lines.slice(count), lines.slice(0, count)
        self.given += len(taken)
        return taken

    def count_rest(self) -> int:
        """How many lines of items were not taken."""
        return len(self._waiting) + sum(len(_item_lines(batch)) for batch in self._batches)


def _item_lines(batch: Any) -> Any:
    return pa.Table.from_batches([batch.filter(pc.is_null(batch["reason"]))])
