"""The shape of a dual encoder."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.recipe.base import Probability, share
from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import PatchSide
from mlim.recipe.system import SystemBase

LEAST_TEMPERATURE = 0.01


class PatchTower(PatchSide):
    """Square patches of a picture, projected, then an encoder."""

    depth: PositiveInt = Field(default=2, description="blocks of the encoder")


class DualSystem(SystemBase):
    """A text encoder and an image encoder whose unit vectors are compared (CLIP)."""

    kind: Literal["dual"] = "dual"
    image: PatchTower = PatchTower()
    text_depth: PositiveInt = Field(default=2, description="blocks of the text encoder")
    width: PositiveInt = Field(default=128, description="numbers in a vector of either encoder")
    heads: PositiveInt = Field(default=4, description="of the attention, in each block")
    vector_size: PositiveInt = Field(default=128, description="numbers in the unit vectors that are compared")
    dropout: Probability = share(0.1, "dropout of both encoders")
    temperature: float = Field(
        default=0.07,
        gt=LEAST_TEMPERATURE,
        description="by which inner products are divided, at the start; it is learned",
    )
    offers = frozenset({"vectors"})

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Patches have to fill the picture."""
        return self.image.problems(image)
