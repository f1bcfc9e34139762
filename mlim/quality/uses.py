"""How often values are used, for catalogs of any size: 64-bit hashes in files, counted a column and a bucket at a time.

DuckDB hashes the texts where Arrow holds them (pandas makes each a Python object first and takes eight times as long).
Counting needs the hashes of all items at once, so they go through files; what stays is one small number per item. Equal
values have equal first bits: buckets of these are so small that they are counted in the processor's cache. Among 100
million values, the chance that any two differ with equal hashes is one in 4,000.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.quality.chunks import Chunk, in_order, read_chunk, threads_for_chunks
from mlim.quality.measures import given
from mlim.shards.shard import changed_shards, require_intact

HASHED = ("id", "text", "picture", "family")
HASH_COLUMNS = ("id", "text", "image_sha256", "family")
HASH_QUERY = (
    "SELECT hash(id) AS id, hash(text) AS text, hash(image_sha256) AS picture, hash(family) AS family FROM items"
)
MOSTLY_UNIQUE = ("id", "text", "picture")
HASH_BITS = 64
FILTER_BITS = 20
BLOCK = 1 << 18  # items that are split into buckets at a time
BUCKET = 1 << 15  # values, about; a bucket and the table that counts it fit into a core's cache
MAX_BITS = 16  # numpy sorts numbers up to this width by counting

Numbers = NDArray[Any]
Flags = NDArray[np.bool_]
Hashes = NDArray[np.uint64]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Uses:
    """How many items share what an item has, (items,) each, in the smallest type that holds the numbers.

    `columns` are `id_uses`, `text_uses`, `picture_uses`, `family_uses` (0 without a family), and `picture_families`:
    how many families have the item's picture. `families` is how many there are.
    """

    columns: Mapping[str, Numbers]
    has_family: Flags
    families: int


def count_uses(folder: Path, chunks: Sequence[Chunk], spill: Path) -> Uses:
    """Verify the shards of a folder and count what their items share; the hashes wait in an existing folder `spill`.

    `InputError` when shards are not the manifest's or cannot be read.
    """
    counter, changed = UseCounter(spill, chunks[-1].stop), list[str]()
    threads = threads_for_chunks()
    with ThreadPoolExecutor(threads) as pool:
        found = in_order(pool, lambda chunk: _hash_chunk(folder, chunk), chunks, threads)
        for chunk, result in zip(chunks, found, strict=True):
            changed += result.changed
            if not changed:
                counter.add(chunk.places, result.hashes, result.has_family)
        require_intact(folder, changed)
        return counter.count(pool)


@dataclass(frozen=True)
class _HashedChunk:
    """The hashes of a chunk, or the names of its shards that are not the manifest's."""

    changed: Sequence[str]
    hashes: Mapping[str, Hashes]
    has_family: Flags


def _hash_chunk(folder: Path, chunk: Chunk) -> _HashedChunk:
    if changed := changed_shards(folder, chunk.entries):
        return _HashedChunk(changed, {}, np.zeros(0, dtype=bool))
    table = read_chunk(folder, chunk)
    return _HashedChunk((), hash_columns(table), given(table["family"]))


def hash_columns(table: Any) -> dict[str, Hashes]:
    """The hashes of what is counted, (rows,) each; `table` has the columns of a shard."""
    with _engine().cursor() as cursor:
        items = cursor.from_arrow(table.select(HASH_COLUMNS))
        return dict(items.query("items", HASH_QUERY).fetchnumpy())


