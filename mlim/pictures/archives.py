"""Pictures as members of .tar and .zip archives, read in place: nothing is unpacked to the disk."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.errors import InputError, MlimError
from mlim.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, OUTSIDE_FOLDER, TOO_MANY_BYTES
from mlim.pictures.members import (
    ARCHIVE_SUFFIXES,
    NO_ENCODING,
    BrokenMemberError,
    Index,
    Member,
    index_archive,
    keys_in_code_pages,
)
from mlim.pictures.spelling import Names, safe_name

BROKEN_ARCHIVE = "broken-archive"
AMBIGUOUS_IMAGE = "ambiguous-image"
SHOWN_CHARACTERS = 200
INDEXES_KEPT = 4096  # archives whose indexes one process keeps


def names_archives(place: Path) -> bool:
    """Whether a place of pictures means archives (by its suffix, or because it is a pattern) and not a folder."""
    return not place.is_dir() and (place.name.lower().endswith(ARCHIVE_SUFFIXES) or glob.has_magic(str(place)))


@dataclass(frozen=True)
class Stamp:
    """Which file an index belongs to: its path, size in bytes and time of change."""

    path: Path
    size: int
    changed_ns: int


@dataclass(frozen=True)
class Archive:
    """One archive and what lies in it."""

    stamp: Stamp
    index: Index

    @cached_property
    def names(self) -> Names:
        """The members' names, to find one that is like one that is not there."""
        return Names.of(name for name in self.index if not name.startswith(NO_ENCODING))


@dataclass(frozen=True)
class ArchivePictures:
    """Members of the archives that `pattern` (a path or a glob) names; ones above `max_bytes` are not read.

    A reference is a member's path, looked up in all archives, or the same behind an archive's file name
    (`photos-1.tar/a/b.jpg`), looked up in that one first. Names are compared as mlim.pictures.spelling has it.
    Of two members of one archive with the same name the last counts; a path that lies in two archives is rejected, for
    either may be meant.
    """

    pattern: Path
    max_bytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Only the settings travel to other processes; each makes its own index."""
        return ArchivePictures, (self.pattern, self.max_bytes)

    def check(self) -> None:
        """`InputError` with every archive that is missing, broken or of a kind that is not read here."""
        problems: list[str] = []
        for path in self._paths:
            try:
                _open_archive(_stamp(path))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(*problems)

    def read(self, reference: str) -> bytes:
        """The member's bytes; `MlimError` when the archive changed since it was indexed."""
        shown = reference[:SHOWN_CHARACTERS]
        archive, member = self._only(reference)
        if isinstance(member, Rejection):
            raise RejectedError(member.reason, f"{shown} {member.detail}")
        if member.size == 0:
            raise RejectedError(EMPTY_IMAGE, f"{shown} is a file of 0 bytes")
        size = max(member.size, member.stored_size)
        if size > self.max_bytes:
            raise RejectedError(TOO_MANY_BYTES, f"{shown} has {size} bytes; the limit is {self.max_bytes}")
        try:
            return _read_member(archive.stamp, member)
        except BrokenMemberError as broken:
            raise RejectedError(BROKEN_ARCHIVE, f"{shown} in {archive.stamp.path.name}: {broken}") from None

    def fingerprint(self, reference: str) -> str:
        """The archive's size and time of change, the member's place and size; "" for one that cannot be read."""
        try:
            archive, member = self._only(reference)
        except RejectedError:
            return ""
        if isinstance(member, Rejection):
            return ""
        return f"{archive.stamp.size}:{archive.stamp.changed_ns}:{member.offset}:{member.size}"

    def prefetch(self, references: Sequence[str]) -> None:
        """Index the archives, which takes seconds where they hold hundreds of thousands of pictures."""
        _ = self._archives

    @cached_property
    def _paths(self) -> list[Path]:
        if self.pattern.is_file():
            return [self.pattern]
        names = glob.glob(str(self.pattern), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = sorted(path for path in map(Path, names) if path.is_file())
        if not found:
            raise InputError(f"no archive is found at {self.pattern}; check `images` in the catalog's description")
        return found

    @cached_property
    def _archives(self) -> Sequence[Archive]:
        return tuple(_open_archive(_stamp(path)) for path in self._paths)

    def _only(self, reference: str) -> tuple[Archive, Member | Rejection]:
        shown = reference[:SHOWN_CHARACTERS]
        name = safe_name(reference)
        if name is None:
            raise RejectedError(OUTSIDE_FOLDER, f"{shown!r} leads out of the archive")
        archive_name, _, inner = name.partition("/")
        named = [archive for archive in self._archives if archive.stamp.path.name == archive_name]
        found = _members_of(named, inner) or _members_of(self._archives, name)
        if not found:
            raise RejectedError(
                MISSING_IMAGE, f"{shown!r} is in none of the {len(self._archives)} archives{self._hint(name)}"
            )
        if len(found) > 1:
            raise RejectedError(AMBIGUOUS_IMAGE, f"{shown} {_ambiguous([archive for archive, _ in found])}")
        return found[0]

    def _hint(self, name: str) -> str:
        """Where a picture lies whose name is like one that is in no archive."""
        found = ((archive, archive.names.alike(name)) for archive in self._archives)
        archive, other = next(((archive, other) for archive, other in found if other), (None, None))
        return f", but {other!r} is in {archive.stamp.path.name}" if archive else ""


def _members_of(archives: Sequence[Archive], name: str) -> list[tuple[Archive, Member | Rejection]]:
    """The members of a name; where there is none, those whose name may be it in a code page."""
    for keys in ([name], keys_in_code_pages(name)):
        found = [(archive, archive.index[key]) for archive in archives for key in keys if key in archive.index]
        if found:
            return found
    return []


@lru_cache(maxsize=INDEXES_KEPT)
def _open_archive(stamp: Stamp) -> Archive:
    """The archive with its index, kept for the process: a scheduler unpickles the store again for each task."""
    return Archive(stamp, index_archive(stamp.path))


def _ambiguous(archives: Sequence[Archive]) -> str:
    first, second = (archive.stamp.path.name for archive in archives[:2])
    if first == second:
        return f"may be either of two members of {first} whose names say no encoding; pack it again with UTF-8 names"
    return f"is in {first} and in {second}; write the archive's name in front of it"


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    return Stamp(path, found.st_size, found.st_mtime_ns)


def _read_member(stamp: Stamp, member: Member) -> bytes:
    try:
        descriptor = os.open(stamp.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MlimError(f"{stamp.path} cannot be read any more ({error.strerror}); run again") from None
    try:
        data = member.read(descriptor)
    finally:
        found = os.fstat(descriptor)
        os.close(descriptor)
        if (found.st_size, found.st_mtime_ns) != (stamp.size, stamp.changed_ns):
            raise MlimError(f"{stamp.path} changed while it was read; run again")
    return data
