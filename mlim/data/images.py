"""Pictures as tensors (paper section 4.1: pixel range [0, 1]; no augmentation)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.errors import InputError

BRIGHTEST = 255.0


def to_pixels(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures (S, S, 3) as one uint8 tensor (B, 3, S, S): a quarter of the bytes of floats on the way to the device."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def as_floats(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (B, 3, S, S) of 0..255 as floats of [0, 1], where they lie; floats stay as they are."""
    if pixels.is_floating_point():
        return pixels
    return pixels.contiguous().float().div_(BRIGHTEST)


def check_size(picture: NDArray[np.uint8], size: int) -> None:
    """Raise `InputError` when the stored pictures were made for another `image.size`."""
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        raise InputError(
            f"the items hold pictures of {width} x {height} pixels but image.size is {size}; run `mlim ingest` again "
            "with this recipe"
        )
