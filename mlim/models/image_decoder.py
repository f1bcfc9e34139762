"""Vectors back to pictures: cascaded deconvolutions and a sigmoid (paper sections 3.1, 4.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlim.models.config import MlimConfig
from mlim.models.image_embedder import RGB

CONTEXT_KERNEL = 3


class ImageDecoder(nn.Module):
    """(B, grid * grid, hidden) -> (B, 3, S, S) in [0, 1].

    Two kinds of deconvolution: kernel = stride enlarges the picture, kernel 3 with stride 1 lets neighbours blend, so
    that no seams stay between cells. Every enlargement comes after the blending at its coarse resolution: the wide
    layers work on few pixels.
    """

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.grid = config.grid
        channels = (config.hidden_size, *config.decoder.channels, RGB)
        strides = layer_strides(config.decoder.strides, config.decoder.layers)
        self.layers = nn.ModuleList(
            _deconvolution(entering, leaving, stride)
            for entering, leaving, stride in zip(channels[:-1], channels[1:], strides, strict=True)
        )

    def forward(self, cells: Tensor) -> Tensor:
        """The reconstructed pictures from the transformer's outputs at the image cells."""
        batch, _, hidden = cells.shape
        picture = cells.transpose(1, 2).reshape(batch, hidden, self.grid, self.grid)
        picture = self.layers[0](picture)
        for layer in self.layers[1:]:
            picture = layer(nn.functional.gelu(picture))
        return torch.sigmoid(picture)


def layer_strides(strides: Sequence[int], layers: int) -> list[int]:
    """The stride of every layer: `strides` in order, and 1 for each of the remaining, blending layers.

    The blending layers are dealt to the enlargements from the last (finest) to the first, as the transformer has
    already blended the cells themselves; when there are more of them than enlargements, the dealing starts again.
    """
    blends = [0] * len(strides)
    for number in range(layers - len(strides)):
        blends[-1 - number % len(strides)] += 1
    return [stride for blend, factor in zip(blends, strides, strict=True) for stride in (*[1] * blend, factor)]


def _deconvolution(entering: int, leaving: int, stride: int) -> nn.ConvTranspose2d:
    if stride == 1:
        return nn.ConvTranspose2d(entering, leaving, kernel_size=CONTEXT_KERNEL, padding=CONTEXT_KERNEL // 2)
    return nn.ConvTranspose2d(entering, leaving, kernel_size=stride, stride=stride)
