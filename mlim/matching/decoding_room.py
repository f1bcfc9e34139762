"""A bound on the pixels that a process decodes at the same time, whatever number of threads reads pictures."""

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from PIL import Image

from mlim.pictures.decoding import DECODE_MARGIN, ImageRules

MOST_PIXELS: Final = 40_000_000  # as many as the largest picture of a catalog has by default (ingest.max_megapixels)
ALONE: Final = sys.maxsize  # pixels that leave no room for others


class DecodingRoom:
    """Room for so many pixels; threads wait for it. A picture that is larger takes all of it, and so is alone."""

    def __init__(self, pixels: int = MOST_PIXELS) -> None:
        self._most = self._free = pixels
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Hold room for `pixels` during the block. Who waits lets nobody pass: small pictures delay no large one."""
        wanted = min(pixels, self._most)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= wanted)
            self._free -= wanted
        try:
            yield
        finally:
            with self._changed:
                self._free += wanted
                self._changed.notify()


def decoded_pixels(data: bytes, rules: ImageRules) -> int:
    """How many pixels `prepare_picture` will hold of these bytes, from their header; `ALONE` where it cannot be read.

    A JPEG is decoded at a reduced scale; of a progressive one the coefficients of all pixels are in memory.
    """
    try:
        with Image.open(io.BytesIO(data), formats=rules.formats) as source:
            if not source.info.get("progressive"):
                source.draft(None, (DECODE_MARGIN * rules.size, DECODE_MARGIN * rules.size))
            return source.width * source.height
    except Exception:  # broken files make decoders raise anything; `prepare_picture` reads some of them all the same
        return ALONE
