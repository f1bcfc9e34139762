"""Archives of images, written for a test."""

import io
import tarfile
import zipfile

from mlim.pictures.archives import ArchivePictures

LIMIT = 10_000


class RawName(zipfile.ZipInfo):
    """A member whose name is bytes; no flag says what they mean."""

    def __init__(self, raw):
        super().__init__(raw.decode("cp437") or "x")
        self.raw = raw

    def _encodeFilenameFlags(self):  # noqa: N802 - zipfile's own name
        return self.raw, 0


def write_tar(path, members):
    """Members are (name, bytes) or ready `TarInfo`s."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name or RawName(b""), data)
    return path


WRITERS = {"tar": write_tar, "zip": write_zip}


def write(kind, folder, members, name="photos"):
    return WRITERS[kind](folder / f"{name}.{kind}", members)


def store(path, max_bytes=LIMIT):
    return ArchivePictures(path, max_bytes)
