"""Pictures that lie in a row of a file as they are: read from their place, without opening the rest of the file.

Arrow files are mapped into memory by their library, which a decoding process with a memory limit cannot afford; a
seek and a read take what the picture takes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlim.catalog.rejection import RejectedError
from mlim.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, OUTSIDE_FOLDER, TOO_MANY_BYTES
from mlim.pictures.folder import FolderPictures

RANGE = re.compile(r"\d{1,18}@(\d{1,9}):(\d{1,18})\+(\d{1,18})", re.ASCII)
PATH = re.compile(r"\d{1,18}=(.+)", re.ASCII | re.DOTALL)
SHOWN_CHARACTERS = 200


def range_reference(row: int, file: int, offset: int, length: int) -> str:
    """Names the picture of a row that lies in a file (by its number) at a place, in bytes."""
    return f"{row}@{file}:{offset}+{length}"


def path_reference(row: int, path: str) -> str:
    """Names the picture of a row that lies in a file of its own."""
    return f"{row}={path}"


@dataclass(frozen=True)
class ByteRangePictures:
    """Parts of `files`, or files below one of `folders`; larger ones than `max_bytes` are not read."""

    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    max_bytes: int

    def read(self, reference: str) -> bytes:
        """The picture's bytes; `RejectedError` when there are none, too many, or the path leads elsewhere."""
        if found := PATH.fullmatch(reference):
            return self._read_path(found[1])
        path, offset, length = self._range(reference)
        if length == 0:
            raise RejectedError(EMPTY_IMAGE, f"{reference} holds 0 bytes")
        if length > self.max_bytes:
            raise RejectedError(TOO_MANY_BYTES, f"{reference} has {length} bytes; the limit is {self.max_bytes}")
        try:
            with path.open("rb") as source:
                source.seek(offset)
                data = source.read(length)
        except OSError as error:
            raise RejectedError(MISSING_IMAGE, f"{path.name} cannot be read ({error.strerror})") from None
        if len(data) < length:
            raise RejectedError(MISSING_IMAGE, f"{reference}: {path.name} ends before the picture does")
        return data

    def fingerprint(self, reference: str) -> str:
        """Size and time of the file that holds the picture; "" where it is unknown."""
        if found := PATH.fullmatch(reference):
            marks = (FolderPictures(folder, self.max_bytes).fingerprint(found[1]) for folder in self.folders)
            return next(filter(None, marks), "")
        try:
            stat = self._range(reference)[0].stat()
        except (OSError, RejectedError):
            return ""
        return f"{stat.st_size}:{stat.st_mtime_ns}"

    def prefetch(self, references: Sequence[str]) -> None:
        """Nothing to do for files."""

    def _range(self, reference: str) -> tuple[Path, int, int]:
        """File, first byte and length."""
        found = RANGE.fullmatch(reference)
        if found is None or int(found[1]) >= len(self.files):
            raise RejectedError(MISSING_IMAGE, f"{reference[:SHOWN_CHARACTERS]!r} names no picture of the data set")
        return self.files[int(found[1])], int(found[2]), int(found[3])

    def _read_path(self, path: str) -> bytes:
        """From the first folder that holds the path; a path out of all of them is rejected as such."""
        rejected = RejectedError(OUTSIDE_FOLDER, f"{path[:SHOWN_CHARACTERS]} leads out of the data set's folder")
        for folder in self.folders:
            try:
                return FolderPictures(folder, self.max_bytes).read(path)
            except RejectedError as error:
                rejected = rejected if error.rejection.reason == OUTSIDE_FOLDER else error
        raise rejected
