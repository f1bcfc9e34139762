"""What a reader of a table gives for a row: its cells as texts, or why the row cannot be used."""

from collections.abc import Sequence
from typing import Final

from mlim.catalog.rejection import Rejection
from mlim.catalog.texts import holds_escapes

BROKEN_LINE: Final = "broken-line"
TOO_MANY_CELLS: Final = "too-many-cells"
NUL_BYTE: Final = "nul-byte"
NOT_IN_ENCODING: Final = "not-in-encoding"

USUAL_OTHER_ENCODING: Final = "windows-1252"

Record = list[str] | Rejection


def unusable(cells: Sequence[str], where: str, encoding: str | None) -> Rejection | None:
    """Why a row's cells cannot be used although they could be taken apart; None when they can."""
    whole = "".join(cells)
    if "\0" in whole:
        return Rejection(NUL_BYTE, f"{where} holds a NUL character; write the table again without it")
    return not_in_encoding(where, encoding) if holds_escapes(whole) else None


def not_in_encoding(where: str, encoding: str | None) -> Rejection:
    """A row, or a header, with bytes that its encoding lacks; None: the format leaves no choice but UTF-8."""
    if encoding is None:
        return Rejection(NOT_IN_ENCODING, f"{where} has bytes that are not UTF-8; write the table again")
    return Rejection(
        NOT_IN_ENCODING,
        f"{where} has bytes that are not {encoding}; save the table as UTF-8 or name its `encoding` in catalog.yaml "
        f"(often `encoding: {USUAL_OTHER_ENCODING}`)",
    )
