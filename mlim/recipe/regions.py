"""Tasks about hidden regions of a picture, in a recipe."""

from typing import Literal

from mlim.recipe.task import TaskConfig


class RegionFeatureTask(TaskConfig):
    """What was the feature of a hidden region?"""

    task: Literal["region-feature"] = "region-feature"
    title = "Region feature: squared error per hidden region"
    needs = "regions"
    hides = False
    hides_regions = True


class RegionLabelTask(TaskConfig):
    """What is there to see in a hidden region?"""

    task: Literal["region-label"] = "region-label"
    title = "Region label: loss per hidden region with an object"
    needs = "regions"
    hides = False
    hides_regions = True
    reads_objects = True
    labels_regions = True

    @property
    def also_saw(self) -> tuple[str, ...]:
        """Labels of boxes."""
        return ("boxes",)


class RegionAttributeTask(TaskConfig):
    """Which attributes has what is to be seen in a hidden region? Stored regions tell them."""

    task: Literal["region-attribute"] = "region-attribute"
    title = "Region attribute: loss per hidden region"
    needs = "regions"
    hides = False
    hides_regions = True
    reads_objects = True
    labels_regions = True

    @property
    def also_saw(self) -> tuple[str, ...]:
        """Attributes of boxes."""
        return ("boxes", "attributes")
