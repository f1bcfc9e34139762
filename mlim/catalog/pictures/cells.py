"""Pictures as bytes in a column of Parquet files, plain or as Hugging Face writes them (`{bytes, path}`)."""

import bisect
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mlim.catalog.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, TOO_MANY_BYTES, PictureStore
from mlim.catalog.pictures.cursors import CellReader, Layout
from mlim.catalog.refusal import RefusedError
from mlim.errors import InputError

LARGEST_GROUP_BYTES = 4 << 30  # of one column: to skip more than that takes longer than a picture may take
BYTES_PER_GB = 1_000_000_000
MOST_ROW_DIGITS = 18


@dataclass(frozen=True)
class CellPictures:
    """Cells of the column `column`, named `FILE#ROW` by the table that reads the rows; `elsewhere` has the others.

    Only the names in `files` lead to a file, so no cell of the catalog can name another one.
    """

    files: Mapping[str, Path]
    column: str
    elsewhere: PictureStore
    max_bytes: int
    _reader: CellReader = field(default_factory=CellReader, repr=False, compare=False)

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
        value = self._value(*place, reference)
        path = _path_in(value)
        return self._checked(reference, value) if path is None else self.elsewhere.read(path)

    def fingerprint(self, reference: str) -> str:
        """Size and time of the file, which changes with any of its cells, and of the file that a cell names."""
        place = self._place(reference)
        if place is None:
            return self.elsewhere.fingerprint(reference)
        try:
            found = place[0].stat()
            path = self._path(reference)
        except (OSError, RefusedError):
            return ""
        own = f"{found.st_size}:{found.st_mtime_ns}"
        return own if path is None else f"{own}:{self.elsewhere.fingerprint(path)}"

    def prefetch(self, references: Sequence[str]) -> None:
        """Fetch what is not in a cell. For no references at all, take the memory that reading will need."""
        if not references:
            self._prepare()
        self.elsewhere.prefetch([found for found in map(self._outside, references) if found is not None])

    def _place(self, reference: str) -> tuple[Path, int] | None:
        """File and row (from 0) of a cell; None for a reference that names none."""
        name, _, row = reference.rpartition("#")
        counted = row.isascii() and row.isdecimal() and len(row) <= MOST_ROW_DIGITS
        return (self.files[name], int(row) - 1) if name in self.files and counted else None

    def _outside(self, reference: str) -> str | None:
        """What `elsewhere` must give for a reference; None when its cell holds the bytes, or nothing."""
        try:
            return reference if self._place(reference) is None else self._path(reference)
        except RefusedError:
            return None  # `read` tells why

    def _path(self, reference: str) -> str | None:
        """The path in a cell without bytes; read only where the file says that it has such cells."""
        place = self._place(reference)
        if place is None:
            return None
        with _told(place[0]):
            layout = self._reader.layout(place[0], self.column)
        group = bisect.bisect_right(layout.starts, place[1]) - 1
        if group < 0 or not layout.may_hold_paths[group]:
            return None
        return _path_in(self._value(*place, reference))

    def _value(self, path: Path, row: int, reference: str) -> Any:
        with _told(path):
            if not 0 <= row < self._reader.layout(path, self.column).rows:
                raise RefusedError(MISSING_IMAGE, f"{reference}: the file has no such row")
            return self._reader.value(path, self.column, row)

    def _checked(self, reference: str, value: Any) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise RefusedError(MISSING_IMAGE, f"{reference}: the column {self.column} is empty")
        if not data:
            raise RefusedError(EMPTY_IMAGE, f"{reference} holds 0 bytes")
        if len(data) > self.max_bytes:
            raise RefusedError(TOO_MANY_BYTES, f"{reference} has {len(data)} bytes; the limit is {self.max_bytes}")
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
        with contextlib.suppress(RefusedError):  # `read` tells of it
            sizes = [
                (size, path, number)
                for path in self.files.values()
                for number, size in enumerate(self._layout(path).sizes)
            ]
            if sizes:
                _, path, number = max(sizes)
                with _told(path):
                    self._reader.prepare(path, self.column, number)

    def _layout(self, path: Path) -> Layout:
        with _told(path):
            return self._reader.layout(path, self.column)


def _path_in(value: Any) -> str | None:
    """The path in a value that has one and no bytes."""
    if isinstance(value, dict) and value.get("bytes") is None and value.get("path"):
        return str(value["path"])
    return None


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What reading a file raises, as a refusal; too little memory is the caller's to tell."""
    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise RefusedError(MISSING_IMAGE, f"{path.name} cannot be read ({error})") from None
