"""What belongs together and therefore into one split."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlim.quality.near_duplicates import link_groups

Places = NDArray[np.int64]


def find_components(items: pd.DataFrame, pairs: pd.DataFrame, near_links: Places | None = None) -> Places:
    """The component of each item: linked by family, picture, `near_links` and pairs; numbered from 0 in order.

    `items` has unique ids, family (null: none) and image_sha256; every item of `pairs` is among them; `near_links`
    (n, 2) are positions in `items` whose pictures are nearly the same.
    """
    position = pd.Index(items["id"])
    links = [np.column_stack([position.get_indexer(pairs[column]) for column in ("item_a", "item_b")])]
    links += [_to_first(items[column]) for column in ("family", "image_sha256")]
    links += [] if near_links is None else [near_links]
    found = link_groups(np.concatenate(links), len(items))
    return np.asarray(pd.factorize(found)[0], dtype=np.int64)


def _to_first(values: pd.Series) -> Places:
    """Links (n, 2) from each position with a value to the first one with the same."""
    number = pd.factorize(values)[0]
    with_value = np.flatnonzero(number >= 0)
    _, first = np.unique(number[with_value], return_index=True)
    return np.column_stack([with_value, with_value[first][number[with_value]]])
