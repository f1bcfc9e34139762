"""Regions of a picture: where they are, and what an image side makes of each."""

import torch
from torch import Tensor, nn

from mlim.models.boxes import CORNERS
from mlim.models.images.build import build_image_side
from mlim.models.images.side import PictureSide
from mlim.models.transformer import EncoderShape
from mlim.recipe.image_sides import RegionSide

POINTS = 4  # along each side of a region, where the grid is looked at


def grid_boxes(side: int, device: torch.device | None = None) -> Tensor:
    """Corners (side * side + 1, 4) in 0..1 of equal squares, row by row, and of the whole picture."""
    low = torch.arange(side, device=device) / side
    rows, columns = (each.flatten() for each in torch.meshgrid(low, low, indexing="ij"))
    squares = torch.stack([columns, rows, columns + 1 / side, rows + 1 / side], dim=1)
    return torch.cat([squares, squares.new_tensor([[0.0, 0.0, 1.0, 1.0]])])


def pooling(boxes: Tensor, grid: int) -> Tensor:
    """How much of each cell of a grid is in each region: (R, grid * grid) for corners (R, 4), rows add up to 1.

    The mean of `POINTS` x `POINTS` bilinear samples inside the region, as a matrix: the gradient of `grid_sample`
    differs from run to run on a GPU.
    """
    columns, rows = (_along(boxes[:, axis], boxes[:, axis + 2], grid) for axis in (0, 1))
    return (rows[:, :, None] * columns[:, None, :]).flatten(1)


def pooled(grid: Tensor, boxes: Tensor) -> Tensor:
    """Means (B, R, F) of grids (B, F, g, g) in the regions with corners (R, 4)."""
    weights = pooling(boxes, grid.shape[-1]).to(grid.dtype)
    return (weights @ grid.flatten(2).transpose(1, 2)).contiguous()


def _along(low: Tensor, high: Tensor, grid: int) -> Tensor:
    """How much of each row or column (R, grid) lies between two places (R,) in 0..1."""
    inside = (torch.arange(POINTS, device=low.device) + 0.5) / POINTS
    points = low[:, None] + (high - low)[:, None] * inside
    places = (points * grid - 0.5).clamp(0, grid - 1)  # of cells' centres; beyond the outermost ones they stay alike
    cells = torch.arange(grid, device=low.device)
    return (1 - (places[..., None] - cells).abs()).clamp(min=0).mean(dim=1)


class StoredFeatures(PictureSide):
    """A projection of features that are stored."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(size, width, kernel_size=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Nothing: there are no pictures."""
        raise NotImplementedError("stored features are read, not made")

    grid = forward

    @property
    def feature_size(self) -> int:
        """Numbers of a feature."""
        return self.projection.in_channels


class RegionReader(nn.Module):
    """Vectors of regions: (LayerNorm(W f + b) + LayerNorm(W' p + b')) / 2, f their feature, p their corners.

    W is the projection of the image side, which is linear: the mean of projected cells is the projected mean.
    """

    def __init__(self, config: RegionSide, shape: EncoderShape, stored: int | None = None) -> None:
        """`stored`: numbers of features that are stored; None: the image side makes them of pictures."""
        super().__init__()
        width = shape.hidden_size
        own = build_image_side(config.features, width) if stored is None else StoredFeatures(stored, width)
        self.side: PictureSide = own
        self.feature_norm = nn.LayerNorm(width, eps=shape.norm_eps)
        self.box = nn.Linear(CORNERS, width)
        self.box_norm = nn.LayerNorm(width, eps=shape.norm_eps)

    def features(self, pixels: Tensor, boxes: Tensor) -> Tensor:
        """Features (B, R, F) of the regions with corners `boxes` (R, 4)."""
        return pooled(self.side.grid(pixels), boxes)

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Vectors (B, R, H) of regions with these features (B, R, F) and corners (R, 4) or (B, R, 4)."""
        seen: Tensor = self.feature_norm(self.side.project(features)) + self.box_norm(self.box(boxes))
        return seen / 2
