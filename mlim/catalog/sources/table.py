"""Tables as a source: one file or many, of any kind that `readers` knows, read as one stream of text cells."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlim.catalog.pictures.base import PictureStore
from mlim.catalog.pictures.cells import CellPictures
from mlim.catalog.refusal import Refusal
from mlim.catalog.sources.base import RawRow
from mlim.catalog.sources.readers import JSON_LINES, UTF8, TableFile
from mlim.config import nearest
from mlim.errors import InputError

if TYPE_CHECKING:  # half a second to load, which reading rows need not wait for
    import pandas as pd

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class TableSource:
    """The rows of one or more table files; `elsewhere` holds the pictures that are not cells of the table."""

    files: Sequence[TableFile]
    image_column: str
    elsewhere: PictureStore
    max_picture_bytes: int

    @classmethod
    def open(
        cls, place: Path, encoding: str, image_column: str, elsewhere: PictureStore, max_picture_bytes: int
    ) -> Self:
        """The table at `place`, a file or a pattern; `InputError` when there is none."""
        return cls(table_files(place, encoding), image_column, elsewhere, max_picture_bytes)

    def columns(self) -> Sequence[str]:
        """The columns of all files, each once, in the order in which they first come; `InputError` as `TableFile`'s."""
        return list(dict.fromkeys(name for file in self.files for name in file.columns()))

    def rows(self, columns: Sequence[str]) -> Iterator[RawRow]:
        """All rows, file by file in the order of their names.

        `InputError` before the first row when a file lacks a column, and where a file cannot be read on.
        """
        self._check_columns(columns)
        for file in self.files:
            picture = self.image_column if file.name in self._picture_files else None
            for row, record in enumerate(file.records(columns, picture), start=1):
                if isinstance(record, Refusal):
                    yield RawRow(file.name, row, {}, record)
                else:
                    yield RawRow(file.name, row, dict(zip(columns, record, strict=True)))

    def _check_columns(self, columns: Sequence[str]) -> None:
        """The objects of JSON lines may leave keys out, all other files need every column."""
        known = {file: file.columns() for file in self.files if file.kind not in JSON_LINES}
        problems = [
            f"{file.path}: has no column `{name}`{nearest(name, names)}"
            for file, names in known.items()
            for name in columns
            if name not in names
        ]
        if problems:
            raise InputError(*problems[:SHOWN_PROBLEMS])

    def pictures(self) -> PictureStore:
        """Cells of a Parquet file where the image column holds bytes, else folder, archives or the web.

        `InputError` when a Parquet file holds its pictures in a way that cannot be read row by row.
        """
        if not self._picture_files:
            return self.elsewhere
        pictures = CellPictures(self._picture_files, self.image_column, self.elsewhere, self.max_picture_bytes)
        pictures.check()
        return pictures

    def state(self) -> str:
        """Names, sizes and times of the files, in one line each."""
        return "\n".join(f"{file.name} {_stamp(file.path)}" for file in self.files)

    def report(self) -> Mapping[str, int]:
        """Nothing: rows are taken as they stand."""
        return {}

    @cached_property
    def _picture_files(self) -> Mapping[str, Path]:
        """The Parquet files whose image column holds bytes, by name."""
        return {file.name: file.path.absolute() for file in self.files if self.image_column in file.picture_columns()}


def table_files(place: Path, encoding: str = UTF8) -> list[TableFile]:
    """The files of a table, sorted by name; `InputError` when a pattern matches none or a file is no table."""
    if place.is_file() or not glob.has_magic(str(place)):
        file = TableFile(place, place.name, encoding)
        file.check()
        return [file]
    parent = fixed_parent(place)
    matches = sorted(path for path in parent.glob(str(place.relative_to(parent))) if path.is_file())
    if not matches:
        raise InputError(f"{place}: no file matches this pattern; check `table` in the catalog's description")
    files = [TableFile(path, path.relative_to(parent).as_posix(), encoding) for path in matches]
    for file in files:
        file.check()
    return files


def fixed_parent(place: Path) -> Path:
    """The folder of a file, or the deepest folder that a pattern names in full: file names are told from there.

    A folder that exists is no wildcard, whatever its name looks like (`shoes [2024]`).
    """
    return next(parent for parent in place.parents if parent.is_dir() or not glob.has_magic(str(parent)))


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "is gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def column_names(place: Path) -> list[str]:
    """The columns of a table in order; `InputError` when it is missing, empty, unreadable, or names one twice."""
    return table_files(place)[0].columns()


def read_table(place: Path, columns: Sequence[str], rows: int | None = None) -> "pd.DataFrame":
    """The given columns as text, a missing cell as "", at most `rows` rows, for small tables that must be whole.

    `InputError` when the table is empty or unreadable, or a row of it is.
    """
    import pandas as pd

    found = list[list[str]]()
    for file in table_files(place):
        for record in file.records(columns):
            if isinstance(record, Refusal):
                raise InputError(f"{file.path}: {record.detail}")
            found.append(record)
            if rows is not None and len(found) == rows:
                return pd.DataFrame(found, columns=list(columns), dtype="str")
    if not found:
        raise InputError(f"{place}: has a header but no rows; it needs at least one")
    return pd.DataFrame(found, columns=list(columns), dtype="str")
