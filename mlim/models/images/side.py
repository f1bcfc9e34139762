"""What every image side is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

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

    def start(self) -> NamedTensors:
        """Weights of others that it starts from, by name; `InputError` where they cannot be found or read."""
        return iter(())


class GridReader(PictureSide):
    """A convolutional network, and a projection of each cell of the grid (B, channels, g, g) that it ends with."""

    def __init__(self, network: nn.Module, channels: int, width: int) -> None:
        super().__init__()
        self.network = network
        self.projection = nn.Conv2d(channels, width, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors of the cells."""
        vectors: Tensor = self.projection(self.network(pixels)).flatten(2).transpose(1, 2)
        return vectors
