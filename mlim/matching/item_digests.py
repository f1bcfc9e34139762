"""What names the content of every item of a catalog: a match leaves it for the next one, which compares.

There are two names: of what decides an item's scores, and of what only rules read, such as a price that comes anew each
night: where that alone differs, no pair is scored again.

It is computed once for each shard and kept by the shard's hash, so that a night reads the shards that are new.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlim.files import atomic_file, sha256_of_bytes
from mlim.matching.item_cache import DIGEST, digest_of
from mlim.shards.shard import Shards, read_shard

FORMAT: Final = 2  # of what is kept; another one computes everything again
READ: Final = ["text", "image", "attributes"]  # columns of a shard that networks and stacks read: they decide scores
RULED: Final = ["family", "facts"]  # those that rules alone read besides: they decide candidates and groups
ITEM_SCHEMA: Final[Any] = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),  # of the columns READ
        pa.field("ruled", pa.string(), nullable=False),  # of the columns RULED
    ]
)
NAMES: Final = ITEM_SCHEMA.names[1:]


def item_digests(shards: Shards, index: Any, cache: Path) -> Any:
    """What names the content of every item, as a table of `ITEM_SCHEMA` in the order of the index.

    `index` is an Arrow table (id, shard, position) of items of these `shards`; the folder `cache` keeps what is
    computed of a shard.
    """
    kept = cache / f"item-digests-{FORMAT}.parquet"
    known = _read(kept)
    lists = {name: list[Any]() for name in NAMES}
    for entry in shards.entries:
        of_shard = known.get(entry.sha256) or _computed(shards.folder / shards.stored_name(entry))
        for name in NAMES:
            lists[name].append(of_shard[name])
    _write(kept, shards, lists)
    firsts = np.cumsum([0, *(entry.items for entry in shards.entries)])
    names = pa.array([entry.file for entry in shards.entries], pa.string())
    shard = pc.index_in(index["shard"], value_set=names).to_numpy()
    rows = pa.array(firsts[shard] + index["position"].to_numpy())
    columns = [pa.chunked_array(lists[name], pa.string()).take(rows) for name in NAMES]
    return pa.table([index["id"], *columns], schema=ITEM_SCHEMA)


def _computed(shard: Path) -> Mapping[str, Any]:
    """The names of all items of a shard, as Arrow arrays."""
    table = read_shard(shard)
    contents = zip(*(_values(table[name]) for name in READ), strict=True)
    content = [
        _named(digest_of(text.as_py(), image.as_buffer()).hex(), attributes.as_py())
        for text, image, attributes in contents
    ]
    ruled = [_named(*row) for row in zip(*(table[name].to_pylist() for name in RULED), strict=True)]
    return {"content": pa.array(content, pa.string()), "ruled": pa.array(ruled, pa.string())}


def _named(*values: str | None) -> str:
    """What names some values of an item by their content; one that is missing is like an empty one."""
    described = repr(tuple(value or "" for value in values))
    return sha256_of_bytes(described.encode("utf-8", "surrogatepass"))[: 2 * DIGEST]


def _values(column: Any) -> Iterator[Any]:
    return (value for chunk in column.chunks for value in chunk)


def _read(kept: Path) -> dict[str, Mapping[str, Any]]:
    """What was kept, by the hash of the shard; nothing where it cannot be read."""
    try:
        table = pq.read_table(kept)
        columns = [table["sha256"].to_pylist(), *(list(_values(table[name])) for name in NAMES)]
    except (OSError, KeyError, pa.ArrowException):
        return {}
    return {
        sha256: {name: each.values for name, each in zip(NAMES, of, strict=True)}
        for sha256, *of in zip(*columns, strict=True)
    }


def _write(kept: Path, shards: Shards, lists: Mapping[str, list[Any]]) -> None:
    """Keep what names the items of each of the shards."""
    ends = pa.array(np.cumsum([0, *(entry.items for entry in shards.entries)]), pa.int32())
    named = {
        name: pa.ListArray.from_arrays(ends, pa.concat_arrays([pa.array([], pa.string()), *lists[name]]))
        for name in NAMES
    }
    with atomic_file(kept) as temporary:
        pq.write_table(pa.table({"sha256": [entry.sha256 for entry in shards.entries], **named}), temporary)
