"""Tables as a source: one file or many, of any kind that `readers` knows, read as one stream of text cells."""

import glob
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlim.catalog.rejection import Rejection
from mlim.errors import InputError
from mlim.pictures.base import PictureStore
from mlim.pictures.parquet_images import ParquetImages
from mlim.sources.base import RawRow
from mlim.sources.lines import UTF8
from mlim.sources.readers import TableFile

if TYPE_CHECKING:  # half a second to load, which reading rows need not wait for
    import pandas as pd

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class TableSource:
    """The rows of one or more table files; `elsewhere` holds the pictures that are not cells of the table.

    Lists of pictures in Parquet are named as a whole, or `every_picture` of them.
    """

    files: Sequence[TableFile]
    image_column: str
    elsewhere: PictureStore
    max_picture_bytes: int
    every_picture: bool = False
    counts: Counter[str] = field(default_factory=Counter)  # of the rows read last

    @classmethod
    def open(
        cls,
        place: Path,
        encoding: str,
        image_column: str,
        elsewhere: PictureStore,
        max_picture_bytes: int,
        delimiter: str | None = None,
        every_picture: bool = False,
    ) -> Self:
        """The table at `place`, a file or a pattern; `InputError` when there is none."""
        return cls(table_files(place, encoding, delimiter), image_column, elsewhere, max_picture_bytes, every_picture)

    def columns(self) -> Sequence[str]:
        """The columns of all files, each once, in the order in which they first come; `InputError` as `TableFile`'s."""
        return list(dict.fromkeys(name for file in self.files for name in file.columns()))

    def rows(self, columns: Sequence[str]) -> Iterator[RawRow]:
        """All rows, file by file in the order of their names.

        `InputError` before the first row when a file lacks a column, and where a file cannot be read on.
        """
        problems = [problem for file in self.files for problem in file.column_problems(columns)]
        if problems:
            raise InputError(*problems[:SHOWN_PROBLEMS])
        self.counts.clear()
        for file in self.files:
            picture = self.image_column if file.name in self._picture_files else None
            records = file.records(columns, picture, self.counts, self.every_picture)
            for row, record in enumerate(records, start=1):
                if isinstance(record, Rejection):
                    yield RawRow(file.name, row, {}, record)
                else:
                    yield RawRow(file.name, row, dict(zip(columns, record, strict=True)))

    def pictures(self) -> PictureStore:
        """Cells of a Parquet file where the image column holds bytes, else folder, archives or the web.

        `InputError` when a Parquet file holds its pictures in a way that cannot be read row by row.
        """
        if not self._picture_files:
            return self.elsewhere
        pictures = ParquetImages(self._picture_files, self.image_column, self.elsewhere, self.max_picture_bytes)
        pictures.check()
        return pictures

    def state(self) -> str:
        """Names, sizes and times of the files, in one line each."""
        return "\n".join(f"{file.name} {_stamp(file.path)}" for file in self.files)

    def report(self) -> Mapping[str, int]:
        """How many rows stood on several lines, where any did."""
        return +self.counts

    @cached_property
    def _picture_files(self) -> Mapping[str, Path]:
        """The Parquet files whose image column holds bytes, by name."""
        return {file.name: file.path.absolute() for file in self.files if self.image_column in file.picture_columns()}


def table_files(place: Path, encoding: str = UTF8, delimiter: str | None = None) -> list[TableFile]:
    """The files of a table, sorted by name; `InputError` when a pattern matches none or a file is no table."""
    if place.is_file() or not glob.has_magic(str(place)):
        file = TableFile(place, place.name, encoding, delimiter)
        file.check()
        return [file]
    parent = fixed_parent(place)
    matches = sorted(path for path in parent.glob(str(place.relative_to(parent))) if path.is_file())
    if not matches:
        raise InputError(f"{place}: no file matches this pattern; check `table` in the catalog's description")
    files = [TableFile(path, path.relative_to(parent).as_posix(), encoding, delimiter) for path in matches]
    for file in files:
        file.check()
    return files


def fixed_parent(place: Path) -> Path:
    """The folder of a file, or the deepest folder that a pattern names in full: file names are relative to it.

    A folder that exists is no wildcard, whatever its name looks like (`shoes [2024]`).
    """
    return next((parent for parent in place.parents if parent.is_dir() or not glob.has_magic(str(parent))), place)


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "is gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def column_names(place: Path) -> list[str]:
    """The columns of a table in order; `InputError` when it is missing, empty or unreadable."""
    return table_files(place)[0].columns()


def read_table(place: Path, columns: Sequence[str], rows: int | None = None) -> "pd.DataFrame":
    """The given columns as text, a missing cell as "", at most `rows` rows, for small tables that must be whole.

    `InputError` when the table is empty or unreadable, a row of it is, or a column of it.
    """
    import pandas as pd

    found = list[list[str]]()
    for file in table_files(place):
        if problems := file.column_problems(columns):
            raise InputError(*problems)
        for record in file.records(columns):
            if isinstance(record, Rejection):
                raise InputError(f"{file.path}: {record.detail}")
            found.append(record)
            if rows is not None and len(found) == rows:
                return pd.DataFrame(found, columns=list(columns), dtype="str")
    if not found:
        raise InputError(f"{place}: has a header but no rows; it needs at least one")
    return pd.DataFrame(found, columns=list(columns), dtype="str")
