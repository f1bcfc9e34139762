"""What every fine-tuning task has in a recipe: its budget, its optimiser, and when it is validated and saved."""

from collections.abc import Collection
from typing import ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from mlim.config import Config
from mlim.recipe.base import AnnotationTable, Modality, Probability, share
from mlim.recipe.system import SystemBase
from mlim.recipe.task import Reading
from mlim.recipe.training import CheckpointConfig, OptimConfig


class TuningConfig(Config):
    """A fine-tuning; the same budget for every variant that is compared."""

    steps: PositiveInt = Field(default=2000, description="optimiser steps")
    batch_size: PositiveInt = Field(default=16, description="examples per micro-batch, on all devices together")
    accumulate: PositiveInt = Field(default=1, description="micro-batches per optimiser step")
    optim: OptimConfig = OptimConfig()
    ema_decay: Probability = share(0.99, "of the moving average of the weights that is judged and kept; 0: the weights")
    validate_every: PositiveInt = Field(default=250, description="optimiser steps between validations")
    max_skipped_steps: NonNegativeInt = Field(
        default=10, description="steps whose loss or gradient is not finite are left out; more of them end the training"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def balance(self) -> None:
        """Fine-tuning has nothing to balance."""
        return None


class OtherTuningConfig(TuningConfig):
    """What every fine-tuning task besides matching says of itself; a section of `tasks`."""

    can_be_zero_shot: ClassVar[bool] = False  # needs nothing that only fine-tuning trains
    head_is_of: ClassVar[str | None] = None  # the pre-training task that trains what it needs then
    modalities: ClassVar[frozenset[Modality]] = frozenset({"both"})  # that variants may be shown
    texts_can_be_others: ClassVar[bool] = False  # variants may read another item's text
    can_be_written: ClassVar[bool] = False  # variants may write what others choose
    table: ClassVar[AnnotationTable | None] = None  # of the annotations, that it reads; captions where there are any

    def needs_learned(self, offers: Collection[Reading]) -> str | None:
        """The pre-training task that a system which `offers` these readings needs without fine-tuning; None: none."""
        return self.head_is_of

    def problem(self, system: SystemBase) -> str:
        """Why a system cannot be fine-tuned to it, a clause without its subject; empty where it can."""
        return ""
