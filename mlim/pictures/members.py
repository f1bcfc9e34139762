"""What lies in one .tar or .zip archive, and how a member's bytes are read; an archive is untrusted input.

An index holds only names and numbers, and a member is read by its place in the file (`pread`): no handle stays open,
so threads and forked processes never share a file position. Links, devices and encrypted members get a `Rejection`
instead of a place. Names that lead out of the archive ("zip slip"), and empty ones, are left out of the index.
"""

import contextlib
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlim.catalog.rejection import Rejection
from mlim.errors import InputError
from mlim.pictures.spelling import safe_name

LINK_IN_ARCHIVE = "link-in-archive"
ENCRYPTED_MEMBER = "encrypted-member"
UNSUPPORTED_MEMBER = "unsupported-member"

TAR_SUFFIX, ZIP_SUFFIX = ".tar", ".zip"
COMPRESSED_TAR_SUFFIXES = (".tgz", ".tbz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
ARCHIVE_SUFFIXES = (TAR_SUFFIX, ZIP_SUFFIX, *COMPRESSED_TAR_SUFFIXES)
COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAGIC_BYTES = 6

MAX_TAR_HEADER_BYTES = 1 << 20  # tarfile reads a long name or PAX header whole, however long it says it is
ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")  # PKZIP APPNOTE 4.3.7: signature, ..., lengths of name and extra field
ZIP_LOCAL_SIGNATURE = b"PK\x03\x04"
ZIP_ENCRYPTED_FLAG, ZIP_UTF8_FLAG = 0x1, 0x800
ZIP_UNICODE_PATH = 0x7075  # PKZIP APPNOTE 4.6.9: version 1, CRC-32 of the name in the header, the name in UTF-8
ZIP_EXTRA, ZIP_UNICODE_PATH_START = struct.Struct("<HH"), struct.Struct("<BL")
MAC_EXTRAS = "__MACOSX/"  # what macOS keeps of a file beside its content
# Of systems before Unicode: zips and tars do not state the encoding of their names. The first has a letter for any byte
CODE_PAGES = ("cp437", "cp850", "cp1252", "cp852", "cp1250", "cp866", "cp1251", "cp932", "cp936", "cp949", "cp950")
NO_ENCODING = "\0"  # stands before a name that is no UTF-8, read in the first code page; no safe name has it
UNIX_MODE_SHIFT = 16  # a zip member's Unix mode is the high half of external_attr
RAW_DEFLATE = -zlib.MAX_WBITS

LINK = Rejection(LINK_IN_ARCHIVE, "is a link or a device in the archive; only plain files are read")
ENCRYPTED = Rejection(ENCRYPTED_MEMBER, "is encrypted; put it into the archive without a password")
SPARSE = Rejection(UNSUPPORTED_MEMBER, "is stored as a sparse file; put it into the archive again without --sparse")
RARE_COMPRESSION = Rejection(UNSUPPORTED_MEMBER, "is compressed in a way that is not read here; use deflate")


class BrokenMemberError(Exception):
    """A member's stored bytes are not what the archive says; the message tells how, without the name."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A file in a plain tar: `size` bytes from `offset`."""

    offset: int
    size: int

    @property
    def stored_size(self) -> int:
        """Bytes it takes in the archive."""
        return self.size

    def read(self, descriptor: int) -> bytes:
        """Its bytes out of the open archive; `BrokenMemberError` when the archive ends before them."""
        return _exactly(descriptor, self.size, self.offset)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A file in a zip: `stored_size` bytes behind the local header at `offset`, of which `size` bytes come out."""

    offset: int
    size: int
    stored_size: int
    checksum: int
    deflated: bool

    def read(self, descriptor: int) -> bytes:
        """Its bytes out of the open archive, never more than `size` + 1 in memory.

        `BrokenMemberError` when they cannot be unpacked, or differ from the declared size or CRC-32.
        """
        stored = _exactly(descriptor, self.stored_size, self._data_offset(descriptor))
        data = _inflate(stored, self.size) if self.deflated else stored
        if len(data) != self.size or zlib.crc32(data) != self.checksum:
            raise BrokenMemberError("its bytes do not fit the size and checksum in the archive")
        return data

    def _data_offset(self, descriptor: int) -> int:
        header = _exactly(descriptor, ZIP_LOCAL_HEADER.size, self.offset)
        signature, name_length, extra_length = ZIP_LOCAL_HEADER.unpack(header)
        if signature != ZIP_LOCAL_SIGNATURE:
            raise BrokenMemberError("its header in the archive is broken")
        return self.offset + ZIP_LOCAL_HEADER.size + int(name_length) + int(extra_length)


Member = TarMember | ZipMember
Index = dict[str, Member | Rejection]


def index_archive(path: Path) -> Index:
    """Every file of the archive by its safe name (or a key in a code page).

    Of two members with one name the last counts, as `tar` has it. `InputError` when the archive as a whole cannot be
    read, or is a compressed tar.
    """
    _refuse_compressed(path)
    try:
        if path.name.lower().endswith(ZIP_SUFFIX):
            return _index_zip(path)
        return _index_tar(path)
    except (tarfile.TarError, zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch or pack it again") from None
    except (
        ValueError,
        ArithmeticError,
        LookupError,
        struct.error,
    ) as error:  # what the parsers raise for damaged bytes
        raise InputError(f"{path} is broken ({error}); fetch or pack it again") from None


def _refuse_compressed(path: Path) -> None:
    """A compressed tar can only be read from its start, so each picture would cost half the archive."""
    try:
        with path.open("rb") as source:
            start = source.read(MAGIC_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check columns.image and images") from None
    name = path.name.lower()
    packed_by = next((how for magic, how in COMPRESSION_MAGIC.items() if start.startswith(magic)), None)
    if packed_by is not None or name.endswith(COMPRESSED_TAR_SUFFIXES):
        raise InputError(
            f"{path} is a compressed tar ({packed_by or 'by its name'}), which has no quick way to one picture; "
            "decompress it once (to .tar) and name that"
        )
    if not name.endswith((TAR_SUFFIX, ZIP_SUFFIX)):
        raise InputError(f"{path} is no archive that is read here; give .tar or .zip files")


class _HeaderReader(io.BufferedReader):
    """A file that gives `tarfile` its headers, but no header of more than a megabyte."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes; `tarfile.ReadError` when that is more than a header needs."""
        if size is None or not 0 <= size <= MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size)


