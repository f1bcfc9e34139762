"""Parquet files as streams of records: a few thousand rows of the wanted columns are in memory at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.catalog.sources.records import Record, unusable
from mlim.catalog.sources.text import as_text

ROWS_PER_BATCH: Final = 4096
READ_AHEAD_BYTES: Final = 1 << 20  # of each column; without it a whole row group is read before its first row


def parquet_columns(path: Path) -> list[str]:
    """The columns of a file in order."""
    return list(pq.read_schema(path).names)


def picture_columns(path: Path) -> list[str]:
    """The columns of a file that hold bytes, plain or as Hugging Face writes pictures (`{bytes, path}`)."""
    return [field.name for field in pq.read_schema(path) if _holds_bytes(field.type)]


def picture_cell(file: str, row: int) -> str:
    """How a cell that holds a picture's bytes is named: the file and the row in it, from 1."""
    return f"{file}#{row}"


def open_parquet(path: Path) -> Any:
    """The file as a `ParquetFile` that reads its pages as they are asked for, not a row group at a time."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD_BYTES)


def parquet_records(path: Path, name: str, columns: Sequence[str], picture: str | None) -> Iterator[Record]:
    """The rows of the file called `name` in order, as texts; the cells of the column `picture` are named, not read."""
    row = 0
    with open_parquet(path) as source:
        known = source.schema_arrow.names
        read = [column for column in columns if column in known and column != picture]
        for batch in source.iter_batches(ROWS_PER_BATCH, columns=read):
            rows = range(row + 1, row + 1 + batch.num_rows)
            pictures = [picture_cell(name, number) for number in rows] if picture in columns else []
            absent = [""] * batch.num_rows
            texts = {column: _texts(batch.column(column)) for column in read}
            found = [pictures if column == picture else texts.get(column, absent) for column in columns]
            for row, cells in zip(rows, map(list, zip(*found, strict=True)), strict=True):
                yield unusable(cells, f"row {row}", encoding=None) or cells


def _holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, or structs with a field `bytes`."""
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and not pa.types.is_struct(kind.field(place).type) and _holds_bytes(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _texts(column: Any) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return [_text(value) for value in column]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # other writers do not check: the rows to blame are refused
        values = [
            value and value.decode(errors="surrogateescape") for value in column.cast(pa.large_binary()).to_pylist()
        ]
    return [value or "" for value in values]


def _text(value: Any) -> str:
    """The text of an Arrow scalar; where Python has no such value (a date after the year 9999), as Arrow writes it."""
    try:
        return as_text(value.as_py())
    except (OverflowError, ValueError, LookupError):
        return str(value.cast(pa.string()))
