"""Table files as streams of records: CSV, TSV, JSON lines (each also gzipped) and Parquet.

A record that cannot be read is a `Refusal` in its place, and reading goes on behind it. A file that cannot be read on
(a broken gzip, a quote that never ends, a damaged Parquet) is an `InputError`: what its rest would hold is unknown.
"""

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
import pyarrow.parquet as pq

from mlim.catalog.refusal import Refusal
from mlim.catalog.sources.text import as_text
from mlim.errors import InputError

BROKEN_LINE: Final = "broken-line"
TOO_MANY_CELLS: Final = "too-many-cells"
NUL_BYTE: Final = "nul-byte"
NOT_IN_ENCODING: Final = "not-in-encoding"

DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
JSON_LINES: Final = (".jsonl", ".ndjson")
PARQUET: Final = ".parquet"
GZIP: Final = ".gz"
KINDS: Final = (*DELIMITERS, *JSON_LINES, PARQUET)

UTF8: Final = "utf-8"
UTF8_WITH_OR_WITHOUT_MARK: Final = "utf-8-sig"
UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
USUAL_OTHER_ENCODING: Final = "windows-1252"
LONGEST_CELL: Final = 1 << 26  # characters: a cell of megabytes is read (and then refused); a lost quote is told
ROWS_PER_BATCH: Final = 4096

Record = list[str] | Refusal


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

    def records(self, columns: Sequence[str], picture: str | None = None) -> Iterator[Record]:
        """The rows in order as texts in the order of `columns`; a column the file lacks is empty.

        The Parquet column `picture` holds bytes: its cells are not read but named, `NAME#ROW`.
        """
        with _explained(self):
            if self.kind == PARQUET:
                yield from _parquet_records(self, columns, picture)
            elif self.kind in JSON_LINES:
                yield from _json_records(self, columns)
            else:
                yield from _delimited_records(self, columns)


def _kind(path: Path) -> str:
    stem = path.with_suffix("") if path.suffix.lower() == GZIP else path
    return stem.suffix.lower()


def picture_cell(file: str, row: int) -> str:
    """How a cell that holds a picture's bytes is named: the file and the row in it, from 1."""
    return f"{file}#{row}"


def picture_columns(path: Path) -> list[str]:
    """The columns of a Parquet file that hold bytes, plain or as Hugging Face writes pictures (`{bytes, path}`)."""
    return [field.name for field in pq.read_schema(path) if holds_bytes(field.type)]


def holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, or structs with a field `bytes`."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


@contextmanager
def _explained(file: TableFile) -> Iterator[None]:
    """What the readers raise, as one sentence with the file's name."""
    try:
        yield
    except (UnicodeError, LookupError) as error:
        told = f"{file.path}: cannot be read as {file.encoding} text ({error}); name another `encoding`"
        raise InputError(told) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{file.path}: is a broken gzip file ({error}); make or fetch it again") from None
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise InputError(f"{file.path}: cannot be read as {file.kind}: {error}") from None


@contextmanager
def _open_text(file: TableFile) -> Iterator[TextIO]:
    """The file as text; bytes that the encoding does not know come as lone surrogates, to be refused with their row."""
    opener: Callable[..., Any] = gzip.open if file.path.suffix.lower() == GZIP else open
    with opener(file.path, "rb") as source:
        buffered = io.BufferedReader(source)
        if file.encoding.lower() == UTF8 and buffered.peek(2)[:2] in UTF16_MARKS:
            raise InputError(f"{file.path}: is UTF-16 text; save it as UTF-8 or say `encoding: utf-16` in catalog.yaml")
        encoding = UTF8_WITH_OR_WITHOUT_MARK if file.encoding.lower() == UTF8 else file.encoding
        yield io.TextIOWrapper(buffered, encoding, errors="surrogateescape", newline="")


def _not_in_encoding(file: TableFile, where: str) -> Refusal:
    return Refusal(
        NOT_IN_ENCODING,
        f"{where} has bytes that are not {file.encoding}; save the table as UTF-8 or name its `encoding` in "
        f"catalog.yaml (often {USUAL_OTHER_ENCODING})",
    )


def _escaped(text: str) -> bool:
    """Whether a text holds bytes that could not be decoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _columns_of(file: TableFile) -> list[str]:
    if file.kind == PARQUET:
        return list(pq.read_schema(file.path).names)
    if file.kind in JSON_LINES:
        objects = (found for _, found in _json_objects(file) if not isinstance(found, Refusal))
        return list(dict.fromkeys(name for found in objects for name in found))
    with _open_text(file) as source:
        names: list[str] = next((cells for cells in _reader(file, source) if cells), [])
    if any(map(_escaped, names)):
        raise InputError(f"{file.path}: {_not_in_encoding(file, 'the header').detail}")
    return names


# ---- CSV and TSV ----


def _reader(file: TableFile, source: TextIO) -> Any:
    """A reader of lines as cells. The limit on a cell is the csv module's only one, for the whole process."""
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(source, delimiter=DELIMITERS[file.kind], strict=True)


