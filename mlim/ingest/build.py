"""One task of the engine: a chunk of rows -> a shard, its rejected rows and a record, all of it or nothing.

Finished shards lie in a cache outside the results, each in a folder named by all that decides its bytes. A run that
was killed, or one over a changed catalog, finds there what need not be made again.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from mlim.catalog.item import ALL_PICTURES_SCHEMA, ITEM_SCHEMA
from mlim.catalog.rejection import Rejection
from mlim.catalog.row_writer import RowWriter
from mlim.files import atomic_folder, read_json, remove_folder, sha256_of, sha256_of_bytes, write_json
from mlim.ingest.screen import SourceRow
from mlim.pictures import sandbox, web_reasons
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import Picture, library_versions
from mlim.pictures.sandbox import Job, Outcome, Sandbox
from mlim.shards.shard import write_shard

ITEMS_FILE = "items.arrow"
REJECTED_FILE = "refused.parquet"
RECORD_FILE = "shard.json"
ROWS_PER_DOWNLOAD = 256  # many connections are busy at once, and decoding need not wait long for its first pictures
FORMAT = 3  # of the shards' content: count up when equal rows give other bytes

SHARD_KEY = re.compile("[0-9a-f]{64}")
MAY_PASS = sandbox.MAY_PASS | web_reasons.MAY_PASS

REJECTED_SCHEMA: Any = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # in the chunk
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary()),
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """All that makes one shard: its rows, where their pictures lie, where the result goes.

    With `every_picture` the items keep the pictures after their first one as well.
    """

    key: str
    rows: Sequence[SourceRow]
    store: PictureStore
    cache: Path
    every_picture: bool = False

    @classmethod
    def of(
        cls,
        rows: Sequence[SourceRow],
        store: PictureStore,
        settings: Mapping[str, Any],
        cache: Path,
        every_picture: bool = False,
    ) -> Self:
        """The plan of a chunk; its key changes when a row, a picture's size or time, a setting or a library does."""
        deciding = {
            "made by": [FORMAT, *library_versions(), pa.__version__],
            "settings": {**settings, "every picture": True} if every_picture else settings,
            "rows": [[*row.content(), *map(store.fingerprint, (row.image, *row.further))] for row in rows],
        }
        text = json.dumps(deciding, ensure_ascii=False)
        return cls(sha256_of_bytes(text.encode("utf-8", "surrogatepass")), rows, store, cache, every_picture)

    @property
    def folder(self) -> Path:
        """Where the finished shard lies."""
        return self.cache / self.key


@dataclass(frozen=True)
class ShardRecord:
    """The result of a chunk: the shard's size and hash, and for every row in order its reason, None for an item.

    `unusable` are pictures that cost no item, as {position: of the row in the chunk, reason, detail}.
    """

    items: int
    bytes: int
    sha256: str
    reasons: Sequence[str | None]
    unusable: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Opened:
    """The result of a row's pictures: the first good one, or why there is none, and the good ones after it.

    `unusable` are the others that the row listed, beside the one that `result` may already name.
    """

    result: Picture | Rejection
    thumbnail: bytes | None
    further: Sequence[Picture] = ()
    unusable: Sequence[Rejection] = ()

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Self:
        """Of the outcomes of one row's pictures, in their order."""
        results = [outcome.result for outcome in outcomes]
        good = [result for result in results if isinstance(result, Picture)]
        bad = [result for result in results if isinstance(result, Rejection)]
        if not good:
            return cls(bad[0], outcomes[0].thumbnail, unusable=bad[1:])
        return cls(good[0], None, good[1:], bad)


def build_shard(plan: ShardPlan, decoders: Sandbox) -> ShardRecord:
    """The record of a plan's shard, made now (pictures in the sandbox `decoders`) unless it is there and intact."""
    found = _finished(plan.folder)
    if found is not None:
        return found
    opened = _open_pictures(plan.rows, plan.store, decoders)
    with atomic_folder(plan.folder) as folder:
        return _write(folder, plan, opened)


