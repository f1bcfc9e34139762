"""JSON lines as records: one object on every line that is not blank."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from mlim.catalog.rejection import Rejection
from mlim.catalog.texts import holds_escapes
from mlim.errors import InputError
from mlim.sources.lines import TextFile
from mlim.sources.records import BROKEN_LINE, Record, not_in_encoding, unusable
from mlim.sources.text import as_text

START_CHARACTERS: Final = 4096
LIST_OF_OBJECTS: Final = re.compile(r"\s*\[\s*(\{|\Z)")
ONE_OBJECT_PER_LINE: Final = "write one object per line, without brackets around them and commas between them"


def json_keys(text: TextFile) -> list[str]:
    """The keys of all objects, each once, in the order in which they first come.

    `InputError` when the file is a list or one object around a list, or holds lines but no object.
    """
    _refuse_list(text)
    keys, problem, objects = dict[str, None](), None, 0
    for _, found in _objects(text):
        if isinstance(found, Rejection):
            problem = problem or found
        else:
            keys.update(dict.fromkeys(found))
            objects += 1
            last = found
    if problem and not keys:
        raise InputError(f"{text.path}: holds no JSON object: {problem.detail}")
    if objects == 1 and (name := _table_inside(last)):
        raise InputError(f"{text.path}: is one JSON object with all rows in `{name}`; {ONE_OBJECT_PER_LINE}")
    return list(keys)


def _table_inside(found: dict[str, Any]) -> str | None:
    """The key whose value is a list of objects with more keys than the object has itself."""
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and len(value[0]) > len(found):
            return name
    return None


def json_records(text: TextFile, columns: Sequence[str]) -> Iterator[Record]:
    """The objects' values as texts in the order of `columns`; `MlimError` unless every line was read."""
    for where, found in _objects(text):
        yield found if isinstance(found, Rejection) else _record(found, columns, where, text.encoding)


def _refuse_list(text: TextFile) -> None:
    with text.open_lines() as lines:
        start = ""
        for line in lines:
            start += line[:START_CHARACTERS].lstrip()
            if len(start) > 1:
                break
    if LIST_OF_OBJECTS.match(start):
        raise InputError(f"{text.path}: is one JSON list, not JSON lines; {ONE_OBJECT_PER_LINE}")


def _objects(text: TextFile) -> Iterator[tuple[str, dict[str, Any] | Rejection]]:
    """(place, object or why there is none) of every line that is not blank."""
    number = 0
    with text.open_lines() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"line {number}"
                yield where, _object(line, where, text.encoding)
    text.check_count(number)


def _object(line: str, where: str, encoding: str) -> dict[str, Any] | Rejection:
    """One line's object; numbers stay the text they were written as."""
    if holds_escapes(line):
        return not_in_encoding(where, encoding)
    try:
        found = json.loads(line, parse_int=str, parse_float=str, parse_constant=lambda name: None)
    except json.JSONDecodeError as error:
        detail = f"{where} is not JSON: {error.msg} behind {error.pos} characters; {ONE_OBJECT_PER_LINE}"
        return Rejection(BROKEN_LINE, detail)
    except RecursionError:
        return _too_deep(where)
    if not isinstance(found, dict):
        return Rejection(BROKEN_LINE, f"{where} is not a JSON object; {ONE_OBJECT_PER_LINE}")
    return found


def _record(found: dict[str, Any], columns: Sequence[str], where: str, encoding: str) -> Record:
    try:
        cells = [as_text(found.get(name)) for name in columns]
    except RecursionError:
        return _too_deep(where)
    return unusable(cells, where, encoding) or cells


def _too_deep(where: str) -> Rejection:
    return Rejection(BROKEN_LINE, f"{where} holds lists in lists in lists, too deep to be text")
