"""Pictures as tensors (paper section 4.1: pixel range [0, 1]; no augmentation)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.errors import InputError

BRIGHTEST = 255.0
PIXEL_AXES = 4  # of a batch of pictures


def to_pixels(pictures: Iterable[NDArray[Any]], count: int) -> torch.Tensor:
    """`count` pictures (S, S, 3) as one uint8 tensor (B, 3, S, S): a quarter of the bytes of floats to the device.

    Each picture is copied when it comes, while it is still in the processor's cache. Packed regions (N, F + 5) of
    float32 become (B, N, F + 5).
    """
    stacked: NDArray[Any] | None = None
    for place, picture in enumerate(pictures):
        if stacked is None:
            stacked = np.empty((count, *picture.shape), dtype=picture.dtype)
        stacked[place] = picture
        del picture  # its memory serves the next one
    if stacked is None:
        raise ValueError("a batch needs at least one picture")
    found = torch.from_numpy(stacked)
    return found.permute(0, 3, 1, 2) if found.dim() == PIXEL_AXES else found


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, S, S) of 0..255 as floats of [0, 1], where they lie; floats stay as they are."""
    if pixels.is_floating_point():
        return pixels
    return pixels.float().div_(BRIGHTEST)


def check_size(picture: NDArray[np.uint8], size: int) -> None:
    """Raise `InputError` when the stored pictures were made for another `image.size`."""
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        raise InputError(
            f"the items hold pictures of {width} x {height} pixels but image.size is {size}; run `mlim ingest` again "
            "with this recipe"
        )
