"""Pictures as files of one folder, out of which no path leads."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlim.catalog.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, OUTSIDE_FOLDER, TOO_MANY_BYTES
from mlim.catalog.refusal import RefusedError

SHOWN_CHARACTERS = 200
FOLDERS_REMEMBERED = 4096


@dataclass(frozen=True)
class FolderPictures:
    """Files below `folder`, named by their path inside it; larger ones than `max_bytes` are not read."""

    folder: Path
    max_bytes: int

    def read(self, reference: str) -> bytes:
        """The bytes of a file; links are followed first, so none of them leads out of the folder."""
        path, size = self._locate(reference)
        if size == 0:
            raise RefusedError(EMPTY_IMAGE, f"{reference} is a file of 0 bytes")
        if size > self.max_bytes:
            raise RefusedError(TOO_MANY_BYTES, f"{reference} has {size} bytes; the limit is {self.max_bytes}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise RefusedError(MISSING_IMAGE, f"{reference} cannot be read ({error.strerror})") from None

    def fingerprint(self, reference: str) -> str:
        """Size and time of change; "" for a file that is not there."""
        try:
            found = os.stat(os.path.join(self.folder, reference))  # noqa: PTH116, PTH118 - for every row of a catalog
        except (OSError, ValueError):
            return ""
        return f"{found.st_size}:{found.st_mtime_ns}"

    def prefetch(self, references: Sequence[str]) -> None:
        """Nothing to do for files."""

    def _locate(self, reference: str) -> tuple[Path, int]:
        """The real path of a file in the folder, and its size in bytes."""
        shown = reference[:SHOWN_CHARACTERS]
        try:
            path, inside = self._follow(self.folder / reference)
            found = path.stat() if inside else None
        except (OSError, RuntimeError, ValueError):  # not there, a loop of links, a NUL byte, a name too long
            raise RefusedError(MISSING_IMAGE, f"{shown!r} is not in the images folder") from None
        if found is None:
            raise RefusedError(OUTSIDE_FOLDER, f"{shown} leads out of the images folder")
        if not stat.S_ISREG(found.st_mode):
            raise RefusedError(MISSING_IMAGE, f"{shown!r} is no file of the images folder")
        return path, found.st_size

    def _follow(self, path: Path) -> tuple[Path, bool]:
        """The path behind all links, and whether it lies in the folder."""
        parent = _real_folder(path.parent)
        real = (parent / path.name).resolve() if path.is_symlink() or path.name == ".." else parent / path.name
        return real, real.is_relative_to(_real_folder(self.folder))


@lru_cache(FOLDERS_REMEMBERED)
def _real_folder(folder: Path) -> Path:
    """A folder behind all links: looked up once in a process, as it takes a system call for each part of the path."""
    return folder.resolve()
