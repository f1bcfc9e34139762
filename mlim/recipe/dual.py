"""The shape of a dual encoder."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import PatchSide
from mlim.recipe.system import BlocksSystem

LEAST_TEMPERATURE = 0.01


class PatchTower(PatchSide):
    """Square patches of a picture, projected, then an encoder."""

    depth: PositiveInt = Field(default=2, description="blocks of the encoder")


class DualSystem(BlocksSystem):
    """A text encoder and an image encoder whose unit vectors are compared (CLIP)."""

    kind: Literal["dual"] = "dual"
    image: PatchTower = PatchTower()
    text_depth: PositiveInt = Field(default=2, description="blocks of the text encoder")
    vector_size: PositiveInt = Field(default=128, description="numbers in the unit vectors that are compared")
    temperature: float = Field(
        default=0.07,
        gt=LEAST_TEMPERATURE,
        description="by which inner products are divided, at the start; it is learned",
    )
    offers = frozenset({"vectors"})

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Patches have to fill the picture."""
        return self.image.problems(image)
