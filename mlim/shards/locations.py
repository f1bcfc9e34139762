"""Where every accepted item's text and picture lie: one Arrow file made once from valid/index.parquet and the shards.

A process that reads items maps this file and opens shards by offset. So it needs no list of ids, no dictionary and no
open file for each shard, however large the catalog is.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from mlim.errors import InputError, MlimError
from mlim.files import atomic_file, sha256_of, sha256_of_bytes
from mlim.shards.belonging import check_version
from mlim.shards.shard import FURTHER_PICTURE, ShardEntry, Shards, further_pictures, picture_ranges

FORMAT = 2  # of the file; another one makes every file again
FILES_KEY = b"files"  # in the schema's metadata: the shards' names as JSON
ROWS_AT_ONCE = 1 << 16
TOLD = ["id", "text", "attributes"]  # columns that are taken from the index
FURTHER = "further"  # the column of the pictures after the first, where any item has one

LOCATIONS_SCHEMA: Any = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),  # as the index has them
        pa.field("file", pa.int32(), nullable=False),  # number of the shard in the metadata's list
        pa.field("offset", pa.int64(), nullable=False),  # of the picture's first byte in the shard
        pa.field("length", pa.int64(), nullable=False),  # bytes of the picture
        pa.field("by_id", pa.int64(), nullable=False),  # row n: the place of the n-th id in sorted order
    ]
)


def open_locations(index: Path, shards: Shards, cache: Path) -> Path:
    """The file of locations of the items in `index` (valid/index.parquet), made now where `cache` does not hold it.

    `InputError` when the index does not belong to the shards, `MlimError` when the cache cannot be written.
    """
    described = json.dumps([FORMAT, sha256_of(index), shards.version, shards.by_content])
    path = cache / f"places-{sha256_of_bytes(described.encode())}.arrow"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".places.lock"):
            if not path.is_file():
                _write(path, index, shards)
    except OSError as error:
        raise MlimError(f"{cache} cannot be written ({error}); free space or fix its permissions") from error
    return path


def _write(path: Path, index: Path, shards: Shards) -> None:
    table = pq.read_table(index, columns=["id", "shard", "position"])
    files, positions = _shard_numbers(index, table, shards.entries), table["position"].to_numpy()
    _check_positions(index, table, files, positions, shards.entries)
    check_version(index, shards.version)
    firsts = np.cumsum([0, *(entry.items for entry in shards.entries)])
    rows_of_shards = np.asarray(firsts[files] + positions)  # places among the items of all shards (rows,)
    offsets, lengths = _ranges(shards, rows_of_shards)
    further = _further(shards, rows_of_shards)
    by_id = pc.sort_indices(table["id"]).to_numpy().astype(np.int64)
    fields = [*LOCATIONS_SCHEMA, *([] if further is None else [pa.field(FURTHER, pa.list_(FURTHER_PICTURE))])]
    names = json.dumps([shards.stored_name(entry) for entry in shards.entries])
    schema = pa.schema(fields, {FILES_KEY: names})
    with atomic_file(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        for rows, part in _parts(index):
            numbers = [values[rows] for values in (files, offsets, lengths, by_id)]
            lists = [] if further is None else [further.slice(rows.start, len(part))]
            told = [part[name] for name in TOLD]
            out.write_batch(pa.record_batch([*told, *numbers, *lists], schema=schema))


def _parts(index: Path) -> Iterator[tuple[slice, Any]]:
    """What the index tells of its items a part at a time, and which rows they are."""
    start = 0
    for part in pq.ParquetFile(index).iter_batches(ROWS_AT_ONCE, columns=TOLD):
        yield slice(start, start + len(part)), part
        start += len(part)


def _shard_numbers(index: Path, table: Any, entries: Sequence[ShardEntry]) -> NDArray[np.int32]:
    """The number of every row's shard (rows,)."""
    found = pc.index_in(table["shard"], value_set=pa.array([entry.file for entry in entries], pa.string()))
    if found.null_count:
        row = pc.index(found.is_null(), True).as_py()
        raise _foreign(index, table["id"][row].as_py(), f"shard {table['shard'][row].as_py()}")
    return np.asarray(found.to_numpy(), dtype=np.int32)


def _check_positions(
    index: Path, table: Any, files: NDArray[np.int32], positions: NDArray[np.int64], entries: Sequence[ShardEntry]
) -> None:
    counts = np.array([entry.items for entry in entries], dtype=np.int64)
    wrong = np.flatnonzero((positions < 0) | (positions >= counts[files]))
    if wrong.size:
        row = int(wrong[0])
        raise _foreign(index, table["id"][row].as_py(), f"place {positions[row]} of shard {entries[files[row]].file}")


def _foreign(index: Path, item: str, where: str) -> InputError:
    return InputError(
        f"{index}: item {item} lies at {where}, which the manifest of the shards does not have; "
        "run `mlim validate` again"
    )


def _ranges(shards: Shards, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First byte and length of every row's picture in its shard, (rows,) each."""
    ranges = [picture_ranges(shards.folder / shards.stored_name(entry)) for entry in shards.entries]
    if not ranges:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    offsets, lengths = (np.concatenate(parts) for parts in zip(*ranges, strict=True))
    return offsets[rows], lengths[rows]


def _further(shards: Shards, rows: NDArray[np.int64]) -> Any:
    """The pictures after the first of every row, as one Arrow array of lists; None where no item has any."""
    chunks = []
    for entry in shards.entries:
        found = further_pictures(shards.folder / shards.stored_name(entry))
        if found is None:
            return None
        chunks += found.chunks
    if not any(len(chunk.values) for chunk in chunks):
        return None
    return pa.concat_arrays(chunks).take(pa.array(rows))
