"""One task of the engine: a chunk of rows -> a shard, its refused rows and a record, all of it or nothing.

Finished shards lie in a cache outside the results, each in a folder named by all that decides its bytes. A run that
was killed, or one over a changed catalog, finds there what need not be made again.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from mlim.catalog import sandbox
from mlim.catalog.engine import worker_sandbox
from mlim.catalog.images import Picture, library_versions
from mlim.catalog.pictures import web_reasons
from mlim.catalog.pictures.base import PictureStore
from mlim.catalog.refusal import Refusal
from mlim.catalog.rows import RowWriter
from mlim.catalog.sandbox import Job, Outcome, Sandbox
from mlim.catalog.screen import SourceRow
from mlim.catalog.shards import write_shard
from mlim.files import atomic_folder, read_json, sha256_of, sha256_of_bytes, write_json

ITEMS_FILE = "items.arrow"
REFUSED_FILE = "refused.parquet"
RECORD_FILE = "shard.json"
ROWS_PER_DOWNLOAD = 256  # many connections are busy at once, and decoding need not wait long for its first pictures
FORMAT = 2  # of the shards' content: count up when equal rows give other bytes

MAY_PASS = sandbox.MAY_PASS | web_reasons.MAY_PASS

REFUSED_SCHEMA: Any = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),  # in the chunk
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("thumbnail", pa.binary()),
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """All that makes one shard: its rows, where their pictures lie, where the result goes."""

    key: str
    rows: Sequence[SourceRow]
    store: PictureStore
    cache: Path

    @classmethod
    def of(cls, rows: Sequence[SourceRow], store: PictureStore, settings: Mapping[str, Any], cache: Path) -> Self:
        """The plan of a chunk; its key changes when a row, a picture's size or time, a setting or a library does."""
        deciding = {
            "made by": [FORMAT, *library_versions(), pa.__version__],
            "settings": settings,
            "rows": [[*row.content(), store.fingerprint(row.image)] for row in rows],
        }
        text = json.dumps(deciding, ensure_ascii=False)
        return cls(sha256_of_bytes(text.encode("utf-8", "surrogatepass")), rows, store, cache)

    @property
    def folder(self) -> Path:
        """Where the finished shard lies."""
        return self.cache / self.key


@dataclass(frozen=True)
class ShardRecord:
    """What became of a chunk: the shard's size and hash, and for every row in order its reason, None for an item."""

    items: int
    bytes: int
    sha256: str
    reasons: Sequence[str | None]


def build_shard(plan: ShardPlan) -> ShardRecord:
    """The record of a plan's shard, made now unless it is there and intact."""
    found = _finished(plan.folder)
    return _make(plan) if found is None else found


def _finished(folder: Path) -> ShardRecord | None:
    """The record of a shard that an earlier run finished; None when it must be made.

    There may be none, its bytes may have changed, or a picture may have been refused for a reason that can pass.
    """
    if not (folder / RECORD_FILE).is_file():
        return None
    record = ShardRecord(**read_json(folder / RECORD_FILE))
    if MAY_PASS.intersection(record.reasons):
        return None
    items = folder / ITEMS_FILE
    intact = items.is_file() and items.stat().st_size == record.bytes and sha256_of(items) == record.sha256
    return record if intact and (folder / REFUSED_FILE).is_file() else None


def _make(plan: ShardPlan) -> ShardRecord:
    outcomes = _open_pictures(plan.rows, plan.store, worker_sandbox())
    with atomic_folder(plan.folder) as folder:
        return _write(folder, plan.rows, outcomes)


def _open_pictures(rows: Sequence[SourceRow], store: PictureStore, decoders: Sandbox) -> list[Outcome]:
    """The outcome of every row, in order; a part is decoded while the next ones are downloaded (where they must be)."""
    parts = [rows[start : start + ROWS_PER_DOWNLOAD] for start in range(0, len(rows), ROWS_PER_DOWNLOAD)]
    downloads = ThreadPoolExecutor(1, thread_name_prefix="mlim-download")
    try:
        ready = [downloads.submit(store.prefetch, [row.image for row in part if row.image]) for part in parts]
        outcomes = list[Outcome]()
        for part, download in zip(parts, ready, strict=True):
            download.result()
            outcomes += decoders.decode([Job(row.image, row.refusal) for row in part])
    finally:
        downloads.shutdown(cancel_futures=True)
    return outcomes


def _write(folder: Path, rows: Sequence[SourceRow], outcomes: Sequence[Outcome]) -> ShardRecord:
    items = [
        _item(row, outcome.result)
        for row, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome.result, Picture)
    ]
    write_shard(folder / ITEMS_FILE, items)
    with RowWriter(folder / REFUSED_FILE, REFUSED_SCHEMA) as refused:
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome.result, Refusal):
                refused.add({"position": position, **_refused(outcome.result, outcome.thumbnail)})
    path = folder / ITEMS_FILE
    reasons = [outcome.result.reason if isinstance(outcome.result, Refusal) else None for outcome in outcomes]
    record = ShardRecord(len(items), path.stat().st_size, sha256_of(path), reasons)
    write_json(folder / RECORD_FILE, vars(record))
    return record


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


def _refused(refusal: Refusal, thumbnail: bytes | None) -> dict[str, Any]:
    return {"reason": refusal.reason, "detail": refusal.detail, "thumbnail": thumbnail}


def forget_others(cache: Path, keys: set[str]) -> None:
    """Remove the shards of the cache that the catalog no longer has."""
    for folder in cache.iterdir() if cache.is_dir() else ():
        if folder.name not in keys:
            shutil.rmtree(folder, ignore_errors=True)
