"""What every image side is."""

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from mlim.models.weights import NamedTensors


class PictureSide(nn.Module, ABC):
    """Pictures (B, 3, S, S) in [0, 1] to vectors (B, C, H), row by row.

    `projection` is its last layer, to the width of the blocks: its random weights are scaled down, so that pictures
    start with the size of word vectors.
    """

    projection: nn.Conv2d

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """Numbers of a cell before the projection."""

    @abstractmethod
    def grid(self, pixels: Tensor) -> Tensor:
        """What the projection reads of the pictures, cell by cell: (B, feature_size, g, g)."""

    def project(self, features: Tensor) -> Tensor:
        """The projection (..., H) of what it reads of cells, or of means over them, (..., feature_size)."""
        return functional.linear(features, self.projection.weight.flatten(1), self.projection.bias)

    def start(self) -> NamedTensors:
        """Weights of others that it starts from, by name; `InputError` where they cannot be found or read."""
        return iter(())


class GridReader(PictureSide):
    """A convolutional network, and a projection of each cell of the grid (B, channels, g, g) that it ends with."""

    def __init__(self, network: nn.Module, channels: int, width: int, read_size: int | None = None) -> None:
        """`read_size`: pixels along a side to which pictures are made smaller; None: they are read as they are."""
        super().__init__()
        self.network, self._read_size = network, read_size
        self.projection = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors of the cells."""
        vectors: Tensor = self.projection(self.grid(pixels)).flatten(2).transpose(1, 2)
        return vectors

    @property
    def feature_size(self) -> int:
        """Channels of the grid."""
        return self.projection.in_channels

    def grid(self, pixels: Tensor) -> Tensor:
        """The grid that the network ends with."""
        if self._read_size is not None:
            size = (self._read_size, self._read_size)
            pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
        return cast(Tensor, self.network(pixels))
