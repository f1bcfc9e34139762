"""Norms of convolutional networks: of single pictures while they are learned, fixed ones beside given weights."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.models.weights import NamedTensors

GROUPS = 8  # of channels, at most
NormMaker = Callable[[int], nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch norm with the statistics and factors of another training; none of them ever changes."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "mean", "variance"):
            self.register_buffer(name, torch.empty(channels))

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """What every cell is multiplied by, and what is then added: (channels,) both."""
        scale = self.weight / torch.sqrt(self.variance + self.eps)
        return scale, self.bias - self.mean * scale

    def forward(self, grid: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        return functional.batch_norm(grid, self.mean, self.variance, self.weight, self.bias, eps=self.eps)

    def neutral(self) -> NamedTensors:
        """What changes nothing, until given values come."""
        shape = self.weight.shape
        yield from (("weight", torch.ones(shape)), ("bias", torch.zeros(shape)))
        yield from (("mean", torch.zeros(shape)), ("variance", torch.ones(shape)))


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm (Wu and He 2018): it does not depend on the other pictures of a batch."""
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
