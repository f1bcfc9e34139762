"""Which shards an index of accepted items (valid/index.parquet) belongs to.

An index names items by their places in shards. After another `mlim ingest` the same places hold other items, so the
index carries the data version that was validated, and whoever reads it compares.
"""

from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from mlim.errors import InputError
from mlim.files import sha256_of
from mlim.shards.shard import MANIFEST_FILE

VERSION_KEY: Final = b"mlim.data_version"  # in the metadata of the index's schema


def schema_for(schema: Any, version: str) -> Any:
    """The schema of an index of this data version."""
    return schema.with_metadata({VERSION_KEY: version})


def check_version(index: Path, version: str) -> None:
    """`InputError` when `index` is of another data version; one of an earlier mlim does not say of which it is."""
    known = (pq.read_schema(index).metadata or {}).get(VERSION_KEY)
    if known is not None and known.decode() != version:
        raise InputError(f"{index}: is of other items than those that are there now; run `mlim validate` again")


def check_index(index: Path, items: Path) -> None:
    """The same for the shards in the folder `items`, where they are here."""
    manifest = items / MANIFEST_FILE
    if manifest.is_file():
        check_version(index, sha256_of(manifest))
