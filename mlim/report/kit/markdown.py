"""Markdown for the documents that commands write."""

from collections.abc import Iterable, Sequence


def line(cells: Sequence[str]) -> str:
    """One row of a table; a bar within a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, with an empty one after it."""
    return [line(header), line(["---"] * len(header)), *map(line, rows), ""]