def _finished(folder: Path) -> ShardRecord | None:
    """The record of a shard that an earlier run finished; None when it must be made.

    There may be none, its bytes may have changed, or a picture may have been rejected for a reason that can pass.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    record = ShardRecord(**read_json(folder / RECORD_FILE))
    if MAY_PASS.intersection([*record.reasons, *(picture["reason"] for picture in record.unusable)]):
        return None
    items = folder / ITEMS_FILE
    intact = items.is_file() and items.stat().st_size == record.bytes and sha256_of(items) == record.sha256
    return record if intact and (folder / REJECTED_FILE).is_file() else None


def _open_pictures(rows: Sequence[SourceRow], store: PictureStore, decoders: Sandbox) -> list[Opened]:
    """What became of every row, in order; a part is decoded while the next ones are downloaded (where they must be)."""
    parts = [rows[start : start + ROWS_PER_DOWNLOAD] for start in range(0, len(rows), ROWS_PER_DOWNLOAD)]
    downloads = ThreadPoolExecutor(1, thread_name_prefix="mlim-download")
    try:
        wanted = [[reference for row in part for reference in row.pictures if reference] for part in parts]
        ready = [downloads.submit(store.prefetch, references) for references in wanted]
        opened = list[Opened]()
        for part, download in zip(parts, ready, strict=True):
            download.result()
            outcomes = iter(decoders.decode([Job(name, row.rejection) for row in part for name in row.pictures]))
            opened += [Opened.of(list(islice(outcomes, len(row.pictures)))) for row in part]
    finally:
        downloads.shutdown(cancel_futures=True)
    return opened


def _write(folder: Path, plan: ShardPlan, opened: Sequence[Opened]) -> ShardRecord:
    items, path = list(_items(plan, opened)), folder / ITEMS_FILE
    write_shard(path, items, ALL_PICTURES_SCHEMA if plan.every_picture else ITEM_SCHEMA)
    with RowWriter(folder / REJECTED_FILE, REJECTED_SCHEMA) as rejected:
        for position, one in enumerate(opened):
            if isinstance(one.result, Rejection):
                why = {"reason": one.result.reason, "detail": one.result.detail, "thumbnail": one.thumbnail}
                rejected.add({"position": position, **why})
    reasons = [one.result.reason if isinstance(one.result, Rejection) else None for one in opened]
    unusable = [{"position": place, **vars(lost)} for place, one in enumerate(opened) for lost in one.unusable]
    record = ShardRecord(len(items), path.stat().st_size, sha256_of(path), reasons, unusable)
    write_json(folder / RECORD_FILE, vars(record))
    return record


def _items(plan: ShardPlan, opened: Sequence[Opened]) -> Iterator[dict[str, Any]]:
    for row, one in zip(plan.rows, opened, strict=True):
        if isinstance(one.result, Picture):
            item = _item(row, one.result)
            if plan.every_picture:
                item["further_images"] = [picture.jpeg for picture in one.further]
                item["further_sha256"] = [picture.sha256 for picture in one.further]
            yield item


def _item(row: SourceRow, picture: Picture) -> dict[str, Any]:
    return {
        "id": row.id,
        "family": row.family,
        "category": row.category,
        "text": row.text,
        "attributes": row.attributes,
        "facts": row.facts,
        "image": picture.jpeg,
        "image_sha256": picture.sha256,
        "image_hash": picture.hash,
        "image_width": picture.width,
        "image_height": picture.height,
        "image_brightness": picture.brightness,
        "image_contrast": picture.contrast,
    }


def forget_others(cache: Path, keys: set[str]) -> None:
    """Remove the shards of the cache that the catalog no longer has."""
    for folder in cache.iterdir() if cache.is_dir() else ():
        if SHARD_KEY.fullmatch(folder.name) and folder.name not in keys:
            remove_folder(folder)
