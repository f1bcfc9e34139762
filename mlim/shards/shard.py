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
DIGEST_DIGITS = 16  # hexadecimal
FURTHER_PICTURE: Any = pa.struct(  # where a picture after the item's first one lies
    [
        pa.field("offset", pa.int64(), nullable=False),  # of its first byte in the shard
        pa.field("length", pa.int64(), nullable=False),  # bytes
        pa.field("digest", pa.uint64(), nullable=False),  # of the source file's bytes (`digests_of`)
    ]
)


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


def write_shard(path: Path, items: Sequence[Mapping[str, Any]], schema: Any = ITEM_SCHEMA) -> None:
    """Write items (a value for every field of `schema`) as one Arrow file; equal items give equal bytes."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(list(items), schema=schema))


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


def picture_ranges(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte and length of every item's picture in the file, (items,) each.

    `InputError` when the file is not a shard as `write_shard` makes it.
    """
    file, batches = _mapped_batches(path)
    parts = [_ranges(path, file, batch["image"], np.int32) for batch in batches]
    offsets, lengths = zip(*parts, strict=True) if parts else ([np.empty(0, np.int64)],) * 2
    return np.concatenate(offsets), np.concatenate(lengths)


def further_pictures(path: Path) -> Any:
    """An Arrow array with a list of `FURTHER_PICTURE`s for every item; None for a shard without such a column.

    `InputError` when the file is not a shard as `write_shard` makes it.
    """
    file, batches = _mapped_batches(path)
    if not all("further_images" in batch.schema.names for batch in batches):
        return None
    return pa.chunked_array([_further(path, file, batch) for batch in batches], pa.list_(FURTHER_PICTURE))


def _mapped_batches(path: Path) -> tuple[Any, list[Any]]:
    """The file as one buffer, and its record batches, which point into it."""
    try:
        file = pa.memory_map(str(path)).read_buffer()
        reader = pa.ipc.open_file(file)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        if any("image" not in batch.schema.names for batch in batches):
            raise KeyError("image")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(path, error) from None
    return file, batches


def _ranges(path: Path, file: Any, pictures: Any, width: type) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte in the file and length of every picture of an Arrow array whose offsets are of type `width`."""
    _, ends, data = pictures.buffers()
    if not len(pictures) or data is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    bounds = np.frombuffer(ends, width)[pictures.offset :][: len(pictures) + 1].astype(np.int64)
    start = data.address - file.address  # Arrow maps what is not compressed where it lies
    if not 0 <= start <= file.size - data.size:
        raise _unreadable(path, "its pictures are compressed")
    return start + bounds[:-1], np.diff(bounds)


def _further(path: Path, file: Any, batch: Any) -> Any:
    lists = batch["further_images"]
    offsets, lengths = _ranges(path, file, lists.flatten(), np.int64)
    digests = digests_of(batch["further_sha256"].flatten())
    pictures = pa.StructArray.from_arrays(
        [pa.array(part) for part in (offsets, lengths, digests)], fields=[*FURTHER_PICTURE]
    )
    ends = np.cumsum([0, *lists.value_lengths().to_numpy()], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pictures)


def digests_of(hashes: Any) -> NDArray[np.uint64]:
    """The first 64 bits of SHA-256 hashes (an Arrow array of hexadecimal texts): enough to find equal pictures."""
    return np.array([int(text[:DIGEST_DIGITS], 16) for text in hashes.to_pylist()], dtype=np.uint64)


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
        changed = pool.map(lambda entry: changed_shards(folder, [entry]), entries)
        require_intact(folder, [name for names in changed for name in names])


def changed_shards(folder: Path, entries: Sequence[ShardEntry]) -> list[str]:
    """The names of those shards that are missing or not what the manifest says."""
    return [entry.file for entry in entries if not is_intact(folder / entry.file, entry)]


def require_intact(folder: Path, changed: Sequence[str]) -> None:
    """`InputError` that names the changed shards of a folder, if there are any."""
    if changed:
        raise InputError(f"{folder}: {', '.join(changed)} changed since it was written; run `mlim ingest` again")


def is_intact(path: Path, entry: ShardEntry) -> bool:
    """Whether the file at `path` has the size and the hash of a line of the manifest."""
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256
