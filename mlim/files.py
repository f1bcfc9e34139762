"""Writing results so that a crash leaves either the old file or the new one, never half of one."""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlim.processes import is_alive

HASH_CHUNK_BYTES = 1 << 20


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to it when the block ends well, removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it replaces `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _remove_leftovers(path)
    temporary.mkdir()
    try:
        yield temporary
        retired = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.replace(retired)
        temporary.replace(path)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary folders of `path` that processes left which are no more (kill -9, power loss)."""
    for left in path.parent.glob(f".{path.name}.*"):
        owner = left.name.removeprefix(f".{path.name}.").partition(".")[0]
        if left.suffix in (".tmp", ".old") and owner.isdecimal() and not _is_anothers(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _is_anothers(process: int) -> bool:
    """Whether a process other than this one has this number."""
    return process != os.getpid() and is_alive(process)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically (equal values give equal bytes)."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with the given columns, atomically; missing values stay empty."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while chunk := source.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """The SHA-256 of bytes, as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()
