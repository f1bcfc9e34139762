"""Fine-tuning to answer questions about a picture, and to judge statements about two."""

from pydantic import Field, PositiveInt

from mlim.recipe.base import is_none
from mlim.recipe.system import SystemBase
from mlim.recipe.tuning import OtherTuningConfig


class AskedTuningConfig(OtherTuningConfig):
    """What both tasks have: examples of the annotations, a text in the place of the item's own."""

    modalities = frozenset({"both", "text", "image"})
    reads_annotations = True

    def problem(self, system: SystemBase) -> str:
        """A system has to make vectors of items, as where two items are compared that are encoded each by itself."""
        return "" if "separate" in system.read_outs else "needs vectors of items"


class AnswerConfig(AskedTuningConfig):
    """Questions about a picture: one of the answers of the train split is chosen (VQA, GQA)."""

    steps: PositiveInt = Field(default=5000, description="optimiser steps")
    batch_size: PositiveInt = Field(default=32, description="questions per micro-batch, on all devices together")
    answers: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="answers that can be given, the most frequent ones of the train split; null: all",
    )
    validation_questions: PositiveInt = Field(
        default=500, description="questions of the validation split that choose the best step"
    )


class StatementConfig(AskedTuningConfig):
    """Statements about two pictures, true or false (NLVR2)."""

    steps: PositiveInt = Field(default=5000, description="optimiser steps")
    batch_size: PositiveInt = Field(default=32, description="statements per micro-batch, on all devices together")
    validation_statements: PositiveInt = Field(
        default=500, description="statements of the validation split that choose the best step"
    )
