"""Where a network looks while it reads a word: the attention of the word to the parts of a picture, on a raster.

`dependence.py` says what an answer depends on; this says where one block reads, which need not be what counts.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mlim.data.tokenize import CONTINUATION, SPECIAL_TOKENS
from mlim.models.system import Attended

CELLS: Final = 8  # along a side of the picture


class AttendedWord(NamedTuple):
    """A word of a text, and its attention to each cell of the picture, row by row: the sum is that to all of it."""

    word: str
    cells: list[float]


def attended_words(pieces: Sequence[str], found: Attended) -> list[AttendedWord]:
    """The words of one text, whose tokens are `pieces`, with what `found` (of a batch of one) says of them.

    Of a word of several pieces the mean; [CLS] and [SEP] are no words.
    """
    weights = found.weights[0].float().cpu()
    corners = found.corners if found.corners.dim() == 2 else found.corners[0]
    cells = weights @ spread(corners.float().cpu())
    return [
        AttendedWord("".join(pieces[place].removeprefix(CONTINUATION) for place in word), _mean(cells[word]))
        for word in _words(pieces)
    ]


def _mean(cells: Tensor) -> list[float]:
    found: list[float] = cells.mean(dim=0).tolist()
    return found


def _words(pieces: Sequence[str]) -> Iterator[list[int]]:
    """The places of each word's pieces."""
    word: list[int] = []
    for place, piece in enumerate(pieces):
        if word and not piece.startswith(CONTINUATION):
            yield word
            word = []
        if piece not in SPECIAL_TOKENS:
            word.append(place)
    if word:
        yield word


def spread(corners: Tensor) -> Tensor:
    """What share of each region (R, CELLS ** 2) lies in each cell, for corners (R, 4) in 0..1; rows sum to 1.

    A region without an area has none.
    """
    columns, rows = (_overlap(corners[:, axis], corners[:, axis + 2]) for axis in (0, 1))
    shares = (rows[:, :, None] * columns[:, None, :]).flatten(1)
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)


def _overlap(low: Tensor, high: Tensor) -> Tensor:
    """The length (R, CELLS) that lies between two places (R,) in each row or column."""
    edges = torch.arange(CELLS + 1) / CELLS
    ends = torch.minimum(high[:, None], edges[1:])
    return (ends - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
