"""Adam, its learning rates, and the moving average of the weights (paper section 4.1: Adam, fixed 8e-4)."""

import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Final

import torch
from torch import nn

from mlim.models.network import Network, Part
from mlim.models.weights import named_tensors, whole
from mlim.recipe.training import OptimConfig
from mlim.training.checkpoint import Tensors

FUSED = True  # one pass over the weights instead of six: four times as fast on two cores, and there on every device
MATRIX_DIMENSIONS = 2  # biases and layer norms have fewer and are never decayed
SCALE = "scale"  # of a parameter group: factor of the learning rate
BELOW_BLOCKS: tuple[Part, ...] = ("embedder", "transformer")  # but for the blocks themselves


class Adam(torch.optim.AdamW):
    """AdamW (without decay it is Adam) that does not load torch's compiler: torch's own methods do at their first call,
    which takes more than a second of a core in every process that trains. A step of an optimizer is never compiled.
    """

    _plain_step: Final = inspect.unwrap(torch.optim.AdamW.step)
    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no training here passes a closure
        """One update of the weights by their gradients."""
        self._plain_step(closure)


def build_optimizer(model: Network, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam; AdamW (decay decoupled, only of matrices and kernels) when `weight_decay` is above 0.

    Parameters with the same factor of the learning rate (`config.rates`, `config.layer_decay`) form a group.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    scales = learning_rate_scales(model, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = config.weight_decay > 0 and parameter.dim() >= MATRIX_DIMENSIONS
            groups.setdefault((scales[name], decayed), []).append(parameter)
    options = [
        {"params": parameters, SCALE: scale, "weight_decay": config.weight_decay if decayed else 0.0}
        for (scale, decayed), parameters in groups.items()
    ]
    return Adam(options, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=FUSED)


def learning_rate_scales(model: Network, config: OptimConfig) -> Mapping[str, float]:
    """The factor of the learning rate of every parameter by its name.

    Blocks of level k of L (from 0) get layer_decay^(L - 1 - k), all embeddings layer_decay^L, what reads the outputs 1.
    """
    parts, levels = model.part_of_parameters(), model.levels()
    above = {  # how many levels lie between a block's parameters and the outputs
        parameter: len(levels) - 1 - number
        for number, level in enumerate(levels)
        for block in level
        for parameter in block.parameters()
    }
    rates: Mapping[str, float] = dict(config.rates)
    scales = {}
    for name, parameter in model.named_parameters():
        distance = above.get(parameter, len(levels) if parts[name] in BELOW_BLOCKS else 0)
        scales[name] = rates[parts[name]] * config.layer_decay**distance
    return scales


def learning_rate(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of optimiser step `step` (0-based) of `steps`: linear warm-up, then the schedule down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * factors[config.schedule]


def low_peak(steps: int, config: OptimConfig) -> float | None:
    """The highest learning rate of a training whose warm-up does not end within its `steps`; None: it reaches it."""
    return None if config.warmup_steps <= steps else learning_rate(steps - 1, steps, config)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use `value` from now on, times each parameter group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = value * group[SCALE]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> torch.Tensor:
    """The norm of all gradients together, which are shortened to `limit` when it is larger; 0 never shortens."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))  # of a sharded model each rank has its part
    if limit:
        with_gradients = [parameter for parameter in parameters if parameter.grad is not None]
        nn.utils.clip_grads_with_norm_(with_gradients, limit, norm)
    return norm


def step_unless(bad: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Move the weights, or leave weights and moments alone where `bad` (scalar, on the device) is 1; never waits.

    The fused kernels read the flag themselves, as they do for torch's gradient scaler.
    """
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()


class MovingAverage:
    """An exponential moving average of a model's weights; `decay` 0 means there is none.

    It starts as a plain mean and becomes exponential when 1 / (1 + updates) falls below 1 - decay.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._own = named_tensors(model)
        self._average = {name: value.clone() for name, value in self._own.items()} if decay else {}

    @property
    def tensors(self) -> Tensors:
        """The averaged weights by name; empty when there is no average."""
        return self._average

    def update(self, updates: int) -> None:
        """Take in the weights after so many updates (1 for the first)."""
        if self._average:
            weight = max(1.0 - self._decay, 1.0 / (1 + updates))
            torch._foreach_lerp_(list(self._average.values()), list(self._own.values()), weight)

    def exchange(self) -> None:
        """Give the model the averaged weights and keep its own instead; once more turns it back."""
        with torch.no_grad():
            for name, value in self._average.items():
                kept = self._own[name].clone()
                self._own[name].copy_(value)
                value.copy_(kept)
