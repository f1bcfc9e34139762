"""Fine-tuning to find the objects in pictures."""

from pydantic import Field, NonNegativeFloat, PositiveInt

from mlim.recipe.base import is_none
from mlim.recipe.detect import DetectTask
from mlim.recipe.system import SystemBase
from mlim.recipe.tuning import OtherTuningConfig


class DetectingConfig(OtherTuningConfig):
    """Objects as a set (DETR), beside the item's text, another item's, or none: a variant says which."""

    attributes: bool = Field(default=True, description="attributes are predicted, too")
    l1_weight: NonNegativeFloat = Field(
        default=5.0, description="of the L1 distance of a box, beside that of its class"
    )
    giou_weight: NonNegativeFloat = Field(default=2.0, description="of the overlap of a box")
    attribute_weight: NonNegativeFloat = Field(default=1.0, description="of the attributes")
    images: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="annotated images of a split that are judged, the same for all variants; null: all",
    )
    validation_images: PositiveInt = Field(
        default=200, description="annotated images of the validation split that choose the best step"
    )

    modalities = frozenset({"both", "image"})
    texts_can_be_others = True
    can_be_zero_shot = True
    head_is_of = "detect"
    table = "regions"

    def problem(self, system: SystemBase) -> str:
        """A system has to find objects."""
        return "" if "objects" in system.offers else "needs objects"

    def task(self, text: bool) -> DetectTask:
        """The pre-training task with the same losses; `text`: the text is read, too."""
        return DetectTask(
            text=text,
            attributes=self.attributes,
            l1_weight=self.l1_weight,
            giou_weight=self.giou_weight,
            attribute_weight=self.attribute_weight,
        )
