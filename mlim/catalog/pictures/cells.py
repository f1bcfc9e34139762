"""Pictures as bytes in a column of Parquet files, plain or as Hugging Face writes them (`{bytes, path}`)."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.catalog.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, TOO_MANY_BYTES, PictureStore
from mlim.catalog.refusal import RefusedError


@dataclass(frozen=True)
class CellPictures:
    """Cells of the column `column`, named `FILE#ROW` by the table that reads the rows; `elsewhere` has the others.

    Only the names in `files` lead to a file, so no cell of the catalog can name another one.
    """

    files: Mapping[str, Path]
    column: str
    elsewhere: PictureStore
    max_bytes: int

    def read(self, reference: str) -> bytes:
        """The bytes in a cell, or behind the path that stands there instead."""
        place = self._place(reference)
        if place is None:
            return self.elsewhere.read(reference)
        value = _cell(*place, self.column)
        if isinstance(value, dict):
            if value.get("bytes") is None and value.get("path"):
                return self.elsewhere.read(str(value["path"]))
            value = value.get("bytes")
        if value is None:
            raise RefusedError(MISSING_IMAGE, f"{reference}: the column {self.column} is empty")
        return self._checked(reference, bytes(value))

    def _checked(self, reference: str, data: bytes) -> bytes:
        if not data:
            raise RefusedError(EMPTY_IMAGE, f"{reference} holds 0 bytes")
        if len(data) > self.max_bytes:
            raise RefusedError(TOO_MANY_BYTES, f"{reference} has {len(data)} bytes; the limit is {self.max_bytes}")
        return data

    def fingerprint(self, reference: str) -> str:
        """Size and time of the file, which changes with any of its cells."""
        place = self._place(reference)
        if place is None:
            return self.elsewhere.fingerprint(reference)
        found = place[0].stat()
        return f"{found.st_size}:{found.st_mtime_ns}"

    def prefetch(self, references: Sequence[str]) -> None:
        """What is not in a cell may be slow to fetch."""
        self.elsewhere.prefetch([reference for reference in references if self._place(reference) is None])

    def _place(self, reference: str) -> tuple[Path, int] | None:
        """File and row (from 0) of a cell; None for a reference that names none."""
        name, _, row = reference.rpartition("#")
        return (self.files[name], int(row) - 1) if name in self.files and row.isdecimal() else None


def _cell(path: Path, row: int, column: str) -> Any:
    starts = _group_starts(path, path.stat().st_mtime_ns)
    group = bisect.bisect_right(starts, row) - 1
    return _group(path, path.stat().st_mtime_ns, group, column)[row - starts[group]].as_py()


@lru_cache(maxsize=64)
def _group_starts(path: Path, changed_ns: int) -> list[int]:
    """The first row of each row group of a file; kept by every process for the files it reads."""
    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise RefusedError(MISSING_IMAGE, f"{path.name} cannot be read ({error})") from None
    return [0, *accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))][:-1]


@lru_cache(maxsize=1)
def _group(path: Path, changed_ns: int, group: int, column: str) -> Any:
    """The column in one row group, kept for the next rows, which are its neighbours."""
    try:
        with pq.ParquetFile(path) as source:
            return source.read_row_group(group, columns=[column])[column]
    except (pa.ArrowException, OSError) as error:
        raise RefusedError(MISSING_IMAGE, f"{path.name} cannot be read ({error})") from None
