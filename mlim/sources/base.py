"""What every source of a catalog gives: rows of text cells in a fixed order, and a store of their pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlim.catalog.rejection import Rejection
from mlim.pictures.base import PictureStore


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of a source. `source` and `row` (from 1, in that file) are where a person finds it again.

    `problem` is set when the row itself cannot be read (half a JSON line, too many cells); then `cells` holds what
    could be read of it, perhaps nothing.
    """

    source: str
    row: int
    cells: Mapping[str, str]
    problem: Rejection | None = None


class Source(Protocol):
    """A catalog's rows, read as a stream: memory does not grow with the catalog."""

    def columns(self) -> Sequence[str]:
        """Every column a row may have, in order; `InputError` when the source is missing, empty or unreadable."""

    def rows(self, columns: Sequence[str]) -> Iterator[RawRow]:
        """All rows in a fixed order with these columns as text (a missing cell is ""); `InputError` when unreadable."""

    def pictures(self) -> PictureStore:
        """Where the image column's references lead; can be pickled and used in other processes and machines."""

    def state(self) -> str:
        """A cheap fingerprint of the files that hold the rows (names, sizes, times): tells a change while reading."""

    def report(self) -> Mapping[str, int]:
        """What a person should know of the rows that were read, in words -> counts; empty where there is nothing."""
