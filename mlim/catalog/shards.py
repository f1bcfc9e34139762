"""Items on disk: a few large Arrow files and a manifest whose hash is the version of the data.

Arrow's file format, uncompressed, is read through a memory map: any item of any shard is reached without reading its
neighbours, and memory holds only what is being looked at.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlim.catalog.item import ITEM_SCHEMA
from mlim.errors import InputError
from mlim.files import read_json, sha256_of, write_json

MANIFEST_FILE = "manifest.json"
SUFFIX = ".arrow"


@dataclass(frozen=True)
class ShardEntry:
    """One line of the manifest."""

    file: str
    items: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shards:
    """Verified shards in a local folder; `version` is the data version (the manifest's SHA-256).

    `by_content` when each lies there under its own hash (fetched from elsewhere) and not under the manifest's name.
    """

    folder: Path
    entries: Sequence[ShardEntry]
    version: str
    by_content: bool = False

    def stored_name(self, entry: ShardEntry) -> str:
        """The name of a shard's file in the folder."""
        return f"{entry.sha256}{SUFFIX}" if self.by_content else entry.file


def shard_name(number: int) -> str:
    """The name of the shard at place `number` of the manifest: `part-00000.arrow`."""
    return f"part-{number:05d}{SUFFIX}"


def write_shard(path: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """Write items (a value for every field of `ITEM_SCHEMA`) as one Arrow file; equal items give equal bytes."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, ITEM_SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(list(items), schema=ITEM_SCHEMA))


def read_shard(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The shard as a table over a memory map (nothing is copied); all columns or the given ones.

    `InputError` when the file is not a readable shard. Call `verify_shards` first: a flipped bit in a mapped picture is
    not noticed here.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    return table if columns is None else table.select(list(columns))


def picture_spans(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte and length of every item's picture in the file, (items,) each.

    `InputError` when the file is not a shard as `write_shard` makes it.
    """
    try:
        file = pa.memory_map(str(path)).read_buffer()
        reader = pa.ipc.open_file(file)
        parts = [reader.get_batch(number)["image"] for number in range(reader.num_record_batches)]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(path, error) from None
    offsets, lengths = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for pictures in parts:
        _, ends, data = pictures.buffers()
        bounds = np.frombuffer(ends, np.int32)[pictures.offset :][: len(pictures) + 1].astype(np.int64)
        start = data.address - file.address  # Arrow maps what is not compressed where it lies
        if not 0 <= start <= file.size - data.size:
            raise _unreadable(path, "its pictures are compressed")
        offsets.append(start + bounds[:-1])
        lengths.append(np.diff(bounds))
    return np.concatenate(offsets), np.concatenate(lengths)


def _unreadable(path: Path, why: object) -> InputError:
    return InputError(f"{path}: is not a readable shard ({why}); run `mlim ingest` again")


def write_manifest(folder: Path, entries: Sequence[ShardEntry]) -> str:
    """Write the manifest of a folder's shards and return its SHA-256: the data version."""
    path = folder / MANIFEST_FILE
    write_json(path, [asdict(entry) for entry in entries])
    return sha256_of(path)


def read_manifest(folder: Path) -> list[ShardEntry]:
    """The shards of a folder in order; `InputError` when there is no manifest."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise InputError(f"{path} is missing; run `mlim ingest` first")
    return [ShardEntry(**entry) for entry in read_json(path)]


def verify_shards(folder: Path, entries: Sequence[ShardEntry]) -> None:
    """Hash every shard again; `InputError` names each one that is missing or not what the manifest says."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter lock
        intact = list(pool.map(lambda entry: is_intact(folder / entry.file, entry), entries))
    changed = [entry.file for entry, good in zip(entries, intact, strict=True) if not good]
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since it was written; run `mlim ingest` again")


def is_intact(path: Path, entry: ShardEntry) -> bool:
    """Whether the file at `path` has the size and the hash of a line of the manifest."""
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256
