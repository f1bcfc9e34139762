"""Questions in pre-training, in a recipe."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from mlim.recipe.base import Probability, is_none, share
from mlim.recipe.task import TaskConfig


class AnswerTask(TaskConfig):
    """What is the answer to a question about the picture? The question stands in the place of the item's text."""

    task: Literal["answer"] = "answer"
    questions: Probability = share(0.5, "probability that an item with questions shows one of them instead of its text")
    answers: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="answers that can be given, the most frequent ones of the train split; null: all",
    )
    from_step: NonNegativeInt = Field(
        default=0, description="answers of earlier steps count nothing; questions are shown from the first step on"
    )
    title = "Answer loss per question"
    needs = "answers"
    hides = False
    reads_questions = True

    @property
    def also_saw(self) -> tuple[str, ...]:
        """Questions."""
        return ("questions",)
