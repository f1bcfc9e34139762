"""Tables of scored pairs as `mlim score` writes them, or as a spreadsheet or another program saved them since."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.catalog.rejection import Rejection
from mlim.catalog.values import comparable
from mlim.errors import InputError
from mlim.matching.pairs_table import ROWS_AT_ONCE, SIDES
from mlim.sources.lines import UTF8, WIDE_MARKS
from mlim.sources.readers import DELIMITERS, JSON_LINES, TableFile


def is_text_table(path: Path) -> bool:
    """Whether the cells of a table of scored pairs are texts, by the name's end; else it is read as Parquet."""
    return TableFile(path, path.name, UTF8).kind in (*DELIMITERS, *JSON_LINES)


def scored_rows(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """The `columns` of a table of scored pairs, some thousand rows at a time: ids as texts, all others as numbers.

    A number is missing where its cell is empty or says so. A text table is read as `mlim score` reads its pairs, in
    UTF-16 too, which spreadsheets write. `InputError` for a column that is missing, a row or number that cannot be
    read.
    """
    yield from _typed_rows(path, columns) if not is_text_table(path) else _text_rows(path, columns)


def _text_rows(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    file = TableFile(path, path.name, UTF8)
    if file.start(2) in WIDE_MARKS:
        file = TableFile(path, path.name, "utf-16")
    _check_columns(path, file.columns(), columns)
    if problems := file.column_problems(columns):
        raise InputError(*problems)
    records, first = file.records(columns), 1
    while batch := list(islice(records, ROWS_AT_ONCE)):
        rows = list[list[str]]()
        for row, record in enumerate(batch, start=first):
            if isinstance(record, Rejection):
                raise InputError(f"{path}: row {row}: {record.detail}")
            rows.append(record)
        frame = pd.DataFrame(rows, columns=list(columns), dtype="str")
        numbers = {name: _numbers(frame[name], path, first) for name in columns if name not in SIDES}
        yield frame.assign(**numbers)
        first += len(batch)


def _typed_rows(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    first = 1
    try:
        file = pq.ParquetFile(path)
        _check_columns(path, file.schema_arrow.names, columns)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
            cells = {
                name: _texts(batch.column(name)) if name in SIDES else _cells(batch.column(name)) for name in columns
            }
            frame = pd.DataFrame(cells)
            numbers = {name: _numbers(frame[name], path, first) for name in columns if name not in SIDES}
            yield frame.assign(**numbers)
            first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as a table of scored pairs, .parquet or .csv ({error})") from None


def _texts(column: Any) -> pd.Series:
    """The ids of an Arrow column as texts; numbers are ids, too."""
    texts: pd.Series = pc.fill_null(column.cast(pa.string()), "").to_pandas()
    return texts


def _cells(column: Any) -> pd.Series:
    """The cells of an Arrow column as numbers, or as the texts they are."""
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    cells: pd.Series = _texts(column) if is_text else column.cast(pa.float64()).to_pandas()
    return cells


def _check_columns(path: Path, there: Iterable[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in {*there}]
    if missing:
        raise InputError(
            f"{path}: lacks the columns {', '.join(missing)}; name a table with the columns {', '.join(columns)}, as "
            "`mlim score` writes it"
        )


def _numbers(cells: pd.Series, path: Path, first: int) -> NDArray[np.float64]:
    """The numbers (n,) in cells, missing where one is empty; `first` is the number of the first row."""
    found = np.array(pd.to_numeric(cells, errors="coerce"), dtype=np.float64)
    filled = (cells.notna() & (cells != "")).to_numpy(dtype=bool)
    for place in np.flatnonzero(filled & ~np.isfinite(found)).tolist():
        cell = str(cells.iloc[place])
        if comparable(cell) is not None:
            raise InputError(
                f"{path}: row {first + place}: the {cells.name} `{cell}` is no number; write it with a point, such as "
                "0.93, or leave it empty"
            )
        found[place] = np.nan
    return found
