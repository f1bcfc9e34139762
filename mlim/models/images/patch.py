"""Patches: each square of pixels is projected by itself (Dosovitskiy et al. 2021, ViT)."""

from torch import Tensor, nn
from torch.nn import functional

from mlim.models.config import RGB
from mlim.models.images.side import PictureSide
from mlim.recipe.image_sides import PatchSide


class PatchProjection(nn.Conv2d):
    """Pictures (B, 3, S, S) in [0, 1] -> (B, patches, width), row by row."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(RGB, width, kernel_size=size, stride=size)

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors of the patches."""
        return super().forward(2 * pixels - 1).flatten(2).transpose(1, 2)  # gray is 0


class Patches(PictureSide):
    """A projection of patches, as an image side."""

    def __init__(self, config: PatchSide, width: int) -> None:
        super().__init__()
        self.projection: nn.Conv2d = PatchProjection(config.size, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors of the patches."""
        vectors: Tensor = self.projection(pixels)
        return vectors

    @property
    def feature_size(self) -> int:
        """Numbers of a patch."""
        return self.projection.weight[0].numel()

    def grid(self, pixels: Tensor) -> Tensor:
        """The pixels of the patches, gray is 0."""
        size, (*_, side) = self.projection.kernel_size[0], pixels.shape
        patches = functional.unfold(2 * pixels - 1, size, stride=size)
        return patches.view(*patches.shape[:2], side // size, side // size)
