"""Rows that were quarantined: each with its stable reason, a sentence, and a small picture where there is one."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow.parquet as pq

from mlim.catalog.item import QUARANTINE_SCHEMA
from mlim.catalog.row_writer import RowWriter
from mlim.console import printable

if TYPE_CHECKING:  # half a second to load, which ingest need not wait for
    import pandas as pd

QUARANTINE_FILE = "quarantine.parquet"
FIRST_ROWS = 3  # of each reason are quoted
SHOWN_CHARACTERS = 40  # of an id
LONGEST_LINE = 400


@dataclass(frozen=True)
class Quarantined:
    """One row that was quarantined. `row` counts the data rows of the file `source` from 1."""

    source: str
    row: int
    id: str
    stage: Literal["ingest", "validate", "annotate", "regions"]
    reason: str
    detail: str
    thumbnail: bytes | None = None


class QuarantineWriter:
    """Writes quarantined rows as they come and counts them by reason."""

    def __init__(self, writer: RowWriter) -> None:
        self._writer, self._counts = writer, Counter[str]()

    def add(self, row: Quarantined) -> None:
        """Write one row."""
        self._writer.add(asdict(row))
        self._counts[row.reason] += 1

    @property
    def counts(self) -> dict[str, int]:
        """Rows by reason, in alphabetical order."""
        return dict(sorted(self._counts.items()))


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> dict[str, int]:
    """Write the rows to a Parquet file and return their counts by reason."""
    with RowWriter(path, QUARANTINE_SCHEMA) as rows_out:
        writer = QuarantineWriter(rows_out)
        for row in rows:
            writer.add(row)
    return writer.counts


def read_quarantine(path: Path) -> "pd.DataFrame":
    """The quarantined rows as a table with the columns of `QUARANTINE_SCHEMA`."""
    frame: pd.DataFrame = pq.read_table(path).to_pandas()
    return frame


def first_rejected(path: Path) -> list[str]:
    """A line for each of the first rows of every reason in a quarantine: reason, file, row, id and what is wrong.

    Cells of the catalog cannot steer a terminal, and only their beginnings are shown.
    """
    shown = dict[str, list[str]]()
    for batch in pq.ParquetFile(path).iter_batches(columns=["reason", "source", "row", "id", "detail"]):
        for row in batch.to_pylist():
            lines = shown.setdefault(row["reason"], [])
            if len(lines) < FIRST_ROWS:
                identity = f" ({row['id'][:SHOWN_CHARACTERS]})" if row["id"].strip() else ""
                line = f"  {row['reason']}: {row['source']} row {row['row']}{identity}: {row['detail']}"
                lines.append(printable(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."))
    return [line for reason in sorted(shown) for line in shown[reason]]


def describe_reasons(counts: Mapping[str, int]) -> str:
    """The reasons for a person, most frequent first: `missing-image 12, duplicate-id 3`."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ordered)
