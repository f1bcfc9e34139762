"""What an answer depends on: how much less likely it becomes when a part of the picture is gray.

Attention says where a block reads, and each system has other blocks; this says what counts, of any of them (occlusion,
Zeiler and Fergus 2014).
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

CELLS: Final = 4  # along a side of the picture
GRAY: Final = 0.5  # of pixels in 0..1


def with_gray_cells(pixels: Tensor) -> Tensor:
    """The picture (3, S, S) once for each of its cells, row by row, with that one gray: (CELLS ** 2, 3, S, S)."""
    side = pixels.shape[-1]
    ends = [round(place * side / CELLS) for place in range(CELLS + 1)]
    shown = pixels.repeat(CELLS**2, 1, 1, 1)
    for cell in range(CELLS**2):
        row, column = divmod(cell, CELLS)
        shown[cell, :, ends[row] : ends[row + 1], ends[column] : ends[column + 1]] = GRAY
    return shown


@torch.no_grad()
def dependence(chances_of: Callable[[Tensor], Tensor], pixels: Tensor) -> list[float]:
    """By how much the log-probability of an answer falls without each cell, row by row.

    `chances_of` gives it, (N,), for pictures (N, 3, S, S); `pixels` (1, 3, S, S) in 0..1 is the picture.
    """
    chances = chances_of(torch.cat([pixels, with_gray_cells(pixels[0])]))
    falls: list[float] = (chances[0] - chances[1:]).tolist()
    return falls
