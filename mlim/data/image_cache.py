"""Decoded pictures that stay in memory: a small catalog is decoded in the first epoch and read from there after it."""

import numpy as np
from numpy.typing import NDArray

from mlim.data.collate import GallerySource

BYTES_PER_MB = 1_000_000


class ImageCache:
    """An `ItemSource` that keeps the first pictures it is asked for, until `megabytes` are full; none is given up.

    An epoch shows every item once, so that any pictures are as good as others to keep; those seen last (LRU) would all
    be thrown out before they are seen again. A copy in another process starts empty.
    """

    def __init__(self, source: GallerySource, megabytes: int) -> None:
        self._source, self._megabytes = source, megabytes
        self._room = megabytes * BYTES_PER_MB
        self._kept: dict[tuple[str, int], NDArray[np.uint8]] = {}

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[GallerySource, int]]:
        return ImageCache, (self._source, self._megabytes)

    def text(self, item: str, /) -> str:
        """The text of an item."""
        return self._source.text(item)

    def image(self, item: str, picture: int = 0, /) -> NDArray[np.uint8]:
        """A picture of an item (size, size, 3): not to be written to, the next one who asks gets the same."""
        kept = self._kept.get((item, picture))
        if kept is not None:
            return kept
        found = self._source.image(item, picture)
        if found.nbytes <= self._room:  # of two threads both may find room for their picture: one too many
            self._room -= found.nbytes
            self._kept[item, picture] = found
        return found
