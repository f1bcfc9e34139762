"""The source table, whatever its format, as text: ids keep their zeros, `NA` stays a value, nothing is guessed."""

import csv
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mlim.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
SUFFIXES = (*DELIMITERS, *JSON_LINES, PARQUET)
UTF8_WITH_OR_WITHOUT_BOM = "utf-8-sig"
LIST_SEPARATOR = ", "
ROWS_PER_CHUNK = 20_000


def column_names(path: Path) -> list[str]:
    """The columns of a table in order; `InputError` when it is missing, empty, unreadable, or names one twice."""
    _check_file(path)
    with _explained(path):
        names = _names(path)
    if not names:
        raise InputError(f"{path}: is empty; it needs a header and at least one row")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the header names {', '.join(f'`{name}`' for name in twice)} more than once")
    return names


def read_table(path: Path, columns: Sequence[str], rows: int | None = None) -> pd.DataFrame:
    """The given columns as text, a missing cell as "", at most `rows` rows; `InputError` when unreadable or empty."""
    _check_file(path)
    with _explained(path):
        records = itertools.islice(_records(path, columns), rows)
        frames = [pd.DataFrame(chunk, columns=list(columns), dtype="str") for chunk in _chunked(records)]
    if not frames:
        raise InputError(f"{path}: has a header but no rows; it needs at least one")
    return pd.concat(frames, ignore_index=True)


def as_text(value: Any) -> str:
    """A JSON or Parquet value as a person would type it: 12.0 is `12`, null is empty, a list is `a, b`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return LIST_SEPARATOR.join(filter(None, map(as_text, value)))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    # JSON can spell half of a surrogate pair, which no UTF-8 file can hold
    return str(value).encode("utf-8", errors="replace").decode("utf-8")


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of table; the name must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such table; check `table` in the catalog's description")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What the readers raise, as one sentence with the file's name."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except (csv.Error, pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: cannot be read as {path.suffix}: {error}") from None


def _names(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        return list(pq.read_schema(path).names)
    if suffix in JSON_LINES:
        return list(dict.fromkeys(name for record in _json_lines(path) for name in record))
    return next((cells for _, cells in _delimited(path)), [])


def _records(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    """The rows as texts, in the order of `columns`."""
    suffix = path.suffix.lower()
    if suffix == PARQUET:
        for batch in pq.ParquetFile(path).iter_batches(columns=list(columns)):
            yield from ([as_text(row[name]) for name in columns] for row in batch.to_pylist())
    elif suffix in JSON_LINES:
        yield from ([as_text(record.get(name)) for name in columns] for record in _json_lines(path))
    else:
        yield from _delimited_records(path, columns)


def _delimited_records(path: Path, columns: Sequence[str]) -> Iterator[list[str]]:
    lines = _delimited(path)
    _, names = next(lines, (0, []))
    places = [names.index(name) for name in columns]
    for number, cells in lines:
        if len(cells) > len(names):  # a comma that is not quoted has moved every cell behind it
            raise InputError(
                f"{path}: line {number} has {len(cells)} cells, the header {len(names)}; "
                "put cells that hold the delimiter in double quotes"
            )
        yield [cells[place] if place < len(cells) else "" for place in places]


def _delimited(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not blank."""
    with path.open(encoding=UTF8_WITH_OR_WITHOUT_BOM, newline="") as source:
        reader = csv.reader(source, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
        yield from ((reader.line_num, cells) for cells in reader if cells)


def _chunked(records: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    """A table's strings take far less memory than Python's own: few rows are held as the latter at a time."""
    while chunk := list(itertools.islice(records, ROWS_PER_CHUNK)):
        yield chunk


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file; numbers stay the text they were written as."""
    with path.open(encoding=UTF8_WITH_OR_WITHOUT_BOM) as source:
        for number, line in enumerate(source, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda name: None)
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{path}: line {number} is not JSON: {error}") from None
            if not isinstance(record, dict):
                raise InputError(f"{path}: line {number} is not a JSON object; write one object per line")
            yield record
