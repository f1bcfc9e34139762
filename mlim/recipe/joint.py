"""The shape of a system that reads text and picture with one encoder."""

from typing import Literal

from pydantic import Field, PositiveInt

from mlim.recipe.base import Norm
from mlim.recipe.system import SidedSystem


class JointSystem(SidedSystem):
    """One encoder over text tokens and the vectors of a picture: ViLT with patches, Pixel-BERT with a CNN."""

    kind: Literal["joint"] = "joint"
    depth: PositiveInt = Field(default=2, description="blocks of the encoder")
    norm: Norm = Field(
        default="post", description="layer norms after each residual, as in BERT, or before what is added, as in ViLT"
    )
    maskings = ("text",)
    offers = frozenset({"tokens", "agreement", "writing"})
