"""The rows that every real catalog has: a few broken ones, so that quarantine can be seen."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from mlim.embedded.wording import Texts

Row = dict[str, str]

TINY_SIDE = 8  # pixels: decodes, but no recipe finds it large enough
NO_PICTURE = b"this is a note, not a photograph\n"


def break_rows(rows: Sequence[Row], images: Path) -> list[Row]:
    """Broken copies of the first rows, one per kind of fault; their files are written below `images`."""
    return [fault(dict(row), images) for fault, row in zip(FAULTS, rows, strict=False)]


def _renamed(row: Row, fault: str, images: Path) -> Path:
    """Give the copy an id and a picture of its own; returns where that picture belongs."""
    row["item_id"] = f"broken-{fault}"
    row["image"] = f"broken/{fault}.jpg"
    path = images / row["image"]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _missing_file(row: Row, images: Path) -> Row:
    _renamed(row, "missing-file", images)
    return row


def _truncated_file(row: Row, images: Path) -> Row:
    whole = (images / row["image"]).read_bytes()
    _renamed(row, "truncated-file", images).write_bytes(whole[: len(whole) // 2])
    return row


def _not_a_picture(row: Row, images: Path) -> Row:
    _renamed(row, "not-a-picture", images).write_bytes(NO_PICTURE)
    return row


def _empty_file(row: Row, images: Path) -> Row:
    _renamed(row, "empty-file", images).write_bytes(b"")
    return row


def _tiny_picture(row: Row, images: Path) -> Row:
    Image.new("RGB", (TINY_SIDE, TINY_SIDE), "gray").save(_renamed(row, "tiny-picture", images), "JPEG")
    return row


def _outside_path(row: Row, images: Path) -> Row:
    return {**row, "item_id": "broken-outside-path", "image": "../../secret.jpg"}


def _empty_id(row: Row, images: Path) -> Row:
    return {**row, "item_id": ""}


def _duplicate_id(row: Row, images: Path) -> Row:
    return row


def _no_text(row: Row, images: Path) -> Row:
    return {**row, "item_id": "broken-no-text", **dict.fromkeys(Texts._fields, "")}


FAULTS: tuple[Callable[[Row, Path], Row], ...] = (
    _missing_file,
    _truncated_file,
    _not_a_picture,
    _empty_file,
    _tiny_picture,
    _outside_path,
    _empty_id,
    _duplicate_id,
    _no_text,
)
