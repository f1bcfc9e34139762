"""Arrow files read through memory maps, and strings in them that never become Python objects all at once."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import pyarrow as pa


class MappedTable:
    """An Arrow file; it travels between processes as its path and is mapped where it is first read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type["MappedTable"], tuple[Path]]:
        return MappedTable, (self.path,)

    @cached_property
    def table(self) -> Any:
        """The whole file as a table (nothing is copied); `pa.ArrowInvalid` when it is not an Arrow file."""
        return pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()


class Strings(Sequence[str]):
    """A column of strings as a sequence: a string is made when it is asked for."""

    def __init__(self, column: Any) -> None:
        """`column` is an Arrow array of strings, chunked or not."""
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        value: str = self.column[place].as_py()
        return value
