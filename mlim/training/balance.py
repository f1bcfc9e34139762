"""Losses that pull equally on what they share: each is scaled by the norm of its gradient there.

A sum of losses says nothing about what each of them does to the weights that all go through: a loss whose gradient is
thirty times smaller than another's hardly changes them. The rule is the first-order part of GradNorm
(Chen et al. 2018, arXiv 1711.02257) without its training rates: measure, smooth, divide.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from mlim.models.weights import whole
from mlim.recipe.pretrain import BalanceConfig
from mlim.training.ranks import Ranks

Factors = Mapping[str, float]


class Balance:
    """The factors of the losses of a training, and the smoothed gradient norms that they come from.

    The loss with the largest norm keeps the factor 1, the others are raised to it, at most `config.most` times; so the
    gradients are never smaller than those of the plain sum. A norm is a plain mean first and an exponential one later.
    The losses are measured with their `weights` in them, which are taken out: they multiply on top of the factors.
    Without a `config` all factors are 1 for ever.
    """

    def __init__(self, config: BalanceConfig | None, weights: Mapping[str, float]) -> None:
        self._config, self._weights = config, weights
        self._norms: dict[str, float] = {}
        self._measured: dict[str, int] = {}  # how often
        self._next: dict[str, int] = {}  # the step from which on a loss is measured again

    def due(self, step: int, counts: Mapping[str, float]) -> list[str]:
        """The losses that are measured at optimiser step `step` (from 0): of those with targets in it.

        A mode of MAM that has no targets of a loss only puts it off.
        """
        if self._config is None:
            return []
        return [name for name, count in counts.items() if count and step >= self._next.get(name, 0)]

    def take(self, step: int, norms: Mapping[str, float]) -> None:
        """Take in newly measured norms; one that is 0 (a weight of 0) or not finite says nothing."""
        if self._config is None:
            return
        for name, norm in norms.items():
            self._next[name] = step + self._config.every
            if math.isfinite(norm) and norm > 0:
                count = self._measured[name] = self._measured.get(name, 0) + 1
                share = max(1.0 - self._config.smoothing, 1.0 / count)
                before = self._norms.get(name, 0.0)
                self._norms[name] = before + share * (norm / self._weights[name] - before)

    @property
    def norms(self) -> Mapping[str, float]:
        """The smoothed norm of each loss that was measured."""
        return self._norms

    @property
    def factors(self) -> Factors:
        """The factor of each loss that was measured; the others have none yet, which means 1."""
        if self._config is None or not self._norms:
            return {}
        largest = max(self._norms.values())
        return {name: min(largest / norm, self._config.most) for name, norm in self._norms.items()}

    def figures(self) -> dict[str, float]:
        """Factors and norms by loss, named as in history.csv; empty without a balance."""
        factors = {f"factor_{name}": value for name, value in self.factors.items()}
        return factors | {f"norm_{name}": value for name, value in self._norms.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a continued training needs, JSON-able."""
        return {"norms": dict(self._norms), "measured": dict(self._measured), "next": dict(self._next)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self._norms, self._measured, self._next = (dict(state[key]) for key in ("norms", "measured", "next"))


def gradient_norms(
    losses: Sequence[str], backward: Callable[[str], None], shared: Sequence[nn.Parameter], ranks: Ranks
) -> dict[str, float]:
    """The norm of the gradient of each loss alone over the parameters `shared`, the same on every rank.

    `backward(loss)` leaves in the parameters the gradient of that loss of the whole step: all micro-batches, all ranks.
    """
    norms: dict[str, float] = {}
    for name in losses:
        backward(name)
        gradients = [parameter.grad for parameter in shared if parameter.grad is not None]
        norm = whole(nn.utils.get_total_norm(gradients)).item()  # of a sharded model each rank has its part
        norms[name] = ranks.sum([norm if ranks.is_main else 0.0])[0]
    return norms
