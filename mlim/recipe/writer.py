"""The shape of a system that writes the text of a picture."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.recipe.base import Probability, share
from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import GridSide, ImageSide, PatchSide
from mlim.recipe.system import SystemBase


class WriterSystem(SystemBase):
    """An image encoder, whose vectors come before the text in causal blocks (GIT)."""

    kind: Literal["writer"] = "writer"
    image: ImageSide = PatchSide()
    image_depth: PositiveInt = Field(default=2, description="blocks of the image encoder")
    depth: PositiveInt = Field(default=2, description="blocks over picture and text")
    width: PositiveInt = Field(default=128, description="numbers in a vector")
    heads: PositiveInt = Field(default=4, description="of the attention, in each block")
    dropout: Probability = share(0.1, "dropout of all blocks")
    offers = frozenset({"writing"})

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures, and to show them whole."""
        sampled = isinstance(self.image, GridSide) and self.image.sample is not None
        whole = ["image.sample: a writer reads whole pictures; leave it out"] if sampled else []
        return [*self.image.problems(image), *whole]
