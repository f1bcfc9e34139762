"""Fine-tuning on pairs, and the variants of the model that a recipe compares."""

import operator
from typing import Final, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from mlim.config import Config, PlainName
from mlim.recipe.base import Answering, Modality, Probability, ReadOut, is_none, share
from mlim.recipe.tasks import FinetuneTask
from mlim.recipe.tuning import TuningConfig

BEYOND_MATCHING: Final = ("task", "zero_shot", "text_of", "by")
"""What a variant says of other tasks; not written where it is as in matching."""


class FinetuneConfig(TuningConfig):
    """Fine-tuning on pairs; the same budget for every variant that is compared."""

    batch_size: PositiveInt = Field(default=16, description="pairs per micro-batch, on all devices together")
    accumulate: PositiveInt = Field(
        default=1, description="micro-batches per optimiser step (MDO draws one mode for each step)"
    )
    read_out: ReadOut = Field(
        default="joint",
        description="what the logit of a pair is read from: cls, the output at [CLS] alone; joint, also differences "
        "and products of the means of each item's outputs; separate, those of two items encoded each by itself",
    )
    joint_blocks: PositiveInt | None = Field(
        default=None,
        exclude_if=is_none,
        description="how many blocks, the last ones, read both items of a pair; below them each item is read by "
        "itself, so that scoring computes it once; null: all, as the paper",
    )
    attribute_weight: NonNegativeFloat = Field(
        default=0.0,
        description="weight of a further loss: each item's outputs predict the values by which the catalog's rule "
        "decides (pairs.decided_by), of training items alone; its head is not kept; 0: off, as the paper",
    )
    max_pairs: int | None = Field(
        default=None,
        ge=2,
        description="learn from at most so many of the training pairs: whole families, the same ones for every seed, "
        "the fewer among the more; null: all",
    )
    head_dropout: Probability = share(0.1, "dropout in the matching head")
    mdo_text_only: Probability = share(0.15, "probability that MDO drops the pictures of an optimiser step")
    mdo_image_only: Probability = share(0.15, "probability that MDO drops the texts of an optimiser step")
    swap_items: bool = Field(default=True, description="show each training pair in a random order of its two items")

    @model_validator(mode="after")
    def _probabilities(self) -> Self:
        if self.mdo_text_only + self.mdo_image_only > 1:
            raise ValueError("mdo_text_only + mdo_image_only must be at most 1")
        return self


class Variant(Config):
    """One variant of the model, a row of the result tables: what it starts from and how it is fine-tuned."""

    label: str = Field(description="what tables and figures call it")
    pretraining: str | None = Field(description="name in `pretrainings`, or null: no pre-training")
    mdo: bool = Field(default=True, description="modality dropout while it is fine-tuned")
    modality: Modality = Field(default="both", description="what the model is trained on and judged by")
    task: FinetuneTask = Field(
        default="match", exclude_if=lambda task: task == "match", description="what it is fine-tuned to"
    )
    zero_shot: bool = Field(
        default=False,
        exclude_if=operator.not_,
        description="judge what pre-training left, without fine-tuning; where a task needs no head of its own",
    )
    text_of: Literal["own", "other"] = Field(
        default="own",
        exclude_if=lambda text_of: text_of == "own",
        description="whose text is read beside an image; other: another item's, to measure what the own one tells",
    )
    by: Answering = Field(
        default="classes",
        exclude_if=lambda by: by == "classes",
        description="how questions are answered: by one of the classes, or by a text that is written",
    )
    system: PlainName | None = Field(
        default=None,
        exclude_if=is_none,
        description="name in `systems`, of a variant without pre-training; null: MLIM, or the pre-training's",
    )
    read_out: ReadOut | None = Field(
        default=None,
        exclude_if=is_none,
        description="instead of finetune.read_out; null: that, or `separate` for a system that has no other",
    )
