"""A tar archive onto the disk, as untrusted input: only plain files and folders, none outside."""

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlim.errors import DataError
from mlim.sources.large_file import Mebibytes

LONGEST_NAME_BYTES = 255  # on the file systems of Linux and macOS
SHOWN_CHARACTERS = 200
BLOCK_BYTES = 4096  # what file systems give out at once
PLAIN_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True)
class Contents:
    """Files of an archive, their bytes, and the bytes they take on the disk."""

    files: int
    bytes: int
    on_disk: int


def check_archive(path: Path) -> Contents:
    """What the archive holds, from its headers; `DataError` naming the first member that must not be unpacked."""
    files = size = on_disk = 0
    with _opened(path) as tar:
        for member in _members(tar, path):
            files += member.isfile()
            size += member.size
            on_disk += BLOCK_BYTES * (1 + member.size // BLOCK_BYTES)
    return Contents(files, size, on_disk)


def unpack(path: Path, folder: Path, bar: Mebibytes) -> None:
    """Write all members below the empty `folder`; `DataError` for an archive that is broken or unsafe."""
    with _opened(path) as tar:
        # Python before 3.11.4 has no filter; there `_problem` alone refuses what is unsafe
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in _members(tar, path):
            tar.extract(member, folder)
            bar.add(member.size)


def merge(source: Path, target: Path) -> None:
    """Move everything below `source` into `target`, folder by folder; files of the same name are replaced.

    A link in `target` is no folder: what it leads to is left alone (`OSError` where a folder is to take its place).
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir() and not place.is_symlink():
            merge(entry, place)
        else:
            entry.replace(place)


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it remembers every member: half a gigabyte for 400,000 files
        problem = _problem(member)
        if problem:
            shown = member.name[:SHOWN_CHARACTERS]
            raise DataError(f"{path}: the member {shown!r} {problem}; nothing was unpacked: do not trust this file")
        yield member
    _check_end(tar)


def _check_end(tar: tarfile.TarFile) -> None:
    """`ReadError` unless the archive ends as it should: tarfile takes a broken header in the middle for the end."""
    source = tar.fileobj
    if source is None:
        raise tarfile.ReadError("it was closed")
    source.seek(tar.offset)
    if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing or a part of it is damaged")


def _problem(member: tarfile.TarInfo) -> str:
    """Why a member must not be unpacked; "" for one that may."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        return "leads out of the folder"
    if member.isfile() and not name.parts:
        return "has no name"
    if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in name.parts):
        return "has a name that is too long for a file"
    if member.issym() or member.islnk():
        return "is a link"
    if not member.isdir() and (member.type not in PLAIN_TYPES or member.sparse is not None):
        return "is neither a plain file nor a folder"
    return "has a negative size" if member.size < 0 else ""


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """The archive, uncompressed ones only: a compressed one could unpack to any size."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError, RecursionError) as error:
        raise DataError(f"{path}: is a broken tar archive ({error}); remove it and run the command again") from None
