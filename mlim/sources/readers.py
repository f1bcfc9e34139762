"""Table files as streams of records: CSV, TSV, JSON lines (each also gzipped) and Parquet.

A record that cannot be read is a `Rejection` in its place, and reading goes on behind it. A file that cannot be read on
(a broken gzip, a quote that never ends, a damaged Parquet) is an `InputError`: what its rest would hold is unknown.
Each line or row of a file is counted a second time, by other code than reads it: `MlimError` where the counts differ.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import pyarrow as pa

from mlim.config import nearest
from mlim.errors import InputError
from mlim.sources.delimited import DelimitedFile
from mlim.sources.json_lines import json_keys, json_records
from mlim.sources.lines import GZIP, TextFile, text_errors
from mlim.sources.parquet import parquet_columns, parquet_records, picture_columns
from mlim.sources.records import Record

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}  # the usual ones: a file may have another
JSON_LINES: Final = (".jsonl", ".ndjson")
PARQUET: Final = ".parquet"
KINDS: Final = (*DELIMITERS, *JSON_LINES, PARQUET)


@dataclass(frozen=True)
class TableFile:
    """One file of a table; `name` is its name in messages."""

    path: Path
    name: str
    encoding: str
    delimiter: str | None = None  # of CSV and TSV; None: found in the first lines

    @property
    def kind(self) -> str:
        """Its suffix without `.gz`: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`."""
        stem = self.path.with_suffix("") if self.path.suffix.lower() == GZIP else self.path
        return stem.suffix.lower()

    def check(self) -> None:
        """`InputError` when it is no file of a known kind."""
        if self.kind not in KINDS or (self.kind == PARQUET and self.path.suffix.lower() == GZIP):
            raise InputError(f"{self.path}: unknown kind of table; the name must end in {', '.join(KINDS)} (or .gz)")
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such table; check `table` in the catalog's description")

    def columns(self) -> list[str]:
        """The columns that have a name, each once, in order; `InputError` when the file is empty or unreadable."""
        names = list(dict.fromkeys(name for name in self._header if name.strip()))
        if not names:
            raise InputError(f"{self.path}: is empty; it needs a header and at least one row")
        return names

    def repeated_columns(self) -> list[str]:
        """The names that stand more than once in the header, so that they are ambiguous."""
        return [name for name, count in Counter(self._header).items() if count > 1 and name.strip()]

    def unnamed_columns(self) -> list[int]:
        """The places in the header, from 1, that have no name; they are not read."""
        return [place for place, name in enumerate(self._header, start=1) if not name.strip()]

    def column_problems(self, columns: Sequence[str]) -> list[str]:
        """A sentence for each of `columns` that cannot be read; objects of JSON lines may leave keys out."""
        known, repeated = self.columns(), self.repeated_columns()
        missing = [] if self.kind in JSON_LINES else [name for name in columns if name not in known]
        twice = [name for name in columns if name in repeated]
        return [
            *(f"{self.path}: has no column `{name}`{nearest(name, known)}" for name in missing),
            *(f"{self.path}: the header names `{name}` more than once; rename all but one of them" for name in twice),
        ]

    def unusual_delimiter(self) -> str | None:
        """The delimiter of a CSV or TSV file where its name says another one, else None."""
        if self.kind not in DELIMITERS:
            return None
        with self._explained():
            found = self._delimited.found_delimiter()
        return None if found == DELIMITERS[self.kind] else found

    def picture_columns(self) -> list[str]:
        """The columns that hold bytes, which only Parquet can; `InputError` when the file is unreadable."""
        if self.kind != PARQUET:
            return []
        with self._explained():
            return picture_columns(self.path)

    def start(self, size: int) -> bytes:
        """At most `size` bytes of the unpacked file; `InputError` when it is unreadable."""
        with self._explained(), self._text.open_bytes() as source:
            found: bytes = source.read(size)
            return found

    def records(
        self,
        columns: Sequence[str],
        picture: str | None = None,
        counts: Counter[str] | None = None,
        every_picture: bool = False,
    ) -> Iterator[Record]:
        """The rows in order as texts in the order of `columns`; a column the file lacks is empty.

        The Parquet column `picture` holds bytes: its cells are not read but named, `NAME#ROW`; of lists only the first
        picture, or `every_picture`. What a person should know of the rows is added to `counts`.
        """
        with self._explained():
            if self.kind == PARQUET:
                yield from parquet_records(self.path, self.name, columns, picture, every_picture)
            elif self.kind in JSON_LINES:
                yield from json_records(self._text, columns)
            else:
                yield from self._delimited.records(columns, Counter() if counts is None else counts)

    @cached_property
    def _header(self) -> list[str]:
        """The names of the columns as they stand there, blank and repeated ones as well."""
        self.check()
        with self._explained():
            if self.kind == PARQUET:
                return parquet_columns(self.path)
            return json_keys(self._text) if self.kind in JSON_LINES else self._delimited.header()

    @property
    def _text(self) -> TextFile:
        return TextFile(self.path, self.encoding)

    @property
    def _delimited(self) -> DelimitedFile:
        return DelimitedFile(self._text, self.delimiter, DELIMITERS[self.kind])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the readers raise, as one sentence with the file's name."""
        try:
            with text_errors(self.path, self.encoding):
                yield
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path}: cannot be read as {self.kind}: {error}") from None
