"""Image-text contrast in a recipe."""

from typing import Literal

from mlim.recipe.task import TaskConfig


class ItcTask(TaskConfig):
    """Which of the pictures of a batch belongs to a text, and which of its texts to a picture?"""

    task: Literal["itc"] = "itc"
    title = "ITC: image-text contrast per item"
    needs = "vectors"
    hides = False
    needs_whole_batch = True
