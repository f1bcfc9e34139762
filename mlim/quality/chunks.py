"""The items of a folder of shards, some shards at a time: their places, what is read of them, samples of them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlim.catalog.item import ALL_PICTURES_SCHEMA, ITEM_SCHEMA
from mlim.errors import InputError
from mlim.processes import cores
from mlim.shards.shard import ShardEntry, read_shard

METADATA = tuple(name for name in ITEM_SCHEMA.names if name != "image")
RANKED_AT_A_TIME = 1 << 20
MOST_THREADS = 4  # each holds a chunk in memory, and what they do is written by one

Work = TypeVar("Work")
Result = TypeVar("Result")


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


def threads_for_chunks() -> int:
    """How many threads work on a chunk each."""
    return min(cores(), MOST_THREADS)


def in_order(pool: Executor, function: Callable[[Work], Result], works: Iterable[Work], ahead: int) -> Iterator[Result]:
    """The results for all works in their order; `ahead` of them are computed while the caller is busy with another."""
    waiting = deque[Future[Result]]()
    for work in works:
        waiting.append(pool.submit(function, work))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def shard_places(chunk: Chunk) -> tuple[Any, NDArray[np.int64]]:
    """The shard's name and the position in it of every item of a chunk."""
    names = pa.array([entry.file for entry in chunk.entries], pa.string())
    sizes = [entry.items for entry in chunk.entries]
    positions = [np.arange(size, dtype=np.int64) for size in sizes]
    return names.take(pa.array(np.repeat(np.arange(len(sizes)), sizes))), np.concatenate(positions)


def sample_places(candidates: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the places where `candidates` is true, ascending; the same ones for the same seed."""
    known = int(np.count_nonzero(candidates))
    if known <= count:
        return np.flatnonzero(candidates)
    ranks = np.sort(np.random.default_rng(seed).choice(known, count, replace=False, shuffle=False))
    return _places_of(candidates, ranks)


def _places_of(candidates: NDArray[np.bool_], ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the candidates of some ranks (ascending) are, without a list of all the others."""
    found, before = [], 0
    for start in range(0, len(candidates), RANKED_AT_A_TIME):
        places = np.flatnonzero(candidates[start : start + RANKED_AT_A_TIME]) + start
        first, last = np.searchsorted(ranks, (before, before + len(places)))
        found.append(places[ranks[first:last] - before])
        before += len(places)
    return np.concatenate(found)


def read_values(folder: Path, entries: Sequence[ShardEntry], places: NDArray[np.int64], column: str) -> list[Any]:
    """The values of one column at some places (ascending), in their order; only the shards that hold them are read."""
    values: list[Any] = []
    for chunk in chunks_of(entries, 1):
        first, last = np.searchsorted(places, (chunk.start, chunk.stop))
        if last > first:
            shard = read_chunk(folder, chunk, [column])[column]
            values += shard.take(pa.array(places[first:last] - chunk.start)).to_pylist()
    return values
