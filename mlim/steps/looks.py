"""Which of an item's pictures pre-training may see, where the catalog takes all of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlim.shards.items import ItemStore
from mlim.shards.shard import digests_of
from mlim.steps.trained import TRAIN
from mlim.workspace import Workspace


@dataclass(frozen=True)
class VisiblePictures:
    """The pictures of items of the train split, less those that are a held-out item's own picture, byte for byte.

    `held_out` are the digests of the held-out items' pictures, ascending; `hidden` counts what is left out for them.
    """

    store: ItemStore
    held_out: NDArray[np.uint64]
    hidden: int

    def __call__(self, item: str) -> list[int]:
        """The numbers of the pictures that may be seen; 0, the item's own, always is."""
        digests = np.array(self.store.further(item), dtype=np.uint64)
        return [0, *(np.flatnonzero(~_among(digests, self.held_out)) + 1).tolist()]


def visible_pictures(store: ItemStore, workspace: Workspace) -> VisiblePictures:
    """What pre-training may see of the items of `store`, split as `mlim pairs` did."""
    items = pq.read_table(workspace.pairs / "items.parquet", columns=["id", "split"])
    train = items["id"].filter(pc.equal(items["split"], TRAIN))
    index = pq.read_table(workspace.valid / "index.parquet", columns=["id", "image_sha256"])
    trained = pc.is_in(index["id"], value_set=train)
    held_out = np.unique(digests_of(index["image_sha256"].filter(pc.invert(trained))))
    counts, digests = store.further_digests()
    hidden = np.repeat(np.asarray(trained), counts) & _among(digests, held_out)
    return VisiblePictures(store, held_out, int(hidden.sum()))


def _among(digests: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which digests (n,) are in `known`, which is ascending."""
    if not len(known):
        return np.zeros(len(digests), dtype=bool)
    places = np.minimum(np.searchsorted(known, digests), len(known) - 1)
    return np.asarray(known[places] == digests)
