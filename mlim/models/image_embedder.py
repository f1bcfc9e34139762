"""Pictures to vectors: a shallow CNN whose filters never overlap (paper sections 3.1, 4.1)."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlim.errors import InputError
from mlim.models.config import RGB, MlimConfig

GRAY = 0.5


class ImageEmbedder(nn.Module):
    """(B, 3, S, S) in [0, 1] -> (B, grid * grid, hidden), patches row by row.

    Kernel = stride in every layer and nothing mixes across space (no padding, no spatial normalisation), so a vector
    knows the pixels of its own patch and no other: hiding the vector hides everything about the region. (`overlap`
    gives that up, to measure what it is worth.)
    """

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.size = config.image_size
        channels = (RGB, *config.embedder.channels, config.hidden_size)
        self.layers = nn.ModuleList(
            _convolution(entering, leaving, stride, config.embedder.overlap)
            for entering, leaving, stride in zip(channels[:-1], channels[1:], config.embedder_strides, strict=True)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """The patch vectors; `InputError` for a picture of another size than the network was built for."""
        if pixels.shape[-2:] != (self.size, self.size):
            given = " x ".join(map(str, pixels.shape[-2:]))
            raise InputError(f"the model reads {self.size} x {self.size} pictures, got {given}; resize them first")
        centred = 2 * pixels - 1  # gray is 0, white and black weigh alike
        centred = centred.contiguous(memory_format=torch.channels_last)  # as pictures lie in files, too
        grid: Tensor = self.layers[0](centred)
        for layer in self.layers[1:]:
            grid = layer(nn.functional.gelu(grid))
        return torch.flatten(grid, start_dim=2).transpose(1, 2)

    @property
    def projection(self) -> nn.Conv2d:
        """The last layer, to the transformer's hidden size."""
        return cast(nn.Conv2d, self.layers[-1])


def grayed(pixels: Tensor, masked: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) with the patches in `masked` (B, grid * grid) bool gray."""
    grid = math.isqrt(masked.shape[1])
    places = masked.view(-1, 1, grid, grid).to(pixels.dtype)
    return torch.where(functional.interpolate(places, size=pixels.shape[-2:]) > 0, GRAY, pixels)


def _convolution(entering: int, leaving: int, stride: int, overlap: int) -> nn.Conv2d:
    reach = overlap if stride > 1 else 0
    return nn.Conv2d(entering, leaving, kernel_size=stride + 2 * reach, stride=stride, padding=reach)
