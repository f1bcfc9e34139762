"""Table files as streams of records: CSV, TSV, JSON lines (each also gzipped) and Parquet.

A record that cannot be read is a `Refusal` in its place, and reading goes on behind it. A file that cannot be read on
(a broken gzip, a quote that never ends, a damaged Parquet) is an `InputError`: what its rest would hold is unknown.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import pyarrow as pa

from mlim.catalog.refusal import Refusal
from mlim.catalog.sources.parquet import parquet_columns, parquet_records, picture_columns
from mlim.catalog.sources.records import BROKEN_LINE, TOO_MANY_CELLS, Record, holds_escapes, not_in_encoding, unusable
from mlim.catalog.sources.text import as_text
from mlim.errors import InputError

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
JSON_LINES: Final = (".jsonl", ".ndjson")
PARQUET: Final = ".parquet"
GZIP: Final = ".gz"
KINDS: Final = (*DELIMITERS, *JSON_LINES, PARQUET)

UTF8: Final = "utf-8"
UTF8_WITH_OR_WITHOUT_MARK: Final = "utf-8-sig"
WIDE_ENCODINGS: Final = ("utf-16", "utf-32")
WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
LONGEST_CELL: Final = 1 << 26  # characters: a cell of megabytes is read (and then refused); a lost quote is told
LONGEST_LINE: Final = 1 << 27  # characters: a gzip file of a megabyte can hold a line that fills the memory


@dataclass(frozen=True)
class TableFile:
    """One file of a table; `name` is what a person is told of it."""

    path: Path
    name: str
    encoding: str

    @property
    def kind(self) -> str:
        """Its suffix without `.gz`: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet`."""
        return _kind(self.path)

    def check(self) -> None:
        """`InputError` when it is no file of a known kind."""
        if self.kind not in KINDS or (self.kind == PARQUET and self.path.suffix.lower() == GZIP):
            raise InputError(f"{self.path}: unknown kind of table; the name must end in {', '.join(KINDS)} (or .gz)")
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such table; check `table` in the catalog's description")

    def columns(self) -> list[str]:
        """The columns in order; `InputError` when the file is empty, unreadable, or names one twice."""
        self.check()
        with _explained(self):
            names = _columns_of(self)
        if not names:
            raise InputError(f"{self.path}: is empty; it needs a header and at least one row")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.path}: the header names {', '.join(f'`{name}`' for name in twice)} more than once")
        return names

    def picture_columns(self) -> list[str]:
        """The columns that hold bytes, which only Parquet can; `InputError` when the file is unreadable."""
        if self.kind != PARQUET:
            return []
        with _explained(self):
            return picture_columns(self.path)

    def start(self, size: int) -> bytes:
        """At most `size` bytes of the unpacked file; `InputError` when it is unreadable."""
        with _explained(self), _open_bytes(self) as source:
            found: bytes = source.read(size)
            return found

    def records(self, columns: Sequence[str], picture: str | None = None) -> Iterator[Record]:
        """The rows in order as texts in the order of `columns`; a column the file lacks is empty.

        The Parquet column `picture` holds bytes: its cells are not read but named, `NAME#ROW`.
        """
        with _explained(self):
            if self.kind == PARQUET:
                yield from parquet_records(self.path, self.name, columns, picture)
            elif self.kind in JSON_LINES:
                yield from _json_records(self, columns)
            else:
                yield from _delimited_records(self, columns)


def _kind(path: Path) -> str:
    stem = path.with_suffix("") if path.suffix.lower() == GZIP else path
    return stem.suffix.lower()


@contextmanager
def _explained(file: TableFile) -> Iterator[None]:
    """What the readers raise, as one sentence with the file's name."""
    try:
        yield
    except UnicodeError as error:
        told = f"{file.path}: cannot be read as {file.encoding} text ({error}); name another `encoding`"
        raise InputError(told) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file.path}: is a broken gzip file ({error}); make or fetch it again") from None
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise InputError(f"{file.path}: cannot be read as {file.kind}: {error}") from None


def _columns_of(file: TableFile) -> list[str]:
    if file.kind == PARQUET:
        return parquet_columns(file.path)
    if file.kind in JSON_LINES:
        objects = (found for _, found in _json_objects(file) if not isinstance(found, Refusal))
        return list(dict.fromkeys(name for found in objects for name in found))
    with _open_lines(file) as lines:
        names = _header(_reader(file, lines))
    if any(map(holds_escapes, names)):
        raise InputError(f"{file.path}: {not_in_encoding('the header', file.encoding).detail}")
    return names


# ---- text ----


def _open_bytes(file: TableFile) -> Any:
    """The file's bytes, unpacked."""
    opener: Callable[..., Any] = gzip.open if file.path.suffix.lower() == GZIP else open
    return opener(file.path, "rb")


@contextmanager
def _open_lines(file: TableFile) -> Iterator[Iterator[str]]:
    """The lines of a text file; bytes that the encoding does not know come as lone surrogates."""
    with _open_bytes(file) as source:
        buffered = io.BufferedReader(source)
        with _as_text(file, buffered, _codec(file, buffered.peek(2)[:2])) as text:
            yield _bounded(file, text)


