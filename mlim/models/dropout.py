"""Dropout whose random numbers cost little on a CPU.

torch draws one number for each element there, in one thread: for a narrow transformer that takes as long as its matrix
products. Here one number of 64 bits serves four elements, which makes the rate a multiple of 2**-16.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

LANES, LANE_VALUES = 4, 2**16  # elements for each number of 64 bits, and the values that each of them meets
LOWEST_LANE, LOWEST = -(2**15), -(2**63)


class Dropout(nn.Module):
    """As `nn.Dropout`, from torch's global random state."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        """Some of the values 0, the others larger by as much; outside training the values as they are."""
        if self.draws_cheaply(values):
            return values * dropout_noise(values, self.rate)
        return functional.dropout(values, self.rate, self.training)

    def add(self, residual: Tensor, values: Tensor) -> Tensor:
        """residual + dropout(values), in one pass where possible."""
        if self.draws_cheaply(values):
            return torch.addcmul(residual, values, dropout_noise(values, self.rate))
        return residual + functional.dropout(values, self.rate, self.training)

    def draws_cheaply(self, values: Tensor) -> bool:
        """Whether it draws as this module does: in training on a CPU; compiled code has better numbers of its own."""
        there = self.training and values.device.type == "cpu" and not torch.compiler.is_compiling()
        return there and 0 < round(self.rate * LANE_VALUES) < LANE_VALUES


def dropout_noise(like: Tensor, rate: float) -> Tensor:
    """Factors of the shape and dtype of `like`: 0 at `rate` (to 2**-16) of the elements, the others 1 on average."""
    threshold = round(rate * LANE_VALUES)
    kept = _lanes(like.shape).float().ge_(LOWEST_LANE + threshold)  # floats hold every lane; no way over booleans
    return kept.mul_(LANE_VALUES / (LANE_VALUES - threshold)).to(like.dtype)


def _lanes(shape: Sequence[int]) -> Tensor:
    """Independent int16, all values alike likely."""
    count = math.prod(shape)
    numbers = torch.empty(-(-count // LANES), dtype=torch.int64).random_(LOWEST, None)
    return numbers.view(torch.int16)[:count].view(*shape)
