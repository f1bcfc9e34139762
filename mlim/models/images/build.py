"""From the shape of an image side to the side itself: one `match`, and what a picture costs."""

import functools
from typing import assert_never

import torch
from torch.utils.flop_counter import FlopCounterMode

from mlim.models.config import RGB
from mlim.models.images.cnn import CnnReader
from mlim.models.images.lite import LiteReader
from mlim.models.images.patch import Patches
from mlim.models.images.side import PictureSide
from mlim.models.weights import on_meta
from mlim.recipe.image_sides import CnnSide, ImageSide, LiteSide, PatchSide


def build_image_side(config: ImageSide, width: int) -> PictureSide:
    """The image side, with vectors of `width` numbers; its weights come later."""
    match config:
        case PatchSide():
            return Patches(config, width)
        case CnnSide():
            return CnnReader(config, width)
        case LiteSide():
            return LiteReader(config, width)
        case _:
            assert_never(config)


@functools.cache
def picture_operations(config: ImageSide, width: int, size: int) -> float:
    """Operations of a forward pass over one picture of `size` x `size` pixels, products of matrices alone."""
    side = on_meta(lambda: build_image_side(config, width))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        side(torch.empty(1, RGB, size, size, device="meta"))
    return float(counter.get_total_flops())
