"""The shape of a system that reads text and picture with one encoder."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.recipe.base import Norm, Probability, share
from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import ImageSide, PatchSide
from mlim.recipe.system import SystemBase


class JointSystem(SystemBase):
    """One encoder over text tokens and the vectors of a picture: ViLT with patches, Pixel-BERT with a CNN."""

    kind: Literal["joint"] = "joint"
    image: ImageSide = PatchSide()
    depth: PositiveInt = Field(default=2, description="blocks of the encoder")
    width: PositiveInt = Field(default=128, description="numbers in a vector")
    heads: PositiveInt = Field(default=4, description="of the attention, in each block")
    dropout: Probability = share(0.1, "dropout of the encoder")
    norm: Norm = Field(
        default="post", description="layer norms after each residual, as in BERT, or before what is added, as in ViLT"
    )
    maskings = ("text",)
    offers = frozenset({"tokens", "agreement"})

    @property
    def also_saw(self) -> str | None:
        """What the weights of its image side have seen."""
        return self.image.also_saw

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures."""
        return self.image.problems(image)
