"""Items on disk: a few large Parquet shards and a manifest whose hash is the version of the data."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlim.catalog.item import ITEM_SCHEMA
from mlim.catalog.rows import RowWriter
from mlim.files import sha256_of, write_json

MANIFEST_FILE = "manifest.json"


class ShardWriter:
    """Writes items to part-00000.parquet, part-00001.parquet, ... of `rows_per_shard` rows; a context manager."""

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self._folder, self._rows_per_shard = folder, rows_per_shard
        self._writer: RowWriter | None = None
        self._manifest = list[dict[str, Any]]()
        self.rows = 0

    def add(self, item: Mapping[str, Any]) -> None:
        """Append one item (a value for every field of `ITEM_SCHEMA`)."""
        if self._writer is None:
            self._writer = RowWriter(self._folder / f"part-{len(self._manifest):05d}.parquet", ITEM_SCHEMA)
        self._writer.add(item)
        self.rows += 1
        if self._writer.rows == self._rows_per_shard:
            self._finish_shard()

    def finish(self) -> str:
        """Close the last shard, write the manifest and return its SHA-256: the data version."""
        self._finish_shard()
        path = self._folder / MANIFEST_FILE
        write_json(path, self._manifest)
        return sha256_of(path)

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path, rows, self._writer = self._writer.path, self._writer.rows, None
        size = path.stat().st_size
        self._manifest.append({"file": path.name, "items": rows, "bytes": size, "sha256": sha256_of(path)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)
