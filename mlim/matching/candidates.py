"""Candidates: the pairs of a catalog that are worth scoring, found in several ways and united on disk.

Joins and unions are DuckDB's: what does not fit into its memory limit goes to a temporary folder. Items are told by
their places in the order of their ids, so that the first item of a pair is the one with the smaller id. Neighbours that
can never match are left out before they are united: where families alone match, they are nearly all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.matching.columns import Block
from mlim.matching.nearest import Neighbours
from mlim.matching.never import HardRules

PAIRS_AT_ONCE: Final = 1 << 20
NEIGHBOURS_AT_ONCE: Final = 1 << 23  # the more there are, the more pairs come from both of their items at once
BLOCK: Final = "block:"  # before the name of a rule, among the ways
NO_RANK: Final = 1 << 30
MOST_WAYS: Final = 60  # bits of an integer
CANDIDATE_SCHEMA: Final[Any] = pa.schema(
    [
        pa.field("item_a", pa.string(), nullable=False),
        pa.field("item_b", pa.string(), nullable=False),
        pa.field("found_by", pa.list_(pa.string()), nullable=False),
        pa.field(
            "rank", pa.int32()
        ),  # the best among its ways by nearest neighbours, from 1; null: found by rules alone
    ]
)

Places = NDArray[np.int64]


@dataclass
class Found:
    """The candidates of `items` items in a database; `ways` are named in the order in which they were brought in.

    Pairs that `rules` forbid are no candidates. `watched` are those of them whose ranks are asked for (`_numbered`).
    """

    connection: Any
    items: int
    rules: HardRules
    watched: Places
    never: int = 0  # neighbours and pairs of blocks that the rules forbid
    ways: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def add_block(self, block: Block, most: int) -> None:
        """Bring in the pairs of one blocking rule; blocks of more than `most` items are left out and counted."""
        way = self._way(f"{BLOCK}{block.name}")
        members = pa.table(_members(block))
        self.connection.register("members", members)
        self.connection.execute(
            "CREATE OR REPLACE TEMP TABLE small AS SELECT * FROM members WHERE key >= 0 AND (key, cell) IN "
            "(SELECT (key, cell) FROM members GROUP BY key, cell HAVING count(*) <= ?)",
            [most],
        )
        kept = self.connection.execute("SELECT count(DISTINCT item) FROM small").fetchone()[0]
        self.left_out[self.ways[way]] = int((block.key >= 0).sum()) - int(kept)
        self.connection.execute(
            "INSERT INTO found SELECT DISTINCT a.item, b.item, ?, ? FROM small a JOIN small b "
            "ON a.key = b.key AND a.cell = b.cell AND a.item < b.item AND abs(a.level - b.level) <= ?",
            [way, NO_RANK, block.width + 1e-9],
        )
        self.connection.unregister("members")

    def add_neighbours(self, name: str, blocks: Iterable[Neighbours]) -> None:
        """Bring in nearest neighbours that come block by block."""
        way = self._way(name)
        for near in _together(map(self._that_may_match, blocks), NEIGHBOURS_AT_ONCE):
            self.connection.register("near", pa.table(dict(zip(("a", "b", "rank"), near, strict=True))))
            self.connection.execute(
                "INSERT INTO found SELECT least(a, b), greatest(a, b), ?, min(rank) FROM near GROUP BY 1, 2", [way]
            )
            self.connection.unregister("near")

    def _that_may_match(self, near: Neighbours) -> Neighbours:
        """Those that may match, or are watched; the others are counted."""
        if not self.rules.any:
            return near
        wanted = ~self.rules.forbidden(near.first, near.second)
        if len(self.watched):
            wanted |= np.isin(_numbered(near.first, near.second, self.items), self.watched)
        self.never += int((~wanted).sum())
        return Neighbours(*(column[wanted] for column in near))

    def write(self, path: Path, ids: Sequence[str]) -> dict[str, int]:
        """Write the union, each pair once and in order, without those that can never match; return the counts."""
        names, written = pa.array(ids, pa.string()), 0
        kept = self.connection.cursor()
        kept.execute("CREATE OR REPLACE TABLE kept (a BIGINT, b BIGINT)")
        with pq.ParquetWriter(path, CANDIDATE_SCHEMA) as writer:
            for first, second, ways, rank in self._united():
                allowed = ~self.rules.forbidden(first, second)
                self.never += int((~allowed).sum())
                written += int(allowed.sum())
                sides = {"a": first[allowed], "b": second[allowed]}
                kept.register("sides", pa.table(sides))
                kept.execute("INSERT INTO kept SELECT a, b FROM sides")
                kept.unregister("sides")
                found_by = self._named(ways[allowed])
                best = pa.array(rank[allowed], pa.int32(), mask=rank[allowed] >= NO_RANK)
                columns = [names.take(pa.array(side)) for side in sides.values()]
                writer.write_table(pa.table([*columns, found_by, best], schema=CANDIDATE_SCHEMA))
        return {"candidates": written, "never_match": self.never}

    def ranks_of(self, first: Places, second: Places) -> dict[str, NDArray[np.int64]]:
        """For some pairs (m,), in either order of their items: their best rank in each way.

        It is NO_RANK in rules and -1 where a way has not found the pair.
        """
        asked = pa.table({"n": np.arange(len(first)), "a": np.minimum(first, second), "b": np.maximum(first, second)})
        self.connection.register("asked", asked)
        rows = self.connection.execute(
            "SELECT n, way, min(rank) FROM asked JOIN found USING (a, b) GROUP BY n, way"
        ).fetchnumpy()
        self.connection.unregister("asked")
        ranks = {name: np.full(len(first), -1, dtype=np.int64) for name in self.ways}
        for way, name in enumerate(self.ways):
            chosen = rows["way"] == way
            ranks[name][rows["n"][chosen]] = rows["min(rank)"][chosen]
        return ranks

    def kept(self, first: Places, second: Places) -> NDArray[np.bool_]:
        """Which of some pairs (m,), in either order of their items, were written."""
        asked = pa.table({"n": np.arange(len(first)), "a": np.minimum(first, second), "b": np.maximum(first, second)})
        self.connection.register("asked", asked)
        rows = self.connection.execute("SELECT n FROM asked JOIN kept USING (a, b)").fetchnumpy()
        self.connection.unregister("asked")
        return np.isin(np.arange(len(first)), rows["n"])

    def counts(self) -> dict[str, dict[str, int]]:
        """For each way: the pairs that it found, and those that no other way did."""
        rows = self.connection.execute("SELECT ways, count(*) FROM united GROUP BY ways").fetchall()
        found = {name: {"found": 0, "alone": 0} for name in self.ways}
        for mask, count in rows:
            for name in _names(int(mask), self.ways):
                found[name]["found"] += int(count)
                found[name]["alone"] += int(count) if mask.bit_count() == 1 else 0
        return found

    def _way(self, name: str) -> int:
        if len(self.ways) == MOST_WAYS:
            raise ValueError(f"more than {MOST_WAYS} ways to find candidates")
        self.ways.append(name)
        return len(self.ways) - 1

    def _united(self) -> Iterator[tuple[Places, Places, Places, Places]]:
        self.connection.execute(
            "CREATE OR REPLACE TABLE united AS SELECT a, b, bit_or(1::BIGINT << way) AS ways, min(rank) AS rank "
            "FROM found GROUP BY a, b"
        )
        united = self.connection.sql("SELECT a, b, ways, rank FROM united ORDER BY a, b")
        for batch in united.to_arrow_reader(PAIRS_AT_ONCE):
            yield tuple(column.to_numpy() for column in batch.columns)

    def _named(self, masks: Places) -> Any:
        distinct, place = np.unique(masks, return_inverse=True)
        lists = pa.array([_names(int(mask), self.ways) for mask in distinct], pa.list_(pa.string()))
        return lists.take(pa.array(place))


@contextmanager
def candidate_store(
    items: int, memory_mb: int, rules: HardRules, known: tuple[Places, Places] | None = None
) -> Iterator[Found]:
    """A store of candidates that is gone after the block; DuckDB keeps within `memory_mb` and a temporary folder.

    `known` pairs (m,), (m,) are those whose ranks are asked for, whatever the rules say of them.
    """
    first, second = (np.empty(0, dtype=np.int64),) * 2 if known is None else known
    forbidden = rules.forbidden(first, second)
    watched = _numbered(first[forbidden], second[forbidden], items)
    with TemporaryDirectory(prefix="mlim-candidates-") as folder:
        connection = duckdb.connect(
            f"{folder}/candidates.duckdb",
            config={"memory_limit": f"{memory_mb}MB", "temp_directory": folder, "preserve_insertion_order": False},
        )
        try:
            connection.execute("CREATE TABLE found (a BIGINT, b BIGINT, way INTEGER, rank BIGINT)")
            yield Found(connection, items, rules, watched)
        finally:
            connection.close()


def _together(parts: Iterable[Neighbours], most: int) -> Iterator[Neighbours]:
    """The same neighbours in fewer parts, each of at least `most` but for the last one."""
    held, count = list[Neighbours](), 0
    for part in parts:
        held.append(part)
        count += len(part.first)
        if count >= most:
            yield Neighbours(*map(np.concatenate, zip(*held, strict=True)))
            held, count = [], 0
    if count:
        yield Neighbours(*map(np.concatenate, zip(*held, strict=True)))


def _numbered(first: Places, second: Places, items: int) -> Places:
    """One number (n,) for each pair of `items` items, in either order."""
    return np.minimum(first, second) * items + np.maximum(first, second)


def _members(block: Block) -> Mapping[str, NDArray[Any]]:
    """Each item with its key; in a banded rule twice, in two neighbouring cells: items near each other share one."""
    items = np.arange(len(block.key))
    if block.level is None:
        nothing = np.zeros(len(items))
        return {"item": items, "key": block.key, "cell": nothing.astype(np.int64), "level": nothing}
    level = np.where(block.key >= 0, block.level, 0)
    cell = np.floor(level / block.width).astype(np.int64)
    twice = {"item": items, "key": block.key, "level": level}
    doubled = {name: np.concatenate([column, column]) for name, column in twice.items()}
    return {**doubled, "cell": np.concatenate([cell, cell + 1])}


def _names(mask: int, ways: Sequence[str]) -> list[str]:
    return [name for number, name in enumerate(ways) if mask >> number & 1]
