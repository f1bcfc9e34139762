"""The row log: one line for every source row, and its item or the reason of its rejection."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROW_LOG_FILE = "ledger.parquet"
REPETITIVE = ["source", "shard", "reason"]
LINES_PER_GROUP = 1 << 14  # every group costs as much time as a thousand lines


def read_row_log(folder: Path, columns: Sequence[str] | None = None) -> Any:
    """The row log of a folder of items as an Arrow table in the order of the source's rows.

    The lines whose `reason` is null are the items, in the order of the manifest.
    """
    return pq.read_table(folder / ROW_LOG_FILE, columns=None if columns is None else list(columns))


def iterate_row_log(folder: Path, columns: Sequence[str]) -> Iterator[Any]:
    """The same as record batches, for catalogs too large to hold at once; columns that repeat are dictionaries."""
    yield from pq.ParquetFile(folder / ROW_LOG_FILE, read_dictionary=REPETITIVE).iter_batches(columns=list(columns))
