"""Writing Parquet row by row with flat memory and equal bytes for equal rows."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 256  # with small pictures


class RowWriter:
    """Writes dict rows to one Parquet file, a group of `per_group` rows at a time; a context manager.

    Binary columns (JPEG) are stored as they are: compressing them again costs time and wins nothing.
    """

    def __init__(self, path: Path, schema: Any, per_group: int = ROWS_PER_GROUP) -> None:
        self.path, self.rows, self._per_group = path, 0, per_group
        self._schema, self._pending = schema, list[Mapping[str, Any]]()
        texts = [field.name for field in schema if not pa.types.is_binary(field.type)]
        compression = {field.name: "ZSTD" if field.name in texts else "NONE" for field in schema}
        self._writer = pq.ParquetWriter(path, schema, compression=compression, use_dictionary=texts)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row that has a value for every field of the schema."""
        self._pending.append(row)
        self.rows += 1
        if len(self._pending) == self._per_group:
            self._flush()

    def close(self) -> None:
        """Write what is pending and the footer."""
        if self._pending:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Close the file after an error, without what is pending; the error under way is the one that matters."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._pending, schema=self._schema), self._per_group)
        self._pending = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
