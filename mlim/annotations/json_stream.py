"""Large JSON files entry by entry: lists of objects, objects around such lists, one object per line.

Public data sets keep hundreds of megabytes in one JSON value; nothing but one entry at a time is held here.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from mlim.annotations.records import Place
from mlim.errors import InputError

READ_CHARACTERS = 1 << 20
LONGEST_ENTRY = 1 << 26  # characters; a longer one is no entry of a list but a broken file
SHOWN_CHARACTERS = 40
BLANKS = " \t\r\n"
T = TypeVar("T")


class Entry(NamedTuple):
    """One object of a file: `key` names the list or the member that it stands in, None in a list without a name."""

    place: Place
    key: str | None
    number: int  # in its list, from 0
    value: Any

    def refuse(self, problem: str) -> InputError:
        """An error that says where the entry is and what is wrong with it."""
        inside = f"`{self.key}`[{self.number}]" if self.key is not None else f"entry {self.number}"
        return InputError(f"{self.place.file}: line {self.place.row}, {inside}: {problem}")

    def has(self, name: str) -> bool:
        """Whether the object has a member `name`."""
        if not isinstance(self.value, dict):
            raise self.refuse(f"must be an object, it is {_shown(self.value)}")
        return name in self.value

    def get(self, name: str, kind: type[T], default: T | None = None) -> T:
        """The member `name`, which must be of a kind (`float` takes whole numbers too); null is none with a default."""
        if default is not None and (not self.has(name) or self.value[name] is None):
            return default
        if not self.has(name):
            raise self.refuse(f"has no `{name}`")
        return self.check(name, self.value[name], kind)

    def check(self, name: str, value: Any, kind: type[T]) -> T:
        """The value, refused under the name unless it is of the kind."""
        wanted: Any = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise self.refuse(f"`{name}` must be {_KINDS[kind]}, it is {_shown(value)}")
        found: T = value
        return found

    def texts(self, name: str) -> list[str]:
        """The member `name`, a list of texts; empty where it is missing or null."""
        return [self.check(name, text, str) for text in self.get(name, list, [])]

    def inner(self, name: str) -> Iterator["Entry"]:
        """The objects of the list `name`, as entries at the same place; none where it is missing or null."""
        members = self.get(name, list, [])
        return (Entry(self.place, name, number, value) for number, value in enumerate(members))

    def word(self, *names: str) -> str:
        """The first of these members that is there, a whole number or a text, as text."""
        for name in names:
            if isinstance(self.value, Mapping) and name in self.value:
                value = self.value[name]
                if isinstance(value, bool) or not isinstance(value, int | str):
                    raise self.refuse(f"`{name}` must be a number or a text, it is {_shown(value)}")
                return str(value)
        raise self.refuse(f"has no `{names[0]}`")


_KINDS: Mapping[Any, str] = {
    int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object", bool: "true or false",
}  # fmt: skip


def entries(path: Path, key: str | None = None) -> Iterator[Entry]:
    """The entries of a file: of the list at top level, or of every list and the other members of its object.

    With `key` only those of that list; `InputError` when the file has none. The key of a member that is no list is
    the member's name (GQA: the id of a question).
    """
    found = False
    with _opened(path) as source:
        for entry in _Scanner(path, source).entries():
            if key is None or entry.key == key:
                found = True
                yield entry
    if key is not None and not found:
        raise InputError(f"{path}: has no entries in `{key}`; name a file of the right layout")


def lines(path: Path) -> Iterator[Entry]:
    """The objects of a file with one JSON object on each line that is not blank."""
    with _opened(path) as source:
        for number, line in enumerate(_decoded(path, source), start=1):
            if line.strip():
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(f"{path}: line {number}: is not JSON ({error.msg})") from None
                yield Entry(Place(str(path), number), None, number - 1, value)


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct `annotations.files`") from None


def _decoded(path: Path, source: TextIO) -> Iterator[str]:
    try:
        yield from source
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


class _Scanner:
    """Reads a file in pieces; `buffer` from `at` on is what has not been used; `line` is that of `at`."""

    def __init__(self, path: Path, source: TextIO) -> None:
        self._path, self._source = path, source
        self._buffer, self._at, self._line, self._ended = "", 0, 1, False
        self._decoder = json.JSONDecoder()

    def entries(self) -> Iterator[Entry]:
        opening = self._next()
        if opening == "[":
            yield from self._list(None)
        elif opening == "{":
            yield from self._members()
        else:
            raise self._broken("must begin with [ or {")
        if self._peek():
            raise self._broken("has something after its end")

    def _members(self) -> Iterator[Entry]:
        for number in self._separated("}"):
            key = self._value()
            if not isinstance(key, str) or self._next() != ":":
                raise self._broken("an object needs `name: value`")
            if self._peek() == "[":
                self._next()
                yield from self._list(key)
            else:
                place = self._place()
                yield Entry(place, key, number, self._value())

    def _list(self, key: str | None) -> Iterator[Entry]:
        for number in self._separated("]"):
            self._peek()
            place = self._place()
            yield Entry(place, key, number, self._value())

    def _separated(self, closing: str) -> Iterator[int]:
        """Once for each member until the closing bracket, over the commas between them."""
        if self._peek() == closing:
            self._next()
            return
        number = 0
        while True:
            yield number
            number += 1
            mark = self._next()
            if mark == closing:
                return
            if mark != ",":
                raise self._broken(f"needs a comma or {closing}")

    def _place(self) -> Place:
        return Place(str(self._path), self._line)

    def _peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in BLANKS:
                self._line += self._buffer[self._at] == "\n"
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def _next(self) -> str:
        found = self._peek()
        self._at += len(found)
        return found

    def _value(self) -> Any:
        """The JSON value from here on; more is read while it is cut off."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if len(self._buffer) - self._at > LONGEST_ENTRY or not self._more():
                    self._line += self._buffer.count("\n", self._at, error.pos)
                    raise self._broken(f"is not JSON ({error.msg})") from None
                continue
            if end < len(self._buffer) or not self._more():  # a number may go on in the next piece
                self._line += self._buffer.count("\n", self._at, end)
                self._at = end
                return value

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            piece = self._source.read(READ_CHARACTERS)
        except UnicodeDecodeError:
            raise InputError(f"{self._path}: is not UTF-8 text; save it as UTF-8") from None
        self._ended = not piece
        self._buffer, self._at = self._buffer[self._at :] + piece, 0
        return bool(piece)

    def _broken(self, problem: str) -> InputError:
        return InputError(f"{self._path}: line {self._line}: {problem}; fetch or write the file again")
