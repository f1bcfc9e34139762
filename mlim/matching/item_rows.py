"""From the ids of a table of pairs to rows of the index, many at a time and with sixteen bytes of memory an item."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlim.shards.items import ItemStore

UNKNOWN: Final = -1
Rows = NDArray[np.int64]


class ItemRows:
    """The rows of a store's items by id: hashes of the ids in order, and each id that is found is compared."""

    def __init__(self, store: ItemStore) -> None:
        parts = [_hashes(texts) for texts in store.id_batches()]
        hashes = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes, self._store = hashes[self._order], store

    def find(self, ids: Sequence[str]) -> Rows:
        """The row (n,) of each id, UNKNOWN for those that are no items."""
        if not len(self._hashes) or not ids:
            return np.full(len(ids), UNKNOWN, dtype=np.int64)
        asked = _hashes(ids)
        at = np.minimum(np.searchsorted(self._hashes, asked), len(self._hashes) - 1)
        rows = np.where(self._hashes[at] == asked, self._order[at], UNKNOWN)
        found = np.flatnonzero(rows != UNKNOWN)
        meant = pa.array(ids, pa.string()).take(pa.array(found))
        equal = pc.equal(pa.array(self._store.ids_at(rows[found]), pa.string()), meant).to_numpy(zero_copy_only=False)
        for place in map(int, found[~equal]):  # two ids with one hash
            rows[place] = self._store.row(ids[place]) if ids[place] in self._store else UNKNOWN
        return rows


def _hashes(ids: Sequence[str]) -> NDArray[np.uint64]:
    return np.asarray(pd.util.hash_array(np.array(ids, dtype=object), categorize=False), dtype=np.uint64)
