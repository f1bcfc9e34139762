"""Parquet files as streams of records: a few thousand rows of the wanted columns are in memory at a time."""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlim.errors import MlimError
from mlim.pictures.parquet_file import listed_cell, open_parquet, picture_cell
from mlim.sources.records import Record, unusable
from mlim.sources.text import as_text

ROWS_PER_BATCH: Final = 4096
LISTS_PER_BATCH: Final = 8  # of pictures


def parquet_columns(path: Path) -> list[str]:
    """The columns of a file in order."""
    return list(pq.read_schema(path).names)


def picture_columns(path: Path) -> list[str]:
    """The columns of a file that hold bytes: plain, as Hugging Face writes pictures (`{bytes, path}`), or in lists."""
    return [field.name for field in pq.read_schema(path) if _holds_bytes(field.type)]


def parquet_records(
    path: Path, name: str, columns: Sequence[str], picture: str | None, every_picture: bool = False
) -> Iterator[Record]:
    """The rows of the file called `name` in order, as texts; the cells of the column `picture` are named, not read.

    With `every_picture` the pictures of its lists are named each, for which they are read once.
    """
    row = 0
    with open_parquet(path) as source:
        cells_of_pictures = _picture_cells(path, name, source.schema_arrow, picture, every_picture)
        known = source.schema_arrow.names
        read = [column for column in columns if column in known and column != picture]
        for batch in source.iter_batches(ROWS_PER_BATCH, columns=read):
            rows = range(row + 1, row + 1 + batch.num_rows)
            pictures = list(islice(cells_of_pictures, batch.num_rows)) if picture in columns else []
            absent = [""] * batch.num_rows
            texts = {column: _texts(batch.column(column)) for column in read}
            found = [pictures if column == picture else texts.get(column, absent) for column in columns]
            for row, cells in zip(rows, map(list, zip(*found, strict=True)), strict=True):
                yield unusable(cells, f"row {row}", encoding=None) or cells
        if row != source.metadata.num_rows:
            raise MlimError(f"{path}: holds {source.metadata.num_rows} rows, but {row} were read; please report this")


def _picture_cells(path: Path, name: str, schema: Any, picture: str | None, every_picture: bool) -> Iterator[str]:
    """The names of the cells of the column `picture`, row after row."""
    if picture is None or not (every_picture and is_list(schema.field(picture).type)):
        yield from (picture_cell(name, row) for row in count(1))
        return
    row = 0
    with open_parquet(path) as source:
        for batch in source.iter_batches(LISTS_PER_BATCH, columns=[picture], use_threads=False):
            for pictures in batch.column(0):
                row += 1
                yield listed_cell(name, row, pictures.as_py())


def is_list(kind: Any) -> bool:
    """Whether values of an Arrow type are lists, of whatever layout."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds_bytes(kind: Any) -> bool:
    """Whether values of an Arrow type are bytes, structs with a field `bytes`, or lists of one of them."""
    if is_list(kind):
        return not is_list(kind.value_type) and _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _texts(column: Any) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return [_text(value) for value in column]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # other writers do not check: the rows to blame are rejected
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
