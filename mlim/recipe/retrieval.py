"""Fine-tuning to find the picture of a text and the text of a picture."""

from collections.abc import Collection
from typing import Final, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from mlim.recipe.system import SystemBase
from mlim.recipe.task import Reading
from mlim.recipe.tuning import OtherTuningConfig

By = Literal["itc", "itm"]
NEEDS: Final[dict[By, Reading]] = {"itc": "vectors", "itm": "agreement"}


class RetrievalConfig(OtherTuningConfig):
    """Retrieval between texts and pictures; its loss looks at a whole batch."""

    by: By | None = Field(
        default=None,
        description="what is compared: itc, inner products of two vectors; itm, the logit of a pass over text and "
        "picture; null: itc where a system offers vectors, else itm",
    )
    negatives: PositiveInt = Field(
        default=3, description="other items of the batch that each text and each picture is told from; by itm only"
    )
    gallery: PositiveInt | None = Field(
        default=256,
        description="items of a split that are searched, the same for all variants; null: all; itm passes over every "
        "text with every picture",
    )
    validation_gallery: PositiveInt = Field(
        default=64, description="items of the validation split that choose the best step"
    )

    can_be_zero_shot = True

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.accumulate > 1:
            raise ValueError(
                f"the loss looks at a whole batch, which accumulate {self.accumulate} would cut; set it to 1"
            )
        if self.negatives >= self.batch_size:
            raise ValueError(f"negatives {self.negatives} must be fewer than the items of a batch, {self.batch_size}")
        return self

    def problem(self, system: SystemBase) -> str:
        """A system has to offer vectors or agreement, or what `by` asks for."""
        if self.way(system.offers) is not None:
            return ""
        return f"needs {' or '.join(NEEDS.values()) if self.by is None else NEEDS[self.by]}"

    def needs_learned(self, offers: Collection[Reading]) -> str | None:
        """The task of pre-training that compares as the system is compared here."""
        return self.way(offers)

    def way(self, offers: Collection[Reading]) -> By | None:
        """What a system is compared by that `offers` these readings; None where it offers nothing that fits."""
        ways: tuple[By, ...] = ("itc", "itm") if self.by is None else (self.by,)
        return next((way for way in ways if NEEDS[way] in offers), None)
