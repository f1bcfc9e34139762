"""What an answer depends on: how much less likely it becomes when a part of the picture is gray.

Attention says where a block reads, and each system has other blocks; this says what counts, of any of them (occlusion,
Zeiler and Fergus 2014).
"""

from typing import Final

import torch
from torch import Tensor

from mlim.data.asked import AskedBatch
from mlim.models.item_classifier import ItemClassifier

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
def dependence(model: ItemClassifier, batch: AskedBatch, answer: int) -> list[float]:
    """By how much the log-probability of `answer` falls without each cell, row by row.

    `batch` is one question about one picture with float pixels, on the model's device.
    """
    pixels = torch.cat([batch.pixels, with_gray_cells(batch.pixels[0])])
    shown = batch._replace(
        input_ids=batch.input_ids.expand(len(pixels), -1),
        text_attention=batch.text_attention.expand(len(pixels), -1),
        pixels=pixels,
    )
    chances = model(shown, "both").float().log_softmax(dim=1)[:, answer]
    falls: list[float] = (chances[0] - chances[1:]).tolist()
    return falls
