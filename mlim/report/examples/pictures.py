"""Pictures and texts of items for examples, and which examples are shown."""

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from mlim.report.kit.blocks import Card, Fact
from mlim.report.kit.images import Thumbnails
from mlim.report.kit.words import plain
from mlim.shards.items import ItemStore

SHOWN = 4  # examples of a kind


class Pictures:
    """Cards of items."""

    def __init__(self, store: ItemStore, thumbnails: Thumbnails) -> None:
        self._store, self._thumbnails = store, thumbnails

    def text(self, item: str) -> str:
        """The text of an item; empty when it is no longer there."""
        return self._store.text(item) if item in self._store else ""

    def side(self, item: str) -> int:
        """Pixels along a side of an item's picture; 1 when it is no longer there."""
        return len(self._store.image(item)) if item in self._store else 1

    def card(
        self, item: str, words: str, facts: tuple[Fact, ...] = (), note: str = "", overlay: Markup | None = None
    ) -> Card:
        """The picture of an item with `words` below it."""
        if item not in self._store:
            return Card(None, item, plain("This item is no longer in the work folder."))
        return Card(self._thumbnails.uri(self._store.jpeg(item)), item, plain(words), facts, note, overlay=overlay)


def some(rows: pd.DataFrame, number: int = SHOWN) -> pd.DataFrame:
    """The rows at even distances, so that all of the table is seen; all of a shorter one."""
    places: NDArray[np.int64] = np.unique(np.linspace(0, len(rows) - 1, number).round().astype(int))
    return rows.iloc[places] if len(rows) else rows