def _index_tar(path: Path) -> Index:
    index: Index = {}
    with _HeaderReader(io.FileIO(path)) as source, tarfile.open(fileobj=source, mode="r:") as archive:
        behind = -1
        while (info := archive.next()) is not None:
            if info.offset_data <= behind:
                raise tarfile.ReadError("its headers lead backwards")
            behind = info.offset_data
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all it read, a kilobyte each
            name = _key(info.name.encode("utf-8", "surrogateescape"))
            if name and not info.isdir():
                index[name] = _tar_member(info)
        _check_tar_end(source, archive.offset)
    return index


def _tar_member(info: tarfile.TarInfo) -> Member | Rejection:
    if not info.isreg():
        return LINK
    return SPARSE if info.issparse() else TarMember(info.offset_data, info.size)


def _check_tar_end(source: _HeaderReader, offset: int) -> None:
    """`tarfile` stops without a word at a broken header; a whole tar ends there, or goes on with zeros."""
    source.seek(offset)
    block = source.read(tarfile.BLOCKSIZE)
    if block and block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"its header at byte {offset} is broken")


def _index_zip(path: Path) -> Index:
    index: Index = {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _zip_key(info)
            if name and not name.startswith(MAC_EXTRAS) and not info.orig_filename.endswith("/"):
                index[name] = _zip_member(info)
    return index


def keys_in_code_pages(name: str) -> Sequence[str]:
    """The keys that an index may have for a safe name which the archive holds in a code page that it does not state."""
    found = dict.fromkeys(safe_name(raw.decode(CODE_PAGES[0])) for raw in _in_code_pages(name))
    return [f"{NO_ENCODING}{key}" for key in found if key]


def _in_code_pages(name: str) -> Iterator[bytes]:
    for page in () if name.isascii() else CODE_PAGES:
        with contextlib.suppress(UnicodeEncodeError):
            yield name.encode(page)


def _key(raw: bytes) -> str | None:
    """The key of a name without an encoding: UTF-8 where it is that (macOS), else one for `keys_in_code_pages`."""
    try:
        return safe_name(raw.decode())
    except UnicodeDecodeError:
        name = safe_name(raw.decode(CODE_PAGES[0]))
        return f"{NO_ENCODING}{name}" if name else None


def _zip_key(info: zipfile.ZipInfo) -> str | None:
    """The key of the whole name: zipfile ends it at a NUL, and reads it as cp437 unless a flag says UTF-8."""
    if info.flag_bits & ZIP_UTF8_FLAG:
        return safe_name(info.orig_filename)
    raw = info.orig_filename.encode(CODE_PAGES[0])
    unicode_name = _unicode_path(info.extra, zlib.crc32(raw))
    return safe_name(unicode_name) if unicode_name else _key(raw)


def _unicode_path(extra: bytes, checksum: int) -> str | None:
    """The name in a member's extra fields, where it belongs to the name in the header."""
    while len(extra) >= ZIP_EXTRA.size:
        kind, size = ZIP_EXTRA.unpack_from(extra)
        data, extra = extra[ZIP_EXTRA.size :][:size], extra[ZIP_EXTRA.size + size :]
        if kind == ZIP_UNICODE_PATH and len(data) > ZIP_UNICODE_PATH_START.size:
            version, belongs_to = ZIP_UNICODE_PATH_START.unpack_from(data)
            if (version, belongs_to) == (1, checksum):
                return data[ZIP_UNICODE_PATH_START.size :].decode(errors="replace")
    return None


def _zip_member(info: zipfile.ZipInfo) -> Member | Rejection:
    kind = stat.S_IFMT(info.external_attr >> UNIX_MODE_SHIFT)
    if kind not in (0, stat.S_IFREG):
        return LINK
    if info.flag_bits & ZIP_ENCRYPTED_FLAG:
        return ENCRYPTED
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return RARE_COMPRESSION
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    return ZipMember(info.header_offset, info.file_size, info.compress_size, info.CRC, deflated)


def _exactly(descriptor: int, size: int, offset: int) -> bytes:
    try:
        data = os.pread(descriptor, size, offset)
    except (OSError, OverflowError) as error:
        raise BrokenMemberError(f"its place in the archive cannot be read ({error})") from None
    if len(data) != size:
        raise BrokenMemberError("the archive ends before it does")
    return data


def _inflate(stored: bytes, size: int) -> bytes:
    """At most size + 1 bytes, so that a member that lies about its size is found out and not unpacked."""
    try:
        return zlib.decompressobj(RAW_DEFLATE).decompress(stored, size + 1)
    except zlib.error as error:
        raise BrokenMemberError(f"it cannot be unpacked ({error})") from None
