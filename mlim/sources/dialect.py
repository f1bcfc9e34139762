"""Lines of CSV and TSV as records: what a quote means, which delimiter it is, and that no line is lost.

A double quote is one only where it encloses a whole cell: it stands right behind a delimiter or at the start of the
line, its partner right before a delimiter or at the end, and quotes between them are doubled. Every other quote is a
character of the text (`12" wide`).

A quoted cell may run over lines. Two stray quotes look just the same and would make one row of many, so the lines
decide: where most of them are as wide as the header, they are rows. Then the two lines that hold the quotes are
rejected, and the lines between them are rows of their own. Where each delimiter in the cell is followed by a blank, as
in a sentence, it is a cell after all.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from mlim.catalog.rejection import Rejection
from mlim.sources.records import BROKEN_LINE, Record

CANDIDATES: Final = (",", ";", "\t", "|")
LINE_END: Final = "\r\n"
QUOTE: Final = '"'
LONGEST_CELL: Final = 1 << 26  # characters of a quoted cell that runs over lines; behind them its end is not looked for
LOOK_AHEAD: Final = 100  # lines: so many that look like rows are no cell
LINES_COMPARED: Final = 50  # to find the delimiter
SHOWN_CHARACTERS: Final = 40

SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?\1*', re.IGNORECASE)
INSIDE: Final = r'[^"]*+(?:""[^"]*+)*+'
WHOLE_QUOTED_CELL: Final = re.compile(rf'(?:(?<=[,;\t|\r\n])|\A)"{INSIDE}"(?=[,;\t|\r\n]|\Z)')


class LostQuoteError(Exception):
    """A quote opens in the line `number` and nothing closes it; never reaches a person as it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def separator_of(first: str) -> str | None:
    """The delimiter that a first line `sep=;` names, as Excel reads and writes it; None when it is no such line."""
    found = SEPARATOR_LINE.fullmatch(first.strip(LINE_END))
    return found[1] if found else None


def find_delimiter(lines: Iterable[str], usual: str) -> str:
    """The delimiter that most of the first lines repeat as often as the header; `usual` where that does not decide.

    Quoted cells are left out of the count, and a delimiter that the header lacks is none.
    """
    bare = WHOLE_QUOTED_CELL.sub("", "".join(lines))
    counted = [line for line in re.split(r"[\r\n]+", bare) if line.strip()] or [""]

    def evidence(delimiter: str) -> tuple[int, int, bool]:
        width = counted[0].count(delimiter)
        return sum(line.count(delimiter) == width for line in counted), width, delimiter == usual

    return max((delimiter for delimiter in CANDIDATES if delimiter in counted[0]), key=evidence, default=usual)


class _End(Enum):
    """How the lines of a quoted cell end."""

    CLOSED = auto()
    BROKEN = auto()  # by a quote that neither closes the cell nor is doubled
    NEVER = auto()


