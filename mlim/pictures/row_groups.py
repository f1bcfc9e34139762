"""Cells of one column of Parquet files, by file and row.

Parquet has no place for a single cell: a row group is read from its start. So a process keeps a few cursors that only
go forward, each with some rows and their pages in memory, and rows that are read in order cost one pass.
"""

import bisect
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.pictures.parquet_file import open_parquet

OPEN_CURSORS = 4  # shards are made side by side, and each reads rows of its own
NEAR_ROWS = 256  # a cursor that is so close behind is on its way to the row
ROWS_AT_A_TIME = 8


@dataclass(frozen=True)
class _Group:
    """The image column in one row group of a file as it was at a time."""

    path: Path
    changed_ns: int
    number: int
    column: str


@dataclass(frozen=True)
class Layout:
    """The row groups of a file: first rows, bytes of the column, and which may hold paths instead of bytes."""

    starts: Sequence[int]
    rows: int
    sizes: Sequence[int]
    may_hold_paths: Sequence[bool]


class _Cursor:
    """Goes forward through one row group."""

    def __init__(self, group: _Group) -> None:
        self.group, self.start, self._values = group, 0, pa.nulls(0)
        self._file = open_parquet(group.path)
        self._batches: Iterator[Any] = self._file.iter_batches(
            ROWS_AT_A_TIME, row_groups=[group.number], columns=[group.column], use_threads=False
        )

    def value(self, row: int) -> Any:
        """The value in a row of the group, from `start` on; None where the file ends before it should."""
        while row >= self.start + len(self._values):
            self.start += len(self._values)
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._values = batch.column(0)
        return self._values[row - self.start].as_py()

    def close(self) -> None:
        """Close the file and drop what was read."""
        self._batches, self._values = iter(()), pa.nulls(0)
        self._file.close()


class RowGroupReader:
    """The cursors and layouts of one process, for all its threads; when a store travels they stay behind."""

    def __init__(self) -> None:
        self._cursors: list[_Cursor] = []  # the one that was used last comes last
        self._layouts: dict[tuple[Path, int, str], Layout] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["RowGroupReader"], tuple[()]]:
        return RowGroupReader, ()

    def layout(self, path: Path, column: str) -> Layout:
        """The row groups of a file; `ArrowException` or `OSError` when it cannot be read."""
        key = (path, path.stat().st_mtime_ns, column)
        if key not in self._layouts:
            self._layouts[key] = _read_layout(path, column)
        return self._layouts[key]

    def value(self, path: Path, column: str, row: int) -> Any:
        """The value in a row (from 0) of a file; errors as `layout`."""
        layout = self.layout(path, column)
        number = bisect.bisect_right(layout.starts, row) - 1
        group, inside = _Group(path, path.stat().st_mtime_ns, number, column), row - layout.starts[number]
        with self._lock:
            cursor = self._cursor(group, inside)
            value = cursor.value(inside)
            self._cursors.append(cursor)  # not reached by one that failed
        return value

    def prepare(self, path: Path, column: str, number: int) -> None:
        """Open as many cursors as there will be, so that their memory is taken now."""
        group = _Group(path, path.stat().st_mtime_ns, number, column)
        with self._lock:
            while len(self._cursors) < OPEN_CURSORS:
                self._cursors.append(_Cursor(group))
                self._cursors[-1].value(0)

    def _cursor(self, group: _Group, row: int) -> _Cursor:
        """The cursor that should read a row, taken out of the list: one on its way there, or the longest unused."""
        behind = [cursor for cursor in self._cursors if cursor.group == group and cursor.start <= row]
        near = [cursor for cursor in behind if row - cursor.start <= NEAR_ROWS]
        if near:
            return self._take(max(near, key=lambda cursor: cursor.start))
        if len(self._cursors) < OPEN_CURSORS:
            return _Cursor(group)
        unused = self._take(self._cursors[0])
        if unused in behind:
            return unused
        unused.close()
        return _Cursor(group)

    def _take(self, cursor: _Cursor) -> _Cursor:
        self._cursors.remove(cursor)
        return cursor


def _read_layout(path: Path, column: str) -> Layout:
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    leaves = [_leaf(group, column) for group in groups]
    return Layout(
        starts=[0, *accumulate(group.num_rows for group in groups)][:-1],
        rows=metadata.num_rows,
        sizes=[leaf.total_uncompressed_size for leaf in leaves],
        may_hold_paths=[leaf.path_in_schema != column and _may_be_null(leaf) for leaf in leaves],
    )


def _leaf(group: Any, column: str) -> Any:
    """The stored column with the bytes: the column itself, its elements, or the field `bytes` of its structs."""
    leaves = [group.column(number) for number in range(group.num_columns)]
    own = [leaf for leaf in leaves if leaf.path_in_schema == column or leaf.path_in_schema.startswith(f"{column}.")]
    found = own[0] if len(own) == 1 else next((leaf for leaf in own if leaf.path_in_schema.endswith(".bytes")), None)
    if found is None:
        raise pa.ArrowInvalid(f"the column {column} holds no bytes any more")
    return found


def _may_be_null(leaf: Any) -> bool:
    known = leaf.statistics is not None and leaf.statistics.has_null_count
    return not known or leaf.statistics.null_count > 0
