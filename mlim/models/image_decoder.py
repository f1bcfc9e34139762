"""Vectors back to pictures: cascaded deconvolutions and a sigmoid (paper sections 3.1, 4.1)."""

import torch
from torch import Tensor, nn

from mlim.models.config import RGB, MlimConfig

CONTEXT_KERNEL = 3


class ImageDecoder(nn.Module):
    """(B, grid * grid, hidden) -> (B, 3, S, S) in [0, 1].

    Two kinds of deconvolution: kernel = stride enlarges the picture, kernel 3 with stride 1 lets neighbours blend, so
    that no seams stay between patches. Every enlargement comes after the blending at its coarse resolution: the wide
    layers work on few pixels.
    """

    def __init__(self, config: MlimConfig) -> None:
        super().__init__()
        self.grid = config.grid
        channels = (config.hidden_size, *config.decoder.channels, RGB)
        self.layers = nn.ModuleList(
            _deconvolution(entering, leaving, stride)
            for entering, leaving, stride in zip(channels[:-1], channels[1:], config.decoder_strides, strict=True)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """The reconstructed pictures from the transformer's outputs at the image patches."""
        picture = patches.reshape(len(patches), self.grid, self.grid, patches.shape[-1])
        picture = self.layers[0](picture.permute(0, 3, 1, 2))  # stays channels last in memory: the faster layout
        for layer in self.layers[1:]:
            picture = layer(nn.functional.gelu(picture))
        return torch.sigmoid(picture)


def _deconvolution(entering: int, leaving: int, stride: int) -> nn.ConvTranspose2d:
    if stride == 1:
        return nn.ConvTranspose2d(entering, leaving, kernel_size=CONTEXT_KERNEL, padding=CONTEXT_KERNEL // 2)
    return nn.ConvTranspose2d(entering, leaving, kernel_size=stride, stride=stride)
