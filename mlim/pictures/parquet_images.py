"""Pictures as bytes in a column of Parquet files: plain, as Hugging Face writes them (`{bytes, path}`), in lists."""

import bisect
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mlim.catalog.rejection import RejectedError
from mlim.errors import InputError
from mlim.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, TOO_MANY_BYTES, PictureStore
from mlim.pictures.parquet_file import holds_something
from mlim.pictures.row_groups import Layout, RowGroupReader

LARGEST_GROUP_BYTES = 4 << 30  # of one column: to skip more than that takes longer than a picture may take
BYTES_PER_GB = 1_000_000_000
CELL = re.compile(r"(.*)#(\d{1,18})(?:\.(\d{1,9}))?", re.ASCII | re.DOTALL)


class _Place(NamedTuple):
    """A row of a file (from 0), and which picture of its list (from 0; None: the cell as a whole)."""

    path: Path
    row: int
    number: int | None


@dataclass(frozen=True)
class ParquetImages:
    """Cells of the column `column`, named `FILE#ROW` by the table that reads the rows; `elsewhere` has the others.

    Of a cell with a list, `FILE#ROW.PLACE` is one picture and `FILE#ROW` the first one that holds something.
    Only the names in `files` lead to a file, so no cell of the catalog can name another one.
    """

    files: Mapping[str, Path]
    column: str
    elsewhere: PictureStore
    max_bytes: int
    _reader: RowGroupReader = field(default_factory=RowGroupReader, repr=False, compare=False)

    def check(self) -> None:
        """`InputError` with every file that cannot be read, or whose row groups are too large to be read by rows."""
        problems = [problem for path in self.files.values() for problem in self._problems(path)]
        if problems:
            raise InputError(*problems)

    def read(self, reference: str) -> bytes:
        """The bytes in a cell, or behind the path that stands there instead; `MemoryError` where they do not fit."""
        place = self._place(reference)
        if place is None:
            return self.elsewhere.read(reference)
        value = self._value(place, reference)
        path = _path_in(value)
        return self._checked(reference, value) if path is None else self.elsewhere.read(path)

    def fingerprint(self, reference: str) -> str:
        """Size and time of the file, which changes with any of its cells, and of the file that a cell names."""
        place = self._place(reference)
        if place is None:
            return self.elsewhere.fingerprint(reference)
        try:
            found = place.path.stat()
            path = self._path(reference)
        except (OSError, RejectedError):
            return ""
        own = f"{found.st_size}:{found.st_mtime_ns}"
        return own if path is None else f"{own}:{self.elsewhere.fingerprint(path)}"

    def prefetch(self, references: Sequence[str]) -> None:
        """Fetch what is not in a cell. For no references at all, take the memory that reading will need."""
        if not references:
            self._prepare()
        self.elsewhere.prefetch([found for found in map(self._outside, references) if found is not None])

    def _place(self, reference: str) -> _Place | None:
        """Where a cell lies; None for a reference that names none."""
        found = CELL.fullmatch(reference)
        if found is None or found[1] not in self.files:
            return None
        return _Place(self.files[found[1]], int(found[2]) - 1, int(found[3]) - 1 if found[3] else None)

    def _outside(self, reference: str) -> str | None:
        """What `elsewhere` must give for a reference; None when its cell holds the bytes, or nothing."""
        try:
            return reference if self._place(reference) is None else self._path(reference)
        except RejectedError:
            return None  # `read` tells why

    def _path(self, reference: str) -> str | None:
        """The path in a cell without bytes; read only where the file says that it has such cells."""
        place = self._place(reference)
        if place is None:
            return None
        with _rejecting(place.path):
            layout = self._reader.layout(place.path, self.column)
        group = bisect.bisect_right(layout.starts, place.row) - 1
        if group < 0 or not layout.may_hold_paths[group]:
            return None
        return _path_in(self._value(place, reference))

    def _value(self, place: _Place, reference: str) -> Any:
        with _rejecting(place.path):
            if not 0 <= place.row < self._reader.layout(place.path, self.column).rows:
                raise RejectedError(MISSING_IMAGE, f"{reference}: the file has no such row")
            return _chosen(self._reader.value(place.path, self.column, place.row), place.number)

    def _checked(self, reference: str, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise RejectedError(MISSING_IMAGE, f"{reference}: the column {self.column} is empty")
        if not data:
            raise RejectedError(EMPTY_IMAGE, f"{reference} holds 0 bytes")
        if len(data) > self.max_bytes:
            raise RejectedError(TOO_MANY_BYTES, f"{reference} has {len(data)} bytes; the limit is {self.max_bytes}")
        return bytes(data)

    def _problems(self, path: Path) -> Iterator[str]:
        try:
            sizes = self._reader.layout(path, self.column).sizes
        except (pa.ArrowException, OSError) as error:
            yield f"{path}: cannot be read as .parquet: {error}"
            return
        if sizes and max(sizes) > LARGEST_GROUP_BYTES:
            yield (
                f"{path}: holds {max(sizes) / BYTES_PER_GB:.0f} GB of pictures in one row group, which cannot be read "
                "row by row; write it again with smaller ones (pandas and pyarrow: row_group_size=100)"
            )

    def _prepare(self) -> None:
        with contextlib.suppress(RejectedError):  # `read` tells of it
            sizes = [
                (size, path, number)
                for path in self.files.values()
                for number, size in enumerate(self._layout(path).sizes)
            ]
            if sizes:
                _, path, number = max(sizes)
                with _rejecting(path):
                    self._reader.prepare(path, self.column, number)

    def _layout(self, path: Path) -> Layout:
        with _rejecting(path):
            return self._reader.layout(path, self.column)


def _chosen(value: Any, number: int | None) -> Any:
    """The value itself; of a list the one with a number (from 0; None: the first that holds something)."""
    if number is None:
        return next(filter(holds_something, value), None) if isinstance(value, list) else value
    return value[number] if isinstance(value, list) and 0 <= number < len(value) else None


def _path_in(value: Any) -> str | None:
    """The path in a value that has one and no bytes."""
    if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
        return str(value["path"])
    return None


@contextlib.contextmanager
def _rejecting(path: Path) -> Iterator[None]:
    """What reading a file raises, as a rejection; too little memory is left to the caller."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise RejectedError(MISSING_IMAGE, f"{path.name} cannot be read ({error})") from None