class Dialect:
    """How one line, or the text of one record, is cut into cells."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter
        self._texts = list[
            str
        ]()  # the one that the reader takes next: a reader for each line would take twice the time
        self._reader = csv.reader(iter(self._texts.pop, None), delimiter=delimiter, strict=True)
        mark = re.escape(delimiter)
        self._cell = re.compile(rf'(?:"({INSIDE})"(?={mark}|\Z)|([^{mark}]*+))({mark}|\Z)')
        self._open = re.compile(rf'"{INSIDE}\Z')
        self._inside = re.compile(rf"{INSIDE}\Z")
        self._close = re.compile(rf'{INSIDE}"(?={mark}|\Z)')

    def cut(self, text: str) -> list[str]:
        """The cells of a text without its line end; a quote that encloses no whole cell is a character."""
        cells = self.cut_plain(text)
        return [cell for cell, _ in self._cells(text)] if cells is None else cells

    def cut_plain(self, text: str) -> list[str] | None:
        """The cells of a line, fast; None where a quote at the start of a cell has no partner at its end."""
        if not text.startswith(QUOTE) and self.delimiter + QUOTE not in text:
            return text.split(self.delimiter)
        self._texts.append(text)
        try:
            return next(self._reader)
        except (csv.Error, IndexError):  # the latter where the text ends inside a cell and the reader wants another one
            return None

    def opening(self, text: str) -> int | None:
        """Where a cell begins whose quote is still open at the end of a line; None where there is none."""
        return next((start for _, start in self._cells(text) if self._open.match(text, start)), None)

    def go_on(self, text: str) -> _End | None:
        """What a line does to the quoted cell that is open at its start; None when one is open at its end as well."""
        close = self._close.match(text)
        if close is None:
            return None if self._inside.match(text) else _End.BROKEN
        return _End.CLOSED if self.opening(text[close.end() :]) is None else None

    def _cells(self, text: str) -> Iterator[tuple[str, int]]:
        """The cells and where each begins."""
        for found in self._cell.finditer(text):
            quoted, bare, delimiter = found.groups()
            yield bare if quoted is None else quoted.replace('""', QUOTE), found.start()
            if not delimiter:
                return


@dataclass
class _Block:
    """The lines over which a quoted cell runs, and how many of them are as wide as the header."""

    first: int
    lines: list[str] = field(default_factory=list)
    filled: int = 0
    wide: int = 0

    @property
    def look_like_rows(self) -> bool:
        return 2 * self.wide > self.filled

    @property
    def last(self) -> int:
        return self.first + len(self.lines) - 1


class RecordReader:
    """The records of a table's lines: (first line, last line, cells or why there are none), each line in one of them.

    Lines are counted from `first_line`; a blank one has no cells. `width` (of a row) is set once the header is known.
    """

    def __init__(self, lines: Iterator[str], delimiter: str, first_line: int = 1) -> None:
        self.delimiter = delimiter
        self._lines, self._dialect, self._next = lines, Dialect(delimiter), first_line
        self._again = deque[str]()  # lines that were looked at and are still to be read
        self.width: int | None = None

    def __iter__(self) -> Iterator[tuple[int, int, Record]]:
        """All records from here on; `LostQuoteError` where a quote swallows the rest."""
        delimiter, cut_plain = self.delimiter, self._dialect.cut_plain
        while (line := self._take()) is not None:
            text, number = line.rstrip(LINE_END), self._next - 1
            if QUOTE not in text:
                yield number, number, text.split(delimiter) if text else []
            elif (cells := cut_plain(text)) is not None and len(cells) == self.width:
                yield number, number, cells
            else:
                yield from self._quoted(line, text, number)

    def surplus(self, width: int) -> int:
        """How many delimiters too many most of the next lines end in, below a header of `width` cells."""
        while len(self._again) < LINES_COMPARED and (line := next(self._lines, None)) is not None:
            self._again.append(line)
        cut = [self._dialect.cut(text) for line in self._again if (text := line.rstrip(LINE_END))]
        blank = Counter(len(cells) - width for cells in cut if len(cells) >= width and not any(cells[width:]))
        usual, lines = max(blank.items(), key=lambda found: found[1], default=(0, 0))
        return usual if 2 * lines > len(cut) else 0

    def _take(self) -> str | None:
        line = self._again.popleft() if self._again else next(self._lines, None)
        if line is not None:
            self._next += 1
        return line

    def _quoted(self, line: str, text: str, number: int) -> Iterator[tuple[int, int, Record]]:
        """The records that begin with a line whose quotes are stray, run over lines, or make it misfit."""
        opening = self._dialect.opening(text)
        if opening is None:
            yield number, number, self._single(text, number)
            return
        block = _Block(number)
        end = self._read_on(block, line)
        if end is _End.CLOSED:
            yield from self._closed(block, text[opening:])
        elif block.look_like_rows:
            self._give_back(block.lines[1:])
            yield number, number, self._literal(text, number)
        elif end is _End.BROKEN:
            yield block.first, block.last, _broken(lines_named(block.first, block.last))
        else:
            raise LostQuoteError(number)

    def _single(self, text: str, number: int) -> Record:
        """The cells of a line; rejected where quotes enclose a delimiter and only without them it fits the header."""
        cells = self._dialect.cut(text)
        literal = text.count(self.delimiter) + 1
        if self.width is not None and len(cells) < self.width == literal:
            return _broken(lines_named(number, number))
        return cells

    def _literal(self, text: str, number: int) -> Record:
        """A line whose open quote is a character; it must be as wide as the header to be believed."""
        cells = self._dialect.cut(text)
        return cells if len(cells) == self.width else _broken(lines_named(number, number))

    def _read_on(self, block: _Block, line: str) -> _End:
        """Take the lines over which a quoted cell runs into the block; how they end."""
        self._add(block, line)
        size = len(line)
        while size < LONGEST_CELL and not (block.filled > LOOK_AHEAD and block.look_like_rows):
            following = self._take()
            if following is None:
                break
            self._add(block, following)
            size += len(following)
            end = self._dialect.go_on(following.rstrip(LINE_END))
            if end is not None:
                return end
        return _End.NEVER

    def _add(self, block: _Block, line: str) -> None:
        text = line.rstrip(LINE_END)
        block.lines.append(line)
        block.filled += bool(text)
        block.wide += self._is_wide(text)

    def _is_wide(self, text: str) -> bool:
        """Whether a line alone has as many cells as the header; in a table of one column that says nothing."""
        if self.width is None or self.width == 1:
            return False
        plain = text.count(self.delimiter) + 1
        return plain == self.width or (QUOTE in text and len(self._dialect.cut(text)) == self.width)

    def _give_back(self, lines: Sequence[str]) -> None:
        self._again.extendleft(reversed(lines))
        self._next -= len(lines)

    def _closed(self, block: _Block, opened: str) -> Iterator[tuple[int, int, Record]]:
        """One record when it is one, else the block's lines, the first and the last of them rejected."""
        cells = self._dialect.cut("".join(block.lines).rstrip(LINE_END))
        fits = self.width is None or len(cells) == self.width
        if block.look_like_rows and not (fits and self._reads_as_sentences(cells)):
            yield from self._apart(block, opened)
        elif fits:
            yield block.first, block.last, cells
        else:
            where = lines_named(block.first, block.last)
            detail = f"{where}: {len(cells)} cells, but a row has {self.width}; check the double quotes"
            yield block.first, block.last, Rejection(BROKEN_LINE, detail)

    def _reads_as_sentences(self, cells: Sequence[str]) -> bool:
        """Whether each delimiter inside the cells of several lines is followed by a blank."""
        text = "".join(filter(over_lines, cells))
        return text.count(self.delimiter) == text.count(f"{self.delimiter} ")

    def _apart(self, block: _Block, opened: str) -> Iterator[tuple[int, int, Record]]:
        """The lines of a block as rows; the two that hold the stray quotes are rejected."""
        detail = (
            f"a quote opens before {opened[1 : SHOWN_CHARACTERS + 1]!r} in line {block.first} and closes in line "
            f"{block.last}, but these lines look like rows; take stray quotes out, or write cells that hold a quote as "
            '"..." with each quote inside doubled'
        )
        yield block.first, block.first, Rejection(BROKEN_LINE, f"line {block.first}: {detail}")
        for number, line in enumerate(block.lines[1:-1], start=block.first + 1):
            text = line.rstrip(LINE_END)
            yield number, number, self._single(text, number) if text else []
        yield block.last, block.last, Rejection(BROKEN_LINE, f"line {block.last}: {detail}")


def lines_named(start: int, end: int) -> str:
    """A quoted cell may hold line ends, so that a row can stand in several lines."""
    return f"line {start}" if start >= end else f"lines {start} to {end}"


def over_lines(cell: str) -> bool:
    """Whether a cell holds line ends."""
    return "\n" in cell or "\r" in cell


def _broken(where: str) -> Rejection:
    return Rejection(BROKEN_LINE, f"{where}: no row can be read, its quotes do not enclose whole cells; check them")