class UseCounter:
    """Takes the hashes of all items, chunk after chunk, and counts them."""

    def __init__(self, folder: Path, items: int) -> None:
        """The hashes wait in an existing `folder`, 32 bytes for each of the `items`."""
        self._files = {name: folder / f"{name}.hashes" for name in HASHED}
        self._has_family = np.zeros(items, dtype=bool)

    def add(self, places: slice, hashes: Mapping[str, Hashes], has_family: Flags) -> None:
        """The items at the next `places`."""
        self._has_family[places] = has_family
        for name, path in self._files.items():
            with path.open("ab") as file:
                hashes[name].tofile(file)

    def count(self, pool: Executor) -> Uses:
        """Count when every item was added; the threads of `pool` share the work, one column at a time bounds memory."""
        columns = {f"{name}_uses": self._uses(pool, name, self._repeated(name), 1)[0] for name in MOSTLY_UNIQUE}
        columns["family_uses"], families = self._uses(pool, "family", self._has_family, 0)
        columns["picture_families"] = self._picture_families(pool, columns["picture_uses"] > 1)
        return Uses(columns, self._has_family, families)

    def _repeated(self, name: str) -> Flags:
        """Which items may share their value with another one: sorting finds what is repeated much sooner than counting.

        Others are among them by chance, at most one in `1 << FILTER_BITS` for each value that is repeated.
        """
        items = len(self._has_family)
        values = self._read(name, slice(0, items))
        values.sort()
        known = np.zeros(1 << FILTER_BITS, dtype=bool)
        known[_first_bits(values[1:][values[1:] == values[:-1]], FILTER_BITS)] = True
        del values
        parts = [known[_first_bits(self._read(name, part), FILTER_BITS)] for part in _blocks(items)]
        return np.concatenate([np.zeros(0, dtype=bool), *parts])

    def _uses(self, pool: Executor, name: str, among: Flags, others: int) -> tuple[Numbers, int]:
        """How many items have each item's value, and how many values there are, `among` some items.

        The others do not count; their number is given.
        """
        uses = np.full(len(among), others, dtype=np.uint32)

        def read(part: slice) -> list[Numbers]:
            rows = _rows(part, among)
            return [self._read(name, part)[rows - part.start], rows]

        def count(values: Hashes, rows: Numbers) -> int:
            uses[rows], distinct = count_equal(values)
            return distinct

        distinct = sum(_in_buckets(pool, len(uses), read, count))
        return _narrow(uses), distinct

    def _picture_families(self, pool: Executor, shared: Flags) -> Numbers:
        """How many families have each item's picture; only pictures that items share (`shared`) need be looked at."""
        found = self._has_family.astype(np.uint32)

        def read(part: slice) -> list[Numbers]:
            rows = _rows(part, shared)
            return [*(self._read(name, part)[rows - part.start] for name in ("picture", "family")), rows]

        def count(pictures: Hashes, families: Hashes, rows: Numbers) -> None:
            found[rows] = count_families(pictures, families, self._has_family[rows])

        _in_buckets(pool, len(found), read, count)
        return _narrow(found)

    def _read(self, name: str, part: slice) -> Hashes:
        width = np.dtype(np.uint64).itemsize
        return np.fromfile(self._files[name], np.uint64, part.stop - part.start, offset=part.start * width)


@cache  # opening one takes as long as hashing 100,000 items
def _engine() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})  # the callers are threads themselves


def count_equal(values: Hashes) -> tuple[Numbers, int]:
    """How many of the values equal each value, and how many differ."""
    codes, distinct = pd.factorize(values)
    return np.bincount(codes, minlength=len(distinct))[codes], len(distinct)


def count_families(pictures: Hashes, families: Hashes, has_family: Flags) -> Numbers:
    """How many different families have each item's picture."""
    codes, distinct = pd.factorize(pictures)
    family, known = pd.factorize(families)
    pairs = pd.unique((codes * len(known) + family)[has_family])
    counts: Numbers = np.bincount(pairs // max(len(known), 1), minlength=len(distinct))
    return counts[codes]


def _in_buckets(
    pool: Executor, items: int, read: Callable[[slice], Sequence[Numbers]], count: Callable[..., Result]
) -> list[Result]:
    """Call `count` with the columns that `read` gives, a bucket of equal first bits of the first column at a time."""
    bits = min(max((items // BUCKET).bit_length(), 1), MAX_BITS)
    blocks = list(pool.map(lambda part: _split(read(part), bits), _blocks(items)))

    def take(bucket: int) -> Result:
        pieces = [[column[ends[bucket] : ends[bucket + 1]] for column in columns] for columns, ends in blocks]
        return count(*map(np.concatenate, zip(*pieces, strict=True)))

    return list(pool.map(take, range(1 << bits))) if blocks else []


def _split(columns: Sequence[Numbers], bits: int) -> tuple[list[Numbers], list[int]]:
    """The columns sorted by the first bits of the first one, and the bounds of the buckets."""
    bucket = _first_bits(columns[0], bits).astype(np.uint16)
    order = np.argsort(bucket, kind="stable")
    sizes = np.bincount(bucket, minlength=1 << bits)
    return [column[order] for column in columns], [0, *np.cumsum(sizes).tolist()]


def _first_bits(hashes: Hashes, bits: int) -> Hashes:
    first: Hashes = hashes >> np.uint64(HASH_BITS - bits)
    return first


def _blocks(items: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, items)) for start in range(0, items, BLOCK)]


def _rows(part: slice, among: Flags) -> Numbers:
    """The places in a part of the items of those `among` them."""
    rows: Numbers = (np.flatnonzero(among[part]) + part.start).astype(np.uint32)
    return rows


def _narrow(numbers: Numbers) -> Numbers:
    narrow: Numbers = numbers.astype(np.min_scalar_type(int(numbers.max(initial=0))))
    return narrow
