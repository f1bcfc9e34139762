"""What every pre-training task says of itself in a recipe."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from mlim.config import Config

Reading = Literal["tokens", "pictures", "agreement", "vectors"]
"""What a system may offer: to predict hidden tokens, to reconstruct its picture, to match text and picture."""


class TaskConfig(Config):
    """What every pre-training task has."""

    weight: NonNegativeFloat | None = Field(
        default=None, description="of its loss in the total; null: that of `pretrain.weights`, else 1"
    )
    title: ClassVar[str]
    needs: ClassVar[Reading]
    hides: ClassVar[bool] = True  # is about what masking hides
    exchanges: ClassVar[bool] = False  # wants pictures of other items
    needs_whole_batch: ClassVar[bool] = False  # its loss changes when a batch is cut
