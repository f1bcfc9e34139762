"""Vectors of pictures without a network: the bits of their perceptual hashes, which the index of items holds."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlim.quality.near_duplicates import HASH_BITS, hash_numbers

PICTURE_ORIGIN: Final = "picture:perceptual-hash"


def picture_vectors(hashes: Sequence[str]) -> NDArray[np.float16]:
    """Unit vectors (n, 64) of hashes of 16 hexadecimal digits: their cosine is 1 - differing bits / 32."""
    numbers = hash_numbers(hashes)
    bits = (numbers[:, None] >> np.arange(HASH_BITS, dtype=np.uint64)) & np.uint64(1)
    return np.asarray((2 * bits.astype(np.int8) - 1) / np.sqrt(HASH_BITS), dtype=np.float16)
