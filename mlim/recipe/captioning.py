"""Fine-tuning to write the captions of pictures."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from mlim.recipe.base import Probability, share
from mlim.recipe.system import SystemBase
from mlim.recipe.tuning import OtherTuningConfig


class CaptioningConfig(OtherTuningConfig):
    """Captions, as E2E-VLP is fine-tuned: labels are smoothed, texts found by beam search."""

    smoothing: Probability = share(0.1, "of the labels: the share of the target that all tokens have alike")
    beam: PositiveInt = Field(default=4, description="texts that are followed at a time; 1: greedy search")
    length_penalty: NonNegativeFloat = Field(
        default=0.9, description="power of (5 + tokens) / 6 that divides the log-likelihood of a text"
    )
    images: PositiveInt | None = Field(
        default=500, description="images of a split that are judged, the same for all variants; null: all"
    )
    validation_images: PositiveInt = Field(
        default=64, description="images of the validation split that choose the best step, by greedy search"
    )

    can_be_zero_shot = True
    head_is_of = "caption"
    table = "captions"

    def problem(self, system: SystemBase) -> str:
        """A system has to write."""
        return "" if "writing" in system.offers else "needs writing"
