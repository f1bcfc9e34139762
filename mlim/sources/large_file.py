"""One large file from an https server to the disk: resumed where it broke off, never mixed from two versions."""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from mlim.console import ProgressBar
from mlim.errors import DataError, InputError, MlimError
from mlim.files import write_json

PART, PART_OF, BAD = ".part", ".part.json", ".bad"
MEBIBYTE = 1 << 20
AS_IT_IS = {"Accept-Encoding": "identity"}  # sizes and ranges are those of the file, not of something compressed
WEAK = "W/"  # an ETag that does not promise equal bytes (RFC 9110, 8.8.1)

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """How often to try again: after each failure without a new byte the pause doubles."""

    retries: int
    backoff_seconds: float
    chunk_bytes: int


class Remote(BaseModel):
    """A file on a server: its size in bytes, and the server's word for this version of it ("" where it has none)."""

    address: str
    size: int
    version: str


class _InterruptedError(Exception):
    """A failure that may not occur at the next try."""


class Mebibytes:
    """Counts bytes on a progress bar of mebibytes."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar, self._bytes = bar, 0

    def add(self, count: int) -> None:
        """So many bytes are done."""
        before = self._bytes // MEBIBYTE
        self._bytes += count
        self._bar.advance(self._bytes // MEBIBYTE - before)


def ask_size(client: httpx.Client, address: str, patience: Patience) -> Remote:
    """What the server says of a file; `InputError` when it has none or does not state its size."""

    def ask() -> Remote:
        response = client.head(address, headers=AS_IT_IS)
        _check_status(response, address)
        size = response.headers.get("Content-Length", "")
        if not size.isdecimal():
            raise InputError(f"{address}: the server does not state the size; use the address of another copy")
        return Remote(address=address, size=int(size), version=response.headers.get("ETag", ""))

    return _patiently(ask, lambda: 0, address, patience)


def present_bytes(target: Path, remote: Remote) -> int:
    """How much of `remote` lies beside `target` already; a part of another version counts as nothing."""
    part, of = _beside(target, PART), _beside(target, PART_OF)
    try:
        same = Remote.model_validate_json(of.read_bytes()) == remote
    except (OSError, ValidationError):
        same = False
    return part.stat().st_size if same and part.is_file() else 0


def download(client: httpx.Client, remote: Remote, target: Path, patience: Patience, bar: Mebibytes) -> Path:
    """Fetch `remote` into a part file beside `target`, continuing an earlier one; returns the complete part.

    `MlimError` when the connection is lost again and again or the disk is full: what came so far stays.
    """
    part, of = _beside(target, PART), _beside(target, PART_OF)
    if present_bytes(target, remote) == 0:
        part.unlink(missing_ok=True)
        write_json(of, remote.model_dump())
    bar.add(present_bytes(target, remote))

    def done() -> int:
        return part.stat().st_size if part.is_file() else 0

    def go_on() -> None:
        _continue(client, remote, part, done(), patience.chunk_bytes, bar)

    if done() < remote.size or not part.is_file():
        with room_on(part):
            _patiently(go_on, done, remote.address, patience)
    return part


def set_aside(part: Path, target: Path) -> Path:
    """Move a file whose bytes are wrong out of the way, so that the next try starts over; returns its new place."""
    bad = _beside(target, BAD)
    part.replace(bad)
    _beside(target, PART_OF).unlink(missing_ok=True)
    return bad


def keep(part: Path, target: Path) -> None:
    """Give a complete part its final name."""
    part.replace(target)
    _beside(target, PART_OF).unlink(missing_ok=True)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _patiently(action: Callable[[], Result], done: Callable[[], int], address: str, patience: Patience) -> Result:
    """The action's result, tried again after failures of the network; only those without progress are counted."""
    failures = 0
    while True:
        before = done()
        try:
            return action()
        except (httpx.TransportError, _InterruptedError) as error:
            failures = 1 if done() > before else failures + 1
            if failures > patience.retries:
                raise MlimError(
                    f"{address}: {str(error) or type(error).__name__}, {failures} times in a row; check the network "
                    "and run the same command again: it continues where it stopped"
                ) from None
            time.sleep(patience.backoff_seconds * 2 ** (failures - 1))


def _continue(client: httpx.Client, remote: Remote, part: Path, start: int, chunk_bytes: int, bar: Mebibytes) -> None:
    """Append what is missing; a server that does not serve ranges sends everything, and then the part starts over."""
    headers = {**AS_IT_IS, **_range(remote, start)}
    with client.stream("GET", remote.address, headers=headers) as response:
        _check_status(response, remote.address)
        _check_same(response, remote, start)
        with part.open("ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as target:
            for chunk in response.iter_raw(chunk_bytes):
                target.write(chunk)
                bar.add(len(chunk))
    if part.stat().st_size != remote.size:
        raise _InterruptedError(f"the server sent {part.stat().st_size} of {remote.size} bytes")


def _range(remote: Remote, start: int) -> dict[str, str]:
    if not start:
        return {}
    strong = remote.version and not remote.version.startswith(WEAK)
    return {"Range": f"bytes={start}-", **({"If-Range": remote.version} if strong else {})}


def _check_status(response: httpx.Response, address: str) -> None:
    code = response.status_code
    if code in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        return
    if code == httpx.codes.TOO_MANY_REQUESTS or response.is_server_error:
        raise _InterruptedError(f"the server answers {code}")
    hint = f"it points to {response.headers.get('Location', '')}" if response.has_redirect_location else "no such file?"
    raise InputError(f"{address}: the server answers {code} ({hint}); check the address in the settings")


def _check_same(response: httpx.Response, remote: Remote, start: int) -> None:
    """`DataError` when the answer belongs to another version of the file than the one that was asked about."""
    version, size = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
    expected = remote.size
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        expected = remote.size - start
        where = response.headers.get("Content-Range", "")
        same = where == f"bytes {start}-{remote.size - 1}/{remote.size}"
    else:
        same = size in ("", str(expected))
    if not same or version != remote.version:
        raise DataError(f"{remote.address}: the file on the server changed while it was fetched; run the command again")


@contextmanager
def room_on(path: Path) -> Iterator[None]:
    """What writing at `path` raises, as `MlimError`: what was written so far is used by the next run."""
    try:
        yield
    except OSError as error:
        full = "the disk is full" if error.errno == errno.ENOSPC else f"cannot be written ({error.strerror})"
        raise MlimError(f"{path}: {full}; fix that and run the same command again: it resumes") from None
