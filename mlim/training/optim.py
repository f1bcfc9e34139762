"""Adam, the learning-rate schedule and nothing else (paper section 4.1: Adam, fixed 8e-4)."""

import math

import torch
from torch import nn

from mlim.recipe import OptimConfig

FUSED = True  # one pass over the weights instead of six: four times as fast on two cores, and there on every device
MATRIX_DIMENSIONS = 2  # biases and layer norms have fewer and are never decayed


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam; AdamW (decay decoupled, only of matrices and kernels) when `weight_decay` is above 0."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.weight_decay == 0:
        return torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=FUSED)
    decayed = [parameter for parameter in parameters if parameter.dim() >= MATRIX_DIMENSIONS]
    others = [parameter for parameter in parameters if parameter.dim() < MATRIX_DIMENSIONS]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=FUSED)


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of optimiser step `step` (0-based) of `steps`: linear warm-up, then the schedule down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factors[config.schedule]


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use `value` for every parameter group from now on."""
    for group in optimizer.param_groups:
        group["lr"] = value