def _codec(file: TableFile, start: bytes) -> str:
    """The codec for a file that starts so; `InputError` when there is none of that name, or the start is UTF-16."""
    try:
        codec = codecs.lookup(file.encoding).name
    except (LookupError, ValueError):  # the latter for a name with a NUL
        raise InputError(
            f"{file.path}: there is no encoding `{file.encoding}`; most tables are {UTF8} or windows-1252"
        ) from None
    if start in WIDE_MARKS and not codec.startswith(WIDE_ENCODINGS):
        raise InputError(f"{file.path}: is UTF-16 text; save it as UTF-8 or say `encoding: utf-16` in catalog.yaml")
    return UTF8_WITH_OR_WITHOUT_MARK if codec == UTF8 else codec


def _as_text(file: TableFile, source: io.BufferedReader, codec: str) -> TextIO:
    try:
        return io.TextIOWrapper(source, codec, errors="surrogateescape", newline="")
    except LookupError:  # Python's codecs are not all of text: `hex`, `zlib`
        raise InputError(f"{file.path}: `{file.encoding}` is no encoding of text; name another `encoding`") from None


def _bounded(file: TableFile, text: TextIO) -> Iterator[str]:
    """The lines with their ends; `InputError` at one that is too long to be a line of a table."""
    for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), start=1):
        if len(line) == LONGEST_LINE:
            raise InputError(f"{file.path}: line {number} has more than {LONGEST_LINE} characters; that is no table")
        yield line


# ---- CSV and TSV ----


def _reader(file: TableFile, lines: Iterator[str]) -> Any:
    """A reader of lines as cells. The limit on a cell is the csv module's only one, for the whole process."""
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=DELIMITERS[file.kind], strict=True)


def _header(reader: Any) -> list[str]:
    """The first line that is not blank."""
    return next((cells for cells in reader if cells), [])


def _delimited_records(file: TableFile, columns: Sequence[str]) -> Iterator[Record]:
    with _open_lines(file) as lines:
        reader = _reader(file, lines)
        names = _header(reader)
        places = [names.index(name) if name in names else None for name in columns]
        for start, cells in _rows(file, reader):
            if isinstance(cells, Refusal):
                yield cells
            elif cells:
                yield _screened(file, cells, len(names), start, reader.line_num) or _picked(cells, places)


def _rows(file: TableFile, reader: Any) -> Iterator[tuple[int, Record]]:
    """Every row with the number of its first line, or why it is none; `InputError` when a quote swallows the rest."""
    while True:
        start = reader.line_num + 1
        try:
            yield start, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = _lines(start, reader.line_num)
            if _is_lost(error):
                told = f"{file.path}: a quote that opens in {where} is never closed ({error}); mend it"
                raise InputError(told) from None
            yield start, Refusal(BROKEN_LINE, f"{where}: no row can be read ({error}); check the double quotes")


def _lines(start: int, end: int) -> str:
    """A quoted cell may hold line ends, so that a row can stand in several lines."""
    return f"line {start}" if start >= end else f"lines {start} to {end}"


def _is_lost(error: csv.Error) -> bool:
    """Whether the csv module means the end of the file inside quotes, or a cell beyond all reason."""
    return "unexpected end of data" in str(error) or "field larger" in str(error)


def _screened(file: TableFile, cells: list[str], width: int, start: int, end: int) -> Refusal | None:
    """Why a row's cells cannot be used, None when they can."""
    if len(cells) > width:  # a comma that is not quoted has moved every cell behind it
        return Refusal(
            TOO_MANY_CELLS,
            f"{_lines(start, end)}: {len(cells)} cells, but the header has {width}; "
            "put cells that hold the delimiter in double quotes",
        )
    return unusable(cells, _lines(start, end), file.encoding)


def _picked(cells: list[str], places: Sequence[int | None]) -> list[str]:
    count = len(cells)
    return [cells[place] if place is not None and place < count else "" for place in places]


# ---- JSON lines ----


def _json_records(file: TableFile, columns: Sequence[str]) -> Iterator[Record]:
    for where, found in _json_objects(file):
        yield found if isinstance(found, Refusal) else _json_record(found, columns, where, file.encoding)


def _json_record(found: dict[str, Any], columns: Sequence[str], where: str, encoding: str) -> Record:
    try:
        cells = [as_text(found.get(name)) for name in columns]
    except RecursionError:
        return Refusal(BROKEN_LINE, f"{where} holds lists in lists in lists, too deep to be text")
    return unusable(cells, where, encoding) or cells


def _json_objects(file: TableFile) -> Iterator[tuple[str, dict[str, Any] | Refusal]]:
    """(place, object or why there is none) of every line that is not blank."""
    with _open_lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"line {number}"
                yield where, _json_object(file, line, where)


def _json_object(file: TableFile, line: str, where: str) -> dict[str, Any] | Refusal:
    """One line's object; numbers stay the text they were written as."""
    if holds_escapes(line):
        return not_in_encoding(where, file.encoding)
    try:
        found = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda name: None)
    except (json.JSONDecodeError, RecursionError) as error:
        return Refusal(BROKEN_LINE, f"{where} is not JSON: {error}")
    if not isinstance(found, dict):
        return Refusal(BROKEN_LINE, f"{where} is not a JSON object; write one object per line")
    return found
