"""Fine-tuning to answer questions about a picture, and to judge statements about two."""

import operator
from typing import Final

from pydantic import Field, NonNegativeFloat, PositiveInt

from mlim.recipe.base import Probability, is_none
from mlim.recipe.system import SystemBase
from mlim.recipe.tuning import OtherTuningConfig

SMOOTHING: Final = 0.1  # of written answers, and how many are followed at a time, as of captions
BEAM: Final = 4


class AskedTuningConfig(OtherTuningConfig):
    """What both tasks have: examples of the annotations, a text in the place of the item's own."""

    modalities = frozenset({"both", "text", "image"})

    def problem(self, system: SystemBase) -> str:
        """A system has to make vectors of items, as where two items are compared that are encoded each by itself."""
        return "" if "separate" in system.read_outs else "needs vectors of items"


class AnswerConfig(AskedTuningConfig):
    """Questions about a picture: one of the answers of the train split is chosen, or written (VQA, GQA).

    `smoothing`, `beam` and `length_penalty` are those of answers that are written (`by: text` of a variant).
    """

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
    smoothing: Probability = Field(
        default=SMOOTHING,
        ge=0.0,
        le=1.0,
        exclude_if=lambda value: value == SMOOTHING,
        description="of the labels of written answers: the share of the target that all tokens have alike",
    )
    beam: PositiveInt = Field(
        default=BEAM,
        exclude_if=lambda value: value == BEAM,
        description="answers that are followed at a time while one is written; 1: greedy search",
    )
    length_penalty: NonNegativeFloat = Field(
        default=0.0,
        exclude_if=operator.not_,
        description="power of (5 + tokens) / 6 that divides the log-likelihood of a written answer",
    )

    can_be_written = True
    table = "questions"


class StatementConfig(AskedTuningConfig):
    """Statements about two pictures, true or false (NLVR2)."""

    steps: PositiveInt = Field(default=5000, description="optimiser steps")
    batch_size: PositiveInt = Field(default=32, description="statements per micro-batch, on all devices together")
    validation_statements: PositiveInt = Field(
        default=500, description="statements of the validation split that choose the best step"
    )

    table = "statements"
