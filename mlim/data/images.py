"""Pictures as tensors (paper section 4.1: pixel range [0, 1]; no augmentation)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlim.errors import InputError

BRIGHTEST = 255.0


def to_pixels(pictures: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """Pictures (S, S, 3) of 0..255 as one float tensor (B, 3, S, S) of [0, 1]."""
    stacked = torch.from_numpy(np.stack(pictures))
    return stacked.permute(0, 3, 1, 2).contiguous().float().div_(BRIGHTEST)


def check_size(picture: NDArray[np.uint8], size: int) -> None:
    """Raise `InputError` when the stored pictures were made for another `image.size`."""
    height, width = picture.shape[:2]
    if (height, width) != (size, size):
        raise InputError(
            f"the items hold pictures of {width} x {height} pixels but image.size is {size}; run `mlim ingest` again "
            "with this recipe"
        )
