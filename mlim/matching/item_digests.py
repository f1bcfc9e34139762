"""What names the content of every item of a catalog: a match leaves it for the next one, which compares."""

from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from mlim.files import sha256_of_bytes
from mlim.matching.item_cache import DIGEST
from mlim.matching.prepared import content_digests
from mlim.shards.items import ItemStore

DESCRIBED: Final = ["family", "attributes", "facts"]  # columns of the index of items that hard rules read
ITEM_SCHEMA: Final[Any] = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),  # of text and picture, which a network reads
        pa.field("described", pa.string(), nullable=False),  # of family and columns, which rules and stacks read
    ]
)


def item_digests(store: ItemStore, index: pd.DataFrame) -> Any:
    """What names the content of every item, as a table of `ITEM_SCHEMA` in the order of the store.

    `index` (id, family, attributes, facts) has the items in the same order.
    """
    content = [digest.hex() for digest in _whole(content_digests(store, np.arange(len(store))))]
    rows = index[DESCRIBED].fillna("").itertuples(index=False, name=None)
    described = [sha256_of_bytes(repr(row).encode("utf-8", "surrogatepass"))[: 2 * DIGEST] for row in rows]
    return pa.table([index["id"].tolist(), content, described], schema=ITEM_SCHEMA)


def _whole(digests: NDArray[np.bytes_]) -> list[bytes]:
    """Each digest with the zeros at its end, which numpy leaves out."""
    data = digests.tobytes()
    return [data[start : start + DIGEST] for start in range(0, len(data), DIGEST)]
