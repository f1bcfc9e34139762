"""CSV and TSV files as records: a header, then rows cut at a delimiter that is found or named."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Final

from mlim.catalog.rejection import Rejection
from mlim.catalog.texts import holds_escapes
from mlim.errors import InputError, MlimError
from mlim.sources.dialect import (
    LINES_COMPARED,
    SHOWN_CHARACTERS,
    LostQuoteError,
    RecordReader,
    find_delimiter,
    lines_named,
    over_lines,
    separator_of,
)
from mlim.sources.lines import TextFile
from mlim.sources.records import TOO_MANY_CELLS, Record, not_in_encoding, unusable

ROWS_OVER_LINES: Final = "rows over several lines"


@dataclass(frozen=True)
class DelimitedFile:
    """A text file of delimited cells; `delimiter` None is found in the first lines, `usual` where they do not tell."""

    text: TextFile
    delimiter: str | None
    usual: str

    def header(self) -> list[str]:
        """The names in the header, blank and repeated ones as well, without surplus delimiters at its end."""
        with self._open() as (reader, _):
            return self._header(reader).names

    def found_delimiter(self) -> str:
        """The delimiter that is used."""
        with self._open() as (_, delimiter):
            return delimiter

    def records(self, columns: Sequence[str], counts: Counter[str]) -> Iterator[Record]:
        """The rows as texts in the order of `columns`; `MlimError` unless every line of the file was read once."""
        with self._open() as (reader, _):
            header = self._header(reader)
            places = [header.names.index(name) if name in header.names else None for name in columns]
            last = header.line
            for start, end, cells in self._rows(reader):
                if start != last + 1:
                    raise MlimError(f"{self.text.path}: line {start} follows line {last}; please report this")
                last = end
                if end > start:
                    counts[ROWS_OVER_LINES] += 1
                if isinstance(cells, Rejection):
                    yield cells
                elif cells:
                    count = len(cells)
                    picked = [cells[place] if place is not None and place < count else "" for place in places]
                    yield self._unusable(cells, header, start, end) or picked
        self.text.check_count(last)

    @contextmanager
    def _open(self) -> Iterator[tuple[RecordReader, str]]:
        """A reader of the records behind a line `sep=`, and the delimiter they are cut at."""
        with self.text.open_lines() as lines:
            first = list(islice(lines, LINES_COMPARED))
            named = separator_of(first[0]) if first else None
            behind = first if named is None else first[1:]
            delimiter = self.delimiter or named or find_delimiter(behind, self.usual)
            yield RecordReader(chain(behind, lines), delimiter, 1 + len(first) - len(behind)), delimiter

    def _rows(self, reader: RecordReader) -> Iterator[tuple[int, int, Record]]:
        """The reader's records; `InputError` where a quote swallows the rest."""
        try:
            yield from reader
        except LostQuoteError as lost:
            problem = f"{self.text.path}: a quote that opens in line {lost.number} is never closed; mend it"
            raise InputError(problem) from None

    def _header(self, reader: RecordReader) -> "_Header":
        """The first line that is not blank, after which the reader knows how many cells a row has."""
        start, end, cells = next((found for found in self._rows(reader) if found[2]), (0, 0, []))
        if isinstance(cells, Rejection):
            raise InputError(f"{self.text.path}: the header cannot be read: {cells.detail}")
        if any(map(holds_escapes, cells)):
            raise InputError(f"{self.text.path}: {not_in_encoding('the header', self.text.encoding).detail}")
        if any(reader.delimiter in cell for cell in cells if over_lines(cell)):
            raise InputError(f"{self.text.path}: a quote in the header opens {lines_named(start, end)}; mend it")
        reader.width = len(cells) + reader.surplus(len(cells))
        names = cells[: max((place for place, name in enumerate(cells, start=1) if name.strip()), default=0)]
        return _Header(names, reader.width, end)

    def _unusable(self, cells: list[str], header: "_Header", start: int, end: int) -> Rejection | None:
        """Why a row's cells cannot be used, None when they can."""
        where, count = lines_named(start, end), len(header.names)
        if len(cells) > count and (len(cells) > header.width or any(cell.strip() for cell in cells[count:])):
            return Rejection(  # a delimiter that is not quoted has moved every cell behind it
                TOO_MANY_CELLS,
                f"{where}: {len(cells)} cells, but the header has {count} (left over: "
                f"{' '.join(map(repr, cells[count:]))[:SHOWN_CHARACTERS]}); put cells that hold the delimiter in "
                "double quotes, with quotes inside doubled, and leave no delimiter at the end",
            )
        return unusable(cells, where, self.text.encoding)


@dataclass(frozen=True)
class _Header:
    """The names of the columns, how many cells a row may have (those beyond the names are blank), and its last line."""

    names: list[str]
    width: int
    line: int
