"""Downloaded pictures on the disk, by content: equal pictures are stored once.

    objects/<first two digits>/<sha256>     the bytes
    addresses/<sha256 of the address>.json  {"sha256", "status", "url"}, or {"detail", "reason", "run", "url"}
    partial/                                downloads under way
    hosts/                                  locks: who downloads from a host

Files are complete before they get their name, so many processes may share a cache and a crash leaves no half of one.
Bytes are hashed again when they are read: a damaged object counts as not there and is downloaded again.
"""

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.files import is_ours, sha256_of_bytes
from mlim.pictures.addresses import SHOWN_CHARACTERS
from mlim.pictures.base import TOO_MANY_BYTES

SHA256 = re.compile("[0-9a-f]{64}")
PREFIX_DIGITS = 2
STALE_SECONDS = 24 * 3600  # a partial download this old belongs to a process that was killed


@dataclass
class Incoming:
    """Bytes on their way into the cache: how many, how they begin, what they hash to."""

    file: IO[bytes]
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, chunk: bytes) -> None:
        """Append bytes; `OSError` when the disk is full."""
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)


@dataclass(frozen=True)
class DownloadCache:
    """The cache below `folder`, which need not exist yet."""

    folder: Path

    def find(self, url: str) -> str:
        """The SHA-256 of what the address gave; "" when it is not in the cache."""
        return self._kept(self._entry(url))

    def is_known(self, url: str, run: str) -> bool:
        """Whether the address is in the cache or has failed in this run."""
        entry = self._entry(url)
        return bool(entry) and (_failure(entry, run) is not None or bool(self._kept(entry)))

    def failure(self, url: str, run: str) -> Rejection | None:
        """Why the address failed in this run; None when it did not. Failures of other runs do not count."""
        return _failure(self._entry(url), run)

    def read(self, url: str, max_bytes: int) -> bytes | None:
        """What the address gave; None when it is not in the cache, or damaged there.

        `RejectedError` when it has more than `max_bytes`.
        """
        sha256 = self.find(url)
        if not sha256:
            return None
        try:
            with self._object(sha256).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > max_bytes:
                    shown = url[:SHOWN_CHARACTERS]
                    raise RejectedError(TOO_MANY_BYTES, f"{shown} has {size} bytes; the limit is {max_bytes}")
                data = file.read()
        except OSError:
            return None
        return data if sha256_of_bytes(data) == sha256 else None

    @contextmanager
    def receive(self, url: str, status: int) -> Iterator[Incoming]:
        """Yield a place for the bytes of `url`; they are kept when the block ends well, and removed when it does not.

        `OSError` when they cannot be written (a full disk): then nothing is kept.
        """
        with self._temporary() as (path, file):
            incoming = Incoming(file)
            yield incoming
            sha256 = incoming.digest.hexdigest()
            _publish(path, file, self._object(sha256))
        self._note(url, {"sha256": sha256, "status": status})

    def fail(self, url: str, rejection: Rejection, run: str) -> None:
        """Note why the address failed in this run, for every process that takes part in it."""
        self._note(url, {"reason": rejection.reason, "detail": rejection.detail, "run": run})

    def sweep(self) -> None:
        """Remove partial downloads that a killed process left in a folder of ours a day ago or earlier."""
        oldest = time.time() - STALE_SECONDS
        for path in self._partial.glob("*") if is_ours(self._partial) else ():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:  # another process was quicker
                continue

    @property
    def hosts(self) -> Path:
        """Where the locks lie that say who downloads from a host."""
        return self.folder / "hosts"

    @property
    def _partial(self) -> Path:
        return self.folder / "partial"

    def _entry(self, url: str) -> dict[str, Any]:
        """What is noted of the address; nothing where the note is absent or damaged."""
        try:
            entry = json.loads(self._address(url).read_bytes())
        except (OSError, ValueError):
            return {}
        return entry if isinstance(entry, dict) else {}

    def _note(self, url: str, facts: dict[str, Any]) -> None:
        with self._temporary() as (path, file):
            file.write(json.dumps({**facts, "url": url}, sort_keys=True).encode() + b"\n")
            _publish(path, file, self._address(url))

    def _kept(self, entry: Mapping[str, Any]) -> str:
        sha256 = str(entry.get("sha256", ""))
        return sha256 if SHA256.fullmatch(sha256) and self._object(sha256).is_file() else ""

    def _address(self, url: str) -> Path:
        return self.folder / "addresses" / f"{sha256_of_bytes(url.encode('utf-8', 'surrogatepass'))}.json"

    def _object(self, sha256: str) -> Path:
        return self.folder / "objects" / sha256[:PREFIX_DIGITS] / sha256

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """Yield a new empty file, unlike any other thread's or process's; removed when the block fails."""
        descriptor, path = _create_in(self._partial)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield path, file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _failure(entry: Mapping[str, Any], run: str) -> Rejection | None:
    if "reason" not in entry or entry.get("run") != run:
        return None
    return Rejection(str(entry["reason"]), str(entry.get("detail", "")))


def _create_in(folder: Path) -> tuple[int, Path]:
    """A new file in a folder that is nearly always there: asking first would cost each of millions of downloads."""
    try:
        descriptor, name = tempfile.mkstemp(dir=folder)
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder)
    return descriptor, Path(name)


def _publish(temporary: Path, file: IO[bytes], path: Path) -> None:
    """Give the file its name when all of it is written."""
    file.close()
    try:
        temporary.replace(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
