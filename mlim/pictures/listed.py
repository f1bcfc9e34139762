"""One cell that lists several pictures, as shops and libraries write it."""

import json
import re
from collections.abc import Sequence
from typing import Any

from mlim.pictures.router import is_address
from mlim.pictures.spelling import SUFFIXES

BETWEEN_ADDRESSES = re.compile(r"[\s,;|]+(?=https?://)", re.IGNORECASE)  # an address may hold commas itself
ONE_PATH = re.compile(r"[\w./-]+")  # most cells: nothing in it parts pictures or is taken away
BETWEEN_PATHS = ("|", ";", ",", "\n", "\t")
QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
REFERENCE_KEYS = ("url", "src", "href", "path", "image", "file")  # of a picture that is written as an object
MARKS = " \t\r\n'\""


def listed_pictures(cell: str, separator: str | None = None) -> Sequence[str]:
    """The pictures that a cell lists, in order: a cell of one is that one, an empty cell none.

    JSON and Python lists are taken apart. Without a `separator`, addresses are parted wherever another one begins, and
    paths at `|`, `;`, `,`, line ends or tabs where every part then ends like a picture: a name with a comma stays
    whole.
    """
    if separator is None and ONE_PATH.fullmatch(cell):
        return [cell]
    text = cell.strip()
    if text.startswith(("[", "{")) and text.endswith(("]", "}")):
        return _from_list(text)
    if separator is not None:
        return _filled(text.split(separator))
    if is_address(text):
        return _filled(BETWEEN_ADDRESSES.split(text))
    parts = (_filled(text.split(mark)) for mark in BETWEEN_PATHS if mark in text)
    return next((names for names in parts if _are_pictures(names)), [text] if text else [])


def _from_list(text: str) -> Sequence[str]:
    """The pictures in a JSON list, JSON objects, or Python's or NumPy's way to write a list."""
    for written in (text, f"[{text}]"):
        try:
            return _references(json.loads(written))
        except (ValueError, RecursionError):
            continue
    inner = text[1:-1]
    quoted = [single or double for single, double in QUOTED.findall(inner)]
    return _filled(quoted) if quoted or not inner.strip() else listed_pictures(inner)


def _references(value: Any) -> Sequence[str]:
    if isinstance(value, str):
        return _filled([value])
    if isinstance(value, dict):
        return next((_filled([value[key]]) for key in REFERENCE_KEYS if isinstance(value.get(key), str)), [])
    return [found for one in value for found in _references(one)] if isinstance(value, list) else []


def _filled(parts: Sequence[str]) -> Sequence[str]:
    return [part for part in (part.strip(MARKS) for part in parts) if part]


def _are_pictures(names: Sequence[str]) -> bool:
    return len(names) > 1 and all(name.lower().endswith(SUFFIXES) for name in names)
