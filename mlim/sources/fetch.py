"""`mlim catalog fetch abo`: the published archives of Amazon Berkeley Objects, downloaded, checked and unpacked.

What is done is written into fetched.json; a run that was stopped at any point is continued by the next one.
"""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
from filelock import FileLock, Timeout
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlim.config import Config, override, parse, read_yaml
from mlim.console import Terminal
from mlim.errors import DataError, InputError, MlimError
from mlim.files import atomic_folder, check_claim, claim, read_json, remove_folder, sha256_of, write_json
from mlim.sources.large_file import (
    BAD,
    MEBIBYTE,
    PART,
    PART_OF,
    Mebibytes,
    Patience,
    Remote,
    ask_size,
    download,
    keep,
    present_bytes,
    room_on,
    set_aside,
)
from mlim.sources.unpack import BLOCK_BYTES, Contents, check_archive, merge, unpack

RECORD_FILE = "fetched.json"
LOCK_FILE = ".fetch.lock"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
BYTES_PER_GB = 1_000_000_000
YES = ("y", "yes")

LICENCE = (
    "Amazon Berkeley Objects (c) Amazon.com. The data set's current README says CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/); older copies say CC BY-NC 4.0, which forbids commercial use "
    "(https://creativecommons.org/licenses/by-nc/4.0/). Check the README and the licence file that come with your "
    "copy, and https://amazon-berkeley-objects.s3.amazonaws.com/index.html."
)


class AboArchive(Config):
    """One of the published archives."""

    name: str = Field(pattern=r"^\w[\w.-]*\.tar$", description="its file name below the address")
    files: PositiveInt = Field(description="about how many files it holds; each takes whole blocks of the disk")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="of the archive; null: not known")


class AboDownload(Config):
    """Where the archives lie and how they are fetched."""

    address: str = Field(
        default="https://amazon-berkeley-objects.s3.amazonaws.com/archives/", description="the archives lie below it"
    )
    archives: tuple[AboArchive, ...] = Field(
        default=(AboArchive(name="abo-listings.tar", files=20), AboArchive(name="abo-images-small.tar", files=398_250)),
        min_length=1,
    )
    licence: str = Field(default=LICENCE, description="shown before anything is fetched")
    timeout_seconds: PositiveFloat = Field(default=60.0, description="without a single byte")
    retries: NonNegativeInt = Field(default=5, description="failures in a row, without a single byte between them")
    backoff_seconds: NonNegativeFloat = Field(default=1.0, description="before the first retry; doubles each time")
    chunk_bytes: PositiveInt = MEBIBYTE
    keep_archives: bool = Field(default=False, description="leave the archives beside what was unpacked from them")

    @model_validator(mode="after")
    def _protected(self) -> Self:
        url = httpx.URL(self.address)
        checked = url.host in LOOPBACK or all(archive.sha256 for archive in self.archives)
        if url.scheme != "https" and not (url.scheme == "http" and checked):
            raise ValueError(f"address {self.address!r} must be https, or http with the sha256 of every archive")
        return self

    @property
    def patience(self) -> Patience:
        """How often to try again."""
        return Patience(self.retries, self.backoff_seconds, self.chunk_bytes)

    def address_of(self, archive: AboArchive) -> str:
        """Where one archive lies."""
        return f"{self.address.rstrip('/')}/{archive.name}"


