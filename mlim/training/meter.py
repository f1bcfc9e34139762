"""Averages of losses that stay on the device until somebody wants to see them, and a watch for numbers gone bad."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlim.errors import MlimError
from mlim.objectives import ObjectiveOutput

NAMED_ITEMS = 8  # of a bad batch, in the message
NO_STEP = -1

Averages = dict[str, float]


class Meter:
    """Sums and counts of every loss by mode; `by_mode` and `overall` turn them into means."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], torch.Tensor] = {}
        self._counts: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._weights: dict[str, float] = {}

    def add(self, output: ObjectiveOutput, counts: Mapping[str, int]) -> None:
        """Take the losses of one micro-batch with their numbers of targets; nothing is read from the device."""
        for name, term, weight in output.terms:
            key = (output.mode, name)
            total = term.total.detach().float()
            self._sums[key] = self._sums[key] + total if key in self._sums else total
            self._counts[key] += counts[name]
            self._weights[name] = weight

    def by_mode(self) -> dict[str, Averages]:
        """For every mode met, the mean of each loss that had targets, and their weighted `total`."""
        modes = sorted({mode for mode, _ in self._sums})
        return {mode: self._means(lambda key, mode=mode: key[0] == mode) for mode in modes}  # type: ignore[misc]

    def overall(self) -> Averages:
        """The means over all modes together."""
        return self._means(lambda key: True)

    def _means(self, chosen: Any) -> Averages:
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, int] = defaultdict(int)
        for key, value in self._sums.items():
            if chosen(key):
                sums[key[1]] += value.item()
                counts[key[1]] += self._counts[key]
        means = {name: sums[name] / counts[name] for name in sums if counts[name]}
        return {**means, "total": math.fsum(self._weights[name] * mean for name, mean in means.items())}

    def reset(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._counts.clear()

    def state_dict(self) -> dict[str, Any]:
        """What has been added since the last reset, JSON-able."""
        rows = [[mode, name, self._sums[mode, name].item(), self._counts[mode, name]] for mode, name in self._sums]
        return {"sums": rows, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.reset()
        self._weights = dict(state["weights"])
        for mode, name, total, count in state["sums"]:
            self._sums[mode, name] = torch.tensor(total)
            self._counts[mode, name] = count


class FiniteWatch:
    """Notices a loss or gradient that is not finite without waiting for the device at every step."""

    def __init__(self, device: torch.device) -> None:
        self._first_bad = torch.tensor(NO_STEP, device=device)
        self._items: dict[int, Sequence[str]] = {}

    def add(self, step: int, loss: torch.Tensor, norm: torch.Tensor, items: Sequence[str]) -> None:
        """Look at one optimiser step (on the device)."""
        bad = ~(torch.isfinite(loss) & torch.isfinite(norm)) & (self._first_bad == NO_STEP)
        self._first_bad = torch.where(bad, step, self._first_bad)
        self._items[step] = items

    def check(self) -> None:
        """Raise `MlimError` naming the first bad step since the last check and its items."""
        step = int(self._first_bad.item())
        if step != NO_STEP:
            items = list(dict.fromkeys(self._items[step]))
            more = f" and {len(items) - NAMED_ITEMS} more" if len(items) > NAMED_ITEMS else ""
            raise MlimError(
                f"step {step + 1}: the loss or its gradient is not a finite number; the batch held "
                f"{', '.join(items[:NAMED_ITEMS])}{more}; try a lower learning_rate, more warmup_steps or a clip_norm"
            )
        self._items.clear()
