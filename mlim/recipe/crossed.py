"""The shape of a system that encodes text and regions of a picture apart, then lets them attend to each other."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from mlim.recipe.data import ImageConfig
from mlim.recipe.image_sides import RANDOM_START, RegionSide
from mlim.recipe.system import BlocksSystem


class CrossedSystem(BlocksSystem):
    """A text encoder, an encoder of regions, and layers that attend to each other both ways (LXMERT)."""

    kind: Literal["crossed"] = "crossed"
    image: RegionSide = RegionSide()
    text_depth: PositiveInt = Field(default=2, description="blocks of the text encoder")
    cross_depth: NonNegativeInt = Field(
        default=2, description="blocks in which text and regions attend to each other; 0: they never do"
    )
    text_start: str = Field(
        default=RANDOM_START,
        exclude_if=lambda start: start == RANDOM_START,
        description="random, or the BERT whose embeddings and first blocks the text side starts from: minilm (a Python "
        "package), or one of Hugging Face by name or folder; model.start has to be the same, whose tokens it reads",
    )
    maskings = ("text",)
    offers = frozenset({"tokens", "agreement", "regions", "answers"})

    @property
    def also_saw(self) -> str | None:
        """What the weights of its image side have seen."""
        return self.image.also_saw

    def problems(self, image: ImageConfig) -> Sequence[str]:
        """Its image side has to fit the pictures."""
        return self.image.problems(image)
