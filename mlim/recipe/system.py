"""What every system says of itself in a recipe."""

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.config import Config
from mlim.recipe.base import Masking, Probability, ReadOut, share
from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import ImageSide, PatchSide
from mlim.recipe.task import Reading


class SystemBase(Config):
    """What every system says of itself."""

    offers: ClassVar[frozenset[Reading]]  # what pre-training tasks may ask of it
    maskings: ClassVar[tuple[Masking, ...]] = ()  # what may be hidden from it
    read_outs: ClassVar[tuple[ReadOut, ...]] = ("separate",)  # ways to compare two items

    @property
    def also_saw(self) -> str | None:
        """What weights that it starts from have seen beside the catalog, as labels of variants have to name it."""
        return None

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """What about its shape does not fit the pictures, a clause each."""
        return ()


class BlocksSystem(SystemBase):
    """A system whose transformers all have blocks of one width."""

    kind: str  # each has its own
    width: PositiveInt = Field(default=128, description="numbers in a vector")
    heads: PositiveInt = Field(default=4, description="of the attention, in each block")
    dropout: Probability = share(0.1, "dropout of all blocks")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class SidedSystem(BlocksSystem):
    """One of them with an image side, whose vectors its blocks read."""

    image: ImageSide = PatchSide()

    @property
    def also_saw(self) -> str | None:
        """What the weights of its image side have seen."""
        return self.image.also_saw

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures."""
        return self.image.problems(image)