def _delimited_records(file: TableFile, columns: Sequence[str]) -> Iterator[Record]:
    with _open_text(file) as source:
        reader = _reader(file, source)
        names: list[str] = next((cells for cells in reader if cells), [])
        places = [names.index(name) if name in names else None for name in columns]
        for cells in _lines(file, reader):
            if isinstance(cells, Refusal):
                yield cells
            elif cells:
                yield _screened(file, cells, len(names), reader.line_num) or _picked(cells, places)


def _lines(file: TableFile, reader: Any) -> Iterator[Record]:
    """Every line, or why it is none; `InputError` when a quote swallows the rest of the file."""
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if _is_lost(error):
                raise InputError(
                    f"{file.path}: a quote that is open in or before line {reader.line_num} is never closed ({error}); "
                    "mend that line"
                ) from None
            yield Refusal(BROKEN_LINE, f"line {reader.line_num} is no line of {file.kind[1:].upper()} ({error})")


def _is_lost(error: csv.Error) -> bool:
    """Whether the csv module means the end of the file inside quotes, or a cell beyond all reason."""
    return "unexpected end of data" in str(error) or "field larger" in str(error)


def _screened(file: TableFile, cells: list[str], width: int, line: int) -> Refusal | None:
    """Why a line's cells cannot be used, None when they can."""
    if len(cells) > width:  # a comma that is not quoted has moved every cell behind it
        return Refusal(
            TOO_MANY_CELLS,
            f"line {line} has {len(cells)} cells, the header {width}; "
            "put cells that hold the delimiter in double quotes",
        )
    if _has_nul(cells):
        return _with_nul(f"line {line}")
    whole = "".join(cells)
    return _not_in_encoding(file, f"line {line}") if not whole.isascii() and _escaped(whole) else None


def _has_nul(cells: Sequence[str]) -> bool:
    return any("\0" in cell for cell in cells)


def _with_nul(where: str) -> Refusal:
    return Refusal(NUL_BYTE, f"{where} holds a NUL character; write the table again without it")


def _picked(cells: list[str], places: Sequence[int | None]) -> list[str]:
    count = len(cells)
    return [cells[place] if place is not None and place < count else "" for place in places]


# ---- JSON lines ----


def _json_records(file: TableFile, columns: Sequence[str]) -> Iterator[Record]:
    for number, found in _json_objects(file):
        if isinstance(found, Refusal):
            yield found
            continue
        cells = [as_text(found.get(name)) for name in columns]
        yield _with_nul(f"line {number}") if _has_nul(cells) else cells


def _json_objects(file: TableFile) -> Iterator[tuple[int, dict[str, Any] | Refusal]]:
    """(line number, object or why there is none) of every line that is not blank."""
    with _open_text(file) as source:
        for number, line in enumerate(source, start=1):
            if line.strip():
                yield number, _json_object(file, line, f"line {number}")


def _json_object(file: TableFile, line: str, where: str) -> dict[str, Any] | Refusal:
    """One line's object; numbers stay the text they were written as."""
    if not line.isascii() and _escaped(line):
        return _not_in_encoding(file, where)
    try:
        found = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda name: None)
    except (json.JSONDecodeError, RecursionError) as error:
        return Refusal(BROKEN_LINE, f"{where} is not JSON: {error}")
    if not isinstance(found, dict):
        return Refusal(BROKEN_LINE, f"{where} is not a JSON object; write one object per line")
    return found


# ---- Parquet ----


def _parquet_records(file: TableFile, columns: Sequence[str], picture: str | None) -> Iterator[Record]:
    with pq.ParquetFile(file.path) as source:
        known = source.schema_arrow.names
        read = [name for name in columns if name in known and name != picture]
        if not read:
            yield from ([_unread(file, name, picture, row) for name in columns] for row in _row_numbers(source))
            return
        row = 0
        for batch in source.iter_batches(batch_size=ROWS_PER_BATCH, columns=read):
            texts = {name: _texts(batch.column(name)) for name in read}
            for position in range(batch.num_rows):
                row += 1
                cells = [
                    texts[name][position] if name in texts else _unread(file, name, picture, row) for name in columns
                ]
                yield _with_nul(f"row {row}") if _has_nul(cells) else cells


def _row_numbers(source: Any) -> range:
    return range(1, source.metadata.num_rows + 1)


def _unread(file: TableFile, name: str, picture: str | None, row: int) -> str:
    """The text of a cell whose column was not read: a picture is named, a column that is not there is empty."""
    return picture_cell(file.name, row) if name == picture else ""


def _texts(column: Any) -> list[str]:
    values = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return ["" if value is None else value for value in values]
    return [as_text(value) for value in values]
