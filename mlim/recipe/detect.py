"""Detection in a recipe."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat

from mlim.recipe.task import TaskConfig


class DetectTask(TaskConfig):
    """Which objects are in the picture, where, and with which attributes?"""

    task: Literal["detect"] = "detect"
    text: bool = Field(default=True, description="the item's text is read, too; false: the picture alone")
    attributes: bool = Field(default=True, description="attributes are predicted, too")
    l1_weight: NonNegativeFloat = Field(
        default=5.0, description="of the L1 distance of a box, beside that of its class"
    )
    giou_weight: NonNegativeFloat = Field(default=2.0, description="of the overlap of a box")
    attribute_weight: NonNegativeFloat = Field(default=1.0, description="of the attributes")
    title = "Detection"
    needs = "objects"
    hides = False
    reads_objects = True

    @property
    def also_saw(self) -> tuple[str, ...]:
        """Boxes, and attributes where it predicts them."""
        return ("boxes", "attributes") if self.attributes else ("boxes",)

    @property
    def losses(self) -> Mapping[str, float]:
        """Class, L1 distance and overlap of boxes, and attributes."""
        boxes = {"detect-class": 1.0, "detect-l1": self.l1_weight, "detect-giou": self.giou_weight}
        return {**boxes, "detect-attribute": self.attribute_weight} if self.attributes else boxes

    @classmethod
    def titles(cls) -> Mapping[str, str]:
        """What its losses are called in figures."""
        return {
            "detect-class": "Detection: class loss per query",
            "detect-l1": "Detection: L1 distance per box",
            "detect-giou": "Detection: 1 - GIoU per box",
            "detect-attribute": "Detection: attribute loss per box",
        }