def load_download(file: Path | None, assignments: Sequence[str] = ()) -> AboDownload:
    """The settings in a YAML file (None: as published), with `key=value` assignments applied; `InputError` if wrong."""
    values = read_yaml(file) if file else {}
    return parse(AboDownload, override(values, assignments), str(file or "--set"))


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def ask_on_terminal(question: str) -> bool:
    """Whether the person at the terminal says yes; `InputError` where there is none."""
    if not sys.stdin.isatty():
        raise InputError("the data set has a licence that a person must accept; read it and pass --accept-licence")
    sys.stderr.write(f"{question}\nDo you accept? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in YES


def fetch_abo(
    out: Path,
    settings: AboDownload,
    terminal: Terminal,
    accept_licence: bool,
    ask: Callable[[str], bool] = ask_on_terminal,
    free: Callable[[Path], int] = free_bytes,
) -> None:
    """Fetch and unpack all archives into `out`, which then holds listings/ and images/ (`abo.folder` of a catalog).

    `InputError` before the first byte when the licence is not accepted, an address is wrong or the disk too small;
    `DataError` for an archive with a wrong checksum or unsafe members; `MlimError` when the network is lost.
    """
    known = _known(out, settings)
    check_claim(out, str(out), known)
    todo = [archive for archive in settings.archives if not _finished(out, settings, archive)]
    if not todo:
        terminal.say(f"{out}: everything is there already ({', '.join(one.name for one in settings.archives)})")
        return
    _agree(settings, terminal, accept_licence, ask)
    claim(out, str(out), known)
    lock = FileLock(out / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise MlimError(f"another `mlim catalog fetch` is writing to {out}; wait for it") from None
    try:
        _fetch_all(_Run(out, settings, terminal, free), todo)
    finally:
        lock.release()
    terminal.say(f"{out}: complete; export MLIM_ABO={out.resolve()} and see catalogs/abo.yaml")


def _known(out: Path, settings: AboDownload) -> list[str]:
    """What may lie in a folder without the marker: archives that were fetched by hand, or what `_record` tells of."""
    done = [entry for entry in _record(out).values() if isinstance(entry, Mapping)]
    unpacked = [name for entry in done for name in entry.get("unpacked", ())]
    archives = [archive.name for archive in settings.archives]
    parts = [f"{name}{suffix}" for name in archives for suffix in (PART, PART_OF, BAD)]
    return [RECORD_FILE, LOCK_FILE, *archives, *parts, *unpacked]


def _agree(settings: AboDownload, terminal: Terminal, accepted: bool, ask: Callable[[str], bool]) -> None:
    if accepted:
        terminal.say(settings.licence)
    elif not ask(settings.licence):
        raise InputError("the licence was not accepted; nothing was fetched")


def _record(out: Path) -> dict[str, Any]:
    """What earlier runs finished; empty when there is no record that can be read."""
    try:
        record = read_json(out / RECORD_FILE)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _finished(out: Path, settings: AboDownload, archive: AboArchive) -> bool:
    """Whether an archive of this address and checksum was unpacked and what it unpacked to is still there."""
    done = _record(out).get(archive.name)
    if not isinstance(done, Mapping) or done.get("address") != settings.address_of(archive):
        return False
    same = archive.sha256 is None or archive.sha256 == done.get("sha256")
    return same and all((out / name).exists() for name in done.get("unpacked", ()))


@dataclass(frozen=True)
class _Run:
    """One call of `fetch_abo` after the questions are answered."""

    out: Path
    settings: AboDownload
    terminal: Terminal
    free: Callable[[Path], int]

    def check_disk(self, download_bytes: int, unpacked_bytes: int) -> None:
        """`InputError` when the disk has not enough room for both."""
        needed, free = download_bytes + unpacked_bytes, self.free(self.out)
        if needed > free:
            raise InputError(
                f"{self.out}: {_gb(needed)} are needed ({_gb(download_bytes)} to download, {_gb(unpacked_bytes)} "
                f"unpacked), but only {_gb(free)} are free; make room or name a folder on another disk"
            )


def _gb(count: int) -> str:
    return f"{count / BYTES_PER_GB:.3g} GB"


def _fetch_all(run: _Run, todo: Sequence[AboArchive]) -> None:
    settings = run.settings
    timeout = httpx.Timeout(settings.timeout_seconds)
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        remotes = [ask_size(client, settings.address_of(archive), settings.patience) for archive in todo]
        sizes = zip(todo, remotes, strict=True)
        missing = [remote.size - _present(run.out / archive.name, remote) for archive, remote in sizes]
        unpacked = [remote.size + BLOCK_BYTES * archive.files for archive, remote in zip(todo, remotes, strict=True)]
        run.check_disk(sum(missing), sum(unpacked))
        for archive, remote in zip(todo, remotes, strict=True):
            sha256 = _downloaded(run, client, archive, remote)
            _unpacked(run, archive, remote, sha256)


def _present(path: Path, remote: Remote) -> int:
    """How many bytes of an archive are on the disk."""
    whole = path.stat().st_size if path.is_file() else -1
    return remote.size if whole == remote.size else present_bytes(path, remote)


def _downloaded(run: _Run, client: httpx.Client, archive: AboArchive, remote: Remote) -> str:
    """Bring one archive to the disk under its own name; its SHA-256, which is the expected one where one is known."""
    path = run.out / archive.name
    part = path
    if not path.is_file() or path.stat().st_size != remote.size:
        with run.terminal.progress(f"fetch {archive.name} (MiB)", total=remote.size // MEBIBYTE) as bar:
            part = download(client, remote, path, run.settings.patience, Mebibytes(bar))
    with run.terminal.waiting(f"checking {archive.name}"):
        sha256 = sha256_of(part)
    if archive.sha256 not in (None, sha256):
        bad = set_aside(part, path)
        raise DataError(
            f"{remote.address}: the SHA-256 is {sha256}, but {archive.sha256} was expected; the file was put aside as "
            f"{bad}: run the command again, or correct the settings if the published file has changed"
        )
    if part != path:
        keep(part, path)
    return sha256


def _unpacked(run: _Run, archive: AboArchive, remote: Remote, sha256: str) -> None:
    """Unpack one archive beside its place, move it in, write down that it is done, and remove the archive."""
    path, staged = run.out / archive.name, run.out / f".{archive.name}.unpacked"
    with run.terminal.waiting(f"reading {archive.name}"):
        contents = check_archive(path)
    run.check_disk(0, contents.on_disk)
    with (
        room_on(run.out),
        atomic_folder(staged) as folder,
        run.terminal.progress(f"unpack {archive.name} (MiB)", total=contents.bytes // MEBIBYTE) as bar,
    ):
        unpack(path, folder, Mebibytes(bar))
    names = sorted(entry.name for entry in staged.iterdir())
    with room_on(run.out):
        merge(staged, run.out)
    remove_folder(staged)
    write_json(
        run.out / RECORD_FILE, {**_record(run.out), archive.name: _entry(remote, archive, sha256, contents, names)}
    )
    if not run.settings.keep_archives:
        path.unlink()


def _entry(
    remote: Remote, archive: AboArchive, sha256: str, contents: Contents, names: Sequence[str]
) -> dict[str, Any]:
    """What fetched.json says of one archive."""
    return {
        "address": remote.address,
        "bytes": remote.size,
        "sha256": sha256,
        "sha256_was_expected": archive.sha256 is not None,
        "files": contents.files,
        "unpacked": list(names),
        "unpacked_bytes": contents.bytes,
    }
