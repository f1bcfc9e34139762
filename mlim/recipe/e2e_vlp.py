"""The shape of a system that reads text and picture with one encoder, and finds objects and writes with one decoder."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import CnnSide, GridSide, ImageSide
from mlim.recipe.system import SidedSystem

SINES = 4  # a position is a sine and a cosine of the height, and of the width


class E2eVlpSystem(SidedSystem):
    """An encoder over text and picture, and a decoder with two heads: objects and captions (E2E-VLP)."""

    kind: Literal["e2e-vlp"] = "e2e-vlp"
    image: ImageSide = CnnSide()
    depth: PositiveInt = Field(default=2, description="blocks of the encoder")
    decoder_depth: PositiveInt = Field(default=2, description="blocks of the decoder")
    queries: PositiveInt = Field(default=12, description="objects that are found in a picture, at most")
    maskings = ("text",)
    offers = frozenset({"tokens", "agreement", "objects", "writing"})

    @model_validator(mode="after")
    def _placed(self) -> Self:
        if self.width % SINES:
            raise ValueError(f"width {self.width} is not a multiple of {SINES}, as positions in a picture need it")
        return self

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures, and to show them whole."""
        sampled = isinstance(self.image, GridSide) and self.image.sample is not None
        whole = ["image.sample leaves parts of a picture out, where objects may be; leave it out"] if sampled else []
        return [*super().problems(image), *whole]
