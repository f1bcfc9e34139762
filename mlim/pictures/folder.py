"""Pictures as files of one folder, out of which no path leads."""

import os
import stat
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlim.catalog.rejection import RejectedError
from mlim.catalog.texts import holds_escapes
from mlim.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, OUTSIDE_FOLDER, TOO_MANY_BYTES
from mlim.pictures.spelling import Names, alike, safe_name

SHOWN_CHARACTERS = 200
FOLDERS_REMEMBERED = 4096
LISTINGS_REMEMBERED = 16  # folders whose names are in memory: only where a file is not found as it is written


@dataclass(frozen=True)
class FolderPictures:
    """Files below `folder`, named by their path inside it; larger ones than `max_bytes` are not read.

    A file is found by its name as it is written, else by one that is the same (mlim.pictures.spelling). Where folders
    lead to is looked up once; without `remember` each time, in a process that lives while they change.
    """

    folder: Path
    max_bytes: int
    remember: bool = True

    def read(self, reference: str) -> bytes:
        """The bytes of a file; links are followed first, so none of them leads out of the folder."""
        path, size = self._locate(reference)
        if size == 0:
            raise RejectedError(EMPTY_IMAGE, f"{reference} is a file of 0 bytes")
        if size > self.max_bytes:
            raise RejectedError(TOO_MANY_BYTES, f"{reference} has {size} bytes; the limit is {self.max_bytes}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise RejectedError(MISSING_IMAGE, f"{reference} cannot be read ({error.strerror})") from None

    def fingerprint(self, reference: str) -> str:
        """Size and time of change; "" for a file that is not there."""
        try:
            return _mark(os.stat(os.path.join(self.folder, self._below(reference))))  # noqa: PTH116, PTH118 - per row
        except (OSError, ValueError):
            pass
        try:
            path = self._same(reference)
            return _mark(path.stat()) if path else ""
        except (OSError, ValueError):
            return ""

    def prefetch(self, references: Sequence[str]) -> None:
        """Nothing to do for files."""

    def has(self, reference: str) -> bool:
        """Whether a reference leads to a file of the folder."""
        try:
            self._locate(reference)
        except RejectedError:
            return False
        return True

    def other_spelling(self, reference: str) -> str:
        """The file that may be meant by a reference that leads to none; "" where there is none such, or several."""
        name = safe_name(self._below(reference))
        guesses = filter(None, map(safe_name, alike(name))) if name else ()
        paths = (self._walk(guess, Names.alike) for guess in guesses)
        found = next((path for path in paths if path and path.is_file() and self._follow(path)[1]), None)
        return found.relative_to(self.folder).as_posix() if found else ""

    def _locate(self, reference: str) -> tuple[Path, int]:
        """The real path of a file in the folder, and its size in bytes."""
        shown = reference[:SHOWN_CHARACTERS]
        found = self._look(self.folder / self._below(reference), shown)
        if found is None:
            same = self._same(reference)
            found = self._look(same, shown) if same else None
        if found is None:
            raise self._missing(reference)
        path, what = found
        if not stat.S_ISREG(what.st_mode):
            raise RejectedError(MISSING_IMAGE, f"{shown!r} is no file of the images folder")
        return path, what.st_size

    def _below(self, reference: str) -> str:
        """The reference as a path below the folder: an absolute one may lead into it, or means its root by `/`."""
        return reference.removeprefix(f"{self.folder}/").lstrip("/") if reference.startswith("/") else reference

    def _look(self, path: Path, shown: str) -> tuple[Path, os.stat_result] | None:
        """The path behind all links and what is there; None for nothing. `RejectedError` where it leads out."""
        try:
            real, inside = self._follow(path)
            if inside:
                return real, real.stat()
        except (OSError, RuntimeError, ValueError):  # not there, a loop of links, a NUL byte, a name too long
            return None
        raise RejectedError(OUTSIDE_FOLDER, f"{shown} leads out of the images folder{self._link_out(path)}")

    def _link_out(self, path: Path) -> str:
        """Which link to a folder leads out, and what to write instead; "" where none does.

        Nor in a server, which does not `remember`: its callers need not know where links lead.
        """
        if not self.remember or not path.is_relative_to(self.folder) or ".." in path.parts:
            return ""
        inner, inside = path.relative_to(self.folder).parts, self._real(self.folder)
        for depth in range(1, len(inner)):
            link, target = Path(*inner[:depth]), self.folder.joinpath(*inner[:depth]).resolve()
            if target.is_relative_to(inside):
                continue
            if target.parts[-depth:] == link.parts:
                return f"; `{link}` is a link to {target}; write `images: {target.parents[depth - 1]}`"
            return f"; `{link}` is a link to {target}; write `images: {target}`, and leave `{link}/` out of the names"
        return ""

    def _follow(self, path: Path) -> tuple[Path, bool]:
        """The path behind all links, and whether it lies in the folder."""
        parent = self._real(path.parent)
        real = (parent / path.name).resolve() if path.is_symlink() or path.name == ".." else parent / path.name
        return real, real.is_relative_to(self._real(self.folder))

    def _real(self, folder: Path) -> Path:
        """A folder behind all links."""
        return _real_folder(folder) if self.remember else folder.resolve()

    def _same(self, reference: str) -> Path | None:
        """The file whose name differs from the reference only in what never tells two pictures apart."""
        name = safe_name(self._below(reference))
        return self._walk(name, Names.same) if name else None

    def _missing(self, reference: str) -> RejectedError:
        """Why nothing was found."""
        shown, other = reference[:SHOWN_CHARACTERS], self.other_spelling(reference)
        if other:
            return RejectedError(MISSING_IMAGE, f"{shown!r} is not in the images folder, but {other!r} is")
        if reference.startswith("/"):
            return RejectedError(OUTSIDE_FOLDER, f"{shown} leads out of the images folder, and is not in it either")
        return RejectedError(MISSING_IMAGE, f"{shown!r} is not in the images folder")

    def _walk(self, name: str, find: Callable[[Names, str], str | None]) -> Path | None:
        """The path that `find` spells part by part as the disk does; it never leaves the folder."""
        path = self.folder
        for part in name.split("/"):
            forms = (part, unicodedata.normalize("NFD", part))
            spelled = next((form for form in forms if _exists(path / form)), None) or find(self._names(path), part)
            if spelled is None:
                return None
            path = path / spelled
        return path

    def _names(self, path: Path) -> Names:
        """What lies in a folder below this one; nothing where it is none, or a link leads out."""
        try:
            real = self._real(path)
            inside = real.is_relative_to(self._real(self.folder))
            return _names_in(real, real.stat().st_mtime_ns) if inside else Names()
        except (OSError, RuntimeError):  # a loop of links
            return Names()


def _mark(found: os.stat_result) -> str:
    return f"{found.st_size}:{found.st_mtime_ns}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


@lru_cache(LISTINGS_REMEMBERED)
def _names_in(folder: Path, changed_ns: int) -> Names:
    """The names in a folder as it was at a time; those that are no text are left out."""
    with os.scandir(folder) as entries:
        return Names.of(entry.name for entry in entries if not holds_escapes(entry.name))


@lru_cache(FOLDERS_REMEMBERED)
def _real_folder(folder: Path) -> Path:
    """A folder behind all links: looked up once in a process, as it takes a system call for each part of the path."""
    return folder.resolve()
