"""The shape of a system that writes the text of a picture."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, PositiveInt

from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import GridSide
from mlim.recipe.system import SidedSystem


class WriterSystem(SidedSystem):
    """An image encoder, whose vectors come before the text in causal blocks (GIT)."""

    kind: Literal["writer"] = "writer"
    image_depth: PositiveInt = Field(default=2, description="blocks of the image encoder")
    depth: PositiveInt = Field(default=2, description="blocks over picture and text")
    offers = frozenset({"writing"})

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures, and to show them whole."""
        sampled = isinstance(self.image, GridSide) and self.image.sample is not None
        whole = ["image.sample: a writer reads whole pictures; leave it out"] if sampled else []
        return [*super().problems(image), *whole]
