"""Captioning in a recipe."""

from typing import Literal

from mlim.recipe.base import Probability, share
from mlim.recipe.task import TaskConfig


class CaptionTask(TaskConfig):
    """The text of a picture, word after word: one of its captions, or where there are none the item's own text."""

    task: Literal["caption"] = "caption"
    smoothing: Probability = share(0.0, "of the labels: the share of the target that all tokens have alike")
    title = "Caption: loss per written token"
    needs = "writing"
    hides = False
    reads_captions = True
