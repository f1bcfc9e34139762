"""Pictures as members of .tar and .zip archives, read in place: nothing is unpacked to the disk."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from mlim.catalog.pictures.base import EMPTY_IMAGE, MISSING_IMAGE, OUTSIDE_FOLDER, TOO_MANY_BYTES
from mlim.catalog.pictures.members import (
    ARCHIVE_SUFFIXES,
    BrokenMemberError,
    Index,
    Member,
    index_archive,
    safe_name,
)
from mlim.catalog.refusal import Refusal, RefusedError
from mlim.errors import InputError, MlimError

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


@dataclass(frozen=True)
class ArchivePictures:
    """Members of the archives that `pattern` (a path or a glob) names; ones above `max_bytes` are not read.

    A reference is a member's path, looked up in all archives, or the same behind an archive's file name
    (`photos-1.tar/a/b.jpg`), looked up in that one first. Names are compared in Unicode's NFC. Of two members of one
    archive with the same name the last counts; a path that lies in two archives is refused, for either may be meant.
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
        if isinstance(member, Refusal):
            raise RefusedError(member.reason, f"{shown} {member.detail}")
        if member.size == 0:
            raise RefusedError(EMPTY_IMAGE, f"{shown} is a file of 0 bytes")
        size = max(member.size, member.stored_size)
        if size > self.max_bytes:
            raise RefusedError(TOO_MANY_BYTES, f"{shown} has {size} bytes; the limit is {self.max_bytes}")
        try:
            return _read_member(archive.stamp, member)
        except BrokenMemberError as broken:
            raise RefusedError(BROKEN_ARCHIVE, f"{shown} in {archive.stamp.path.name}: {broken}") from None

    def fingerprint(self, reference: str) -> str:
        """The archive's size and time of change, the member's place and size; "" for one that cannot be read."""
        try:
            archive, member = self._only(reference)
        except RefusedError:
            return ""
        if isinstance(member, Refusal):
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

    def _only(self, reference: str) -> tuple[Archive, Member | Refusal]:
        shown = reference[:SHOWN_CHARACTERS]
        name = safe_name(reference)
        if name is None:
            raise RefusedError(OUTSIDE_FOLDER, f"{shown!r} leads out of the archive")
        found = list(self._matches(name))
        if not found:
            raise RefusedError(MISSING_IMAGE, f"{shown!r} is in none of the {len(self._archives)} archives")
        if len(found) > 1:
            first, second = (archive.stamp.path.name for archive, _ in found[:2])
            raise RefusedError(
                AMBIGUOUS_IMAGE, f"{shown} is in {first} and in {second}; write the archive's name in front of it"
            )
        return found[0]

    def _matches(self, name: str) -> Iterator[tuple[Archive, Member | Refusal]]:
        archive_name, _, inner = name.partition("/")
        named = [archive for archive in self._archives if archive.stamp.path.name == archive_name]
        found = [(archive, archive.index[inner]) for archive in named if inner in archive.index]
        yield from found or ((archive, archive.index[name]) for archive in self._archives if name in archive.index)


@lru_cache(maxsize=INDEXES_KEPT)
def _open_archive(stamp: Stamp) -> Archive:
    """The archive with its index, kept for the process: a scheduler unpickles the store again for each task."""
    return Archive(stamp, index_archive(stamp.path))


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
