"""Pre-training: masking, losses and their budget."""

import operator
from typing import Any, Final, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from mlim.config import Config, PlainName
from mlim.recipe.base import LossName, Masking, Probability, is_none, share
from mlim.recipe.detect import DetectTask
from mlim.recipe.tasks import ItmTask, MlmTask, PretrainTask, ReconTask
from mlim.recipe.training import CheckpointConfig, OptimConfig

TEXT_RATE: Final = 0.15  # BERT's
REGION_RATE: Final = 0.15  # LXMERT's

BY_LOSS: Final[dict[LossName, PretrainTask]] = {"mlm": MlmTask(), "recon": ReconTask(), "itm": ItmTask()}


class MamMode(Config):
    """Masking probabilities of one mode of MAM."""

    text: Probability = Field(ge=0, le=1, description="probability that a text token is masked")
    image: Probability = Field(ge=0, le=1, description="probability that an image patch is masked")


class MamConfig(Config):
    """Modality-aware masking (paper section 3.1); one mode is drawn uniformly per optimiser step."""

    heavy_image: MamMode = MamMode(text=0.0, image=0.8)
    heavy_text: MamMode = MamMode(text=0.8, image=0.0)
    light: MamMode = MamMode(text=0.2, image=0.2)


class MaskingConfig(Config):
    """The masking policies; a pre-training names the one it uses."""

    mam: MamConfig = MamConfig()
    naive: Probability = share(0.2, "fixed probability for text and image (Table 2)")
    text: Probability = Field(
        default=TEXT_RATE,
        ge=0.0,
        le=1.0,
        exclude_if=lambda rate: rate == TEXT_RATE,
        description="fixed probability for text, where pictures are shown whole",
    )
    regions: Probability = Field(
        default=REGION_RATE,
        ge=0.0,
        le=1.0,
        exclude_if=lambda rate: rate == REGION_RATE,
        description="probability that a region is hidden, where a task is about hidden regions",
    )


class LossWeights(Config):
    """Weights of the losses, each averaged the way the paper words it; not published."""

    mlm: NonNegativeFloat = Field(default=1.0, description="of masked language modelling")
    recon: NonNegativeFloat = Field(default=1.0, description="of the reconstruction of the picture")
    itm: NonNegativeFloat = Field(default=1.0, description="of image-text matching")


class BalanceConfig(Config):
    """Factors on top of the weights that make the losses pull equally on the transformer (mlim.training.balance)."""

    every: PositiveInt = Field(default=20, description="optimiser steps between measurements of the gradient norms")
    smoothing: float = Field(
        default=0.8, ge=0, lt=1, description="share of the old norm in the new one: exponential smoothing"
    )
    most: float = Field(default=100.0, ge=1, description="largest factor of a loss")


class PretrainConfig(Config):
    """Pre-training; the same budget for every pre-training that is compared."""

    steps: PositiveInt = Field(default=3200, description="optimiser steps")
    batch_size: PositiveInt = Field(default=16, description="items per micro-batch, on all devices together")
    accumulate: PositiveInt = Field(
        default=1, description="micro-batches per optimiser step (MAM draws one mode for each step)"
    )
    optim: OptimConfig = OptimConfig()
    masking: MaskingConfig = MaskingConfig()
    weights: LossWeights = LossWeights()
    balance: BalanceConfig | None = Field(
        default=None,
        description="factors on top of `weights` that balance the losses' gradients; null: the paper's weighted sum",
    )
    itm_swap: Probability = share(0.5, "probability that ITM swaps the picture for another item's")
    validate_every: PositiveInt = Field(default=800, description="optimiser steps between validations")
    validation_items: PositiveInt = Field(default=256, description="items that a validation measures the losses on")
    max_skipped_steps: NonNegativeInt = Field(
        default=10, description="steps whose loss or gradient is not finite are left out; more of them end the training"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()

    @property
    def ema_decay(self) -> Probability:
        """Pre-training keeps no moving average of the weights."""
        return 0.0


class Pretraining(Config):
    """One way to pre-train: which system, on which tasks, under which masking.

    `losses` and `masking` alone are the axes of Table 2, and mean MLIM.
    """

    losses: tuple[LossName, ...] = Field(default=(), description="MLIM's tasks by their names alone")
    masking: Masking | None = Field(
        default=None,
        description="mam and naive hide parts of text and picture, text those of texts alone; null: nothing",
    )
    system: PlainName | None = Field(default=None, exclude_if=is_none, description="name in `systems`; null: MLIM")
    tasks: tuple[PretrainTask, ...] = Field(
        default=(), exclude_if=operator.not_, description="further tasks, or the same with a weight"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        names = self.task_names
        if not names:
            raise ValueError("names no task; give `losses` (mlm, recon, itm) or `tasks`")
        if len(set(names)) < len(names):
            raise ValueError(f"names a task twice ({', '.join(names)}); name each once, in `losses` or in `tasks`")
        hiding = [task.task for task in self.all_tasks if task.hides]
        if hiding and self.masking is None:
            raise ValueError(f"{', '.join(hiding)} is about what is hidden; set `masking` to mam, naive or text")
        if self.masking is not None and not hiding:
            raise ValueError(f"no task is about what `masking` hides ({', '.join(names)}); leave `masking` out")
        return self

    @property
    def all_tasks(self) -> tuple[PretrainTask, ...]:
        """Every task, those of `losses` first."""
        return (*(BY_LOSS[name] for name in self.losses), *self.tasks)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(task.task for task in self.all_tasks)

    @property
    def loss_names(self) -> tuple[str, ...]:
        """The names of all losses; those of most tasks have the task's name."""
        return tuple(name for task in self.all_tasks for name in task.losses)

    @property
    def detects_alone(self) -> bool:
        """Whether a detector is trained that reads pictures without texts."""
        return any(isinstance(task, DetectTask) and not task.text for task in self.all_tasks)

    def weights(self, section: LossWeights) -> dict[str, float]:
        """The weight of each loss: its task's own, else that of the section, else 1; times that inside the task."""
        known, weights = section.model_dump(), dict[str, float]()
        for task in self.all_tasks:
            own = known.get(task.task, 1.0) if task.weight is None else task.weight
            weights |= {name: own * factor for name, factor in task.losses.items()}
        return weights

    def described(self) -> str:
        """In a few words, for people: `mlm, recon under mam`."""
        tasks = ", ".join(self.task_names)
        return tasks if self.masking is None else f"{tasks} under {self.masking}"

    def deciding(self) -> dict[str, Any]:
        """All that decides a result beside the system, whose shape does and not its name."""
        return self.model_dump(mode="json", exclude={"system"})
