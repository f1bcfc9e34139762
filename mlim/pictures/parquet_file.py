"""Parquet files that hold pictures: how they are opened, and how a cell of them is named."""

import json
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

READ_AHEAD_BYTES: Final = 1 << 20  # of each column; without it a whole row group is read before its first row


def picture_cell(file: str, row: int) -> str:
    """How a cell that holds a picture's bytes is named: the file and the row in it, from 1."""
    return f"{file}#{row}"


def listed_cell(file: str, row: int, pictures: Any) -> str:
    """How a cell that holds a list of pictures is named: a JSON list of `FILE#ROW.PLACE`, the place from 1.

    Elements that hold nothing are passed over; `pictures` is None for a cell without a list.
    """
    places = (place for place, value in enumerate(pictures or [], start=1) if holds_something(value))
    return json.dumps([f"{picture_cell(file, row)}.{place}" for place in places], ensure_ascii=False)


def holds_something(value: Any) -> bool:
    """Whether an element of a list holds a picture's bytes, or a path to it."""
    return bool(value.get("bytes") or value.get("path") if isinstance(value, dict) else value)


def open_parquet(path: Path) -> Any:
    """The file as a `ParquetFile` that reads its pages as they are asked for, not a row group at a time."""
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD_BYTES)
