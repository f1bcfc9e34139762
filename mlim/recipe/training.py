"""What every training has: its optimiser, its checkpoints, the devices that compute it."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mlim.config import Config

Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of a moving average a step keeps."""


class RatesConfig(Config):
    """Factors of the learning rate by part of the network; all 1: the paper's one rate."""

    transformer: NonNegativeFloat = Field(
        default=1.0, description="the blocks, the text embeddings and the image positions"
    )
    embedder: NonNegativeFloat = Field(default=1.0, description="the image embedder")
    decoder: NonNegativeFloat = Field(default=1.0, description="the image decoder")
    heads: NonNegativeFloat = Field(default=1.0, description="MLM, ITM and matching heads")


class OptimConfig(Config):
    """Adam, its schedule and its limits (paper section 4.1: Adam, fixed 8e-4)."""

    learning_rate: PositiveFloat = Field(default=0.001, description="the highest, after warm-up")
    rates: RatesConfig = RatesConfig()
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="factor of the rate from each block to the one below it, the embeddings last; 1: off",
    )
    betas: tuple[Decay, Decay] = Field(
        default=(0.9, 0.999), description="decay of the moving averages of the gradient and of its square"
    )
    eps: PositiveFloat = Field(default=1e-8, description="added to the denominator of a step")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="decoupled (AdamW) when above 0")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="of the learning rate after warm-up; linear and cosine end at 0"
    )
    warmup_steps: NonNegativeInt = Field(default=100, description="optimiser steps in which the rate rises from 0")
    clip_norm: NonNegativeFloat = Field(default=1.0, description="largest gradient norm; 0 turns clipping off")


class CheckpointConfig(Config):
    """When a running training is saved; whichever comes first."""

    every_steps: PositiveInt = Field(default=1000, description="optimiser steps between checkpoints")
    every_minutes: PositiveFloat = Field(default=10, description="minutes between checkpoints")
    keep: PositiveInt = Field(default=2, description="checkpoints that are kept, the newest ones")


class TraceConfig(Config):
    """Which optimiser steps torch's profiler records, counted from 1."""

    first: PositiveInt = Field(description="the first step that is recorded")
    last: PositiveInt = Field(description="the last one")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"last {self.last} is before first {self.first}")
        return self


class ComputeConfig(Config):
    """How the same losses are computed: speed and memory, not the experiment."""

    processes: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="training processes on this machine, one for each device; auto: as many CUDA devices as "
        "divide a batch evenly, else one",
    )
    side_by_side: PositiveInt | Literal["auto"] = Field(
        default="auto",
        description="stages that need nothing of each other, above all the trainings of a sweep, that run at the same "
        "time, each with its share of the cores; auto: one for each core as far as memory reaches, two with an "
        "accelerator",
    )
    shard: bool = Field(
        default=False,
        description="several processes share weights, gradients and moments out among themselves (FSDP2) instead of "
        "holding all of them each (DDP): for models that one device cannot hold",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="of matrix products; the losses stay fp32; auto: bf16 on CUDA devices that have it, else fp32",
    )
    compile: bool = Field(
        default=False, description="compile the blocks of the transformer (torch.compile) when training starts"
    )
    checkpoint_blocks: bool = Field(
        default=False,
        description="keep only the inputs of the transformer's blocks and compute them again in the backward pass: "
        "much less memory, a third more operations",
    )
    trace: TraceConfig | None = Field(
        default=None, description="steps that torch's profiler records (slower); null: none"
    )
