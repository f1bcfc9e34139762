"""Averages of losses that stay on the device until they are read, and a check for values that are not finite."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlim.errors import MlimError
from mlim.tasks.protocols import ObjectiveOutput
from mlim.training.ranks import Ranks

NAMED_ITEMS = 8  # of a bad batch, in the message

Averages = dict[str, float]


class LossMeter:
    """Sums and counts of every loss by mode; `by_mode` and `overall` turn them into means.

    All ranks meet the same modes and losses in the same order. A sum that is not finite counts nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], torch.Tensor] = {}
        self._counts: dict[tuple[str, str], torch.Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, output: ObjectiveOutput, counts: Mapping[str, float]) -> None:
        """Take the losses of one micro-batch with their numbers of targets; nothing is read from the device."""
        for name, term, weight in output.terms:
            key = (output.mode, name)
            total = term.total.detach().float()
            finite = torch.isfinite(total)
            total, count = torch.where(finite, total, 0.0), finite * counts[name]
            known = key in self._sums
            self._sums[key] = self._sums[key] + total if known else total
            self._counts[key] = self._counts[key] + count if known else count
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
        counts: defaultdict[str, float] = defaultdict(float)
        for key, value in self._sums.items():
            if chosen(key):
                sums[key[1]] += float(value)
                counts[key[1]] += self._counts[key].item()
        means = {name: sums[name] / counts[name] for name in sums if counts[name]}
        return {**means, "total": math.fsum(self._weights[name] * mean for name, mean in means.items())}

    def reset(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._counts.clear()

    def gathered(self, ranks: Ranks) -> "LossMeter":
        """The same over all ranks; every one of them must ask."""
        sums = ranks.sum([value.item() for value in self._sums.values()])
        counts = ranks.sum([value.item() for value in self._counts.values()])
        return self._with(list(self._sums), sums, counts)

    def state_dict(self) -> dict[str, Any]:
        """What has been added since the last reset, JSON-able."""
        rows = [[*key, self._sums[key].item(), self._counts[key].item()] for key in self._sums]
        return {"sums": rows, "weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any], ranks: Ranks) -> None:
        """Continue from the `state_dict` of all ranks together: rank 0 takes it over, the others begin at 0."""
        self._weights = dict(state["weights"])
        rows = state["sums"]
        share = 1 if ranks.is_main else 0
        keys = [(mode, name) for mode, name, *_ in rows]
        loaded = self._with(keys, [share * row[2] for row in rows], [share * row[3] for row in rows])
        self._sums, self._counts = loaded._sums, loaded._counts

    def _with(self, keys: Sequence[tuple[str, str]], sums: Sequence[float], counts: Sequence[float]) -> "LossMeter":
        other = LossMeter()
        other._weights = self._weights
        other._sums = {key: torch.tensor(total) for key, total in zip(keys, sums, strict=True)}
        other._counts = {key: torch.tensor(_exact(count)) for key, count in zip(keys, counts, strict=True)}
        return other


def _exact(count: float) -> float:
    """A whole number as one, which no sum rounds: pixels are many. Others are of targets that count in part."""
    return int(count) if float(count).is_integer() else count


class BadStep(NamedTuple):
    """An optimiser step whose loss or gradient was not finite, and the items it held (of this rank)."""

    step: int
    items: Sequence[str]


class FiniteCheck:
    """Notices losses and gradients that are not finite without waiting for the device at every step.

    More than `limit` bad steps end the training; `keep` writes down those of the last reading for a person.
    """

    def __init__(self, limit: int, keep: Callable[[Sequence[BadStep]], Path]) -> None:
        self._limit, self._keep = limit, keep
        self._steps: list[tuple[BadStep, torch.Tensor]] = []
        self.newest_is_bad = False  # at the last reading

    def add(self, step: int, bad: torch.Tensor, items: Sequence[str]) -> None:
        """Remember one optimiser step; `bad` is 1 on the device when it was not finite."""
        self._steps.append((BadStep(step + 1, items), bad))

    def check(self, before: int) -> int:
        """How many steps were bad by now, of which `before` were known; `MlimError` when there are too many."""
        if not self._steps:
            return before
        flags = torch.stack([flag for _, flag in self._steps]).tolist()
        bad = [step for (step, _), flag in zip(self._steps, flags, strict=True) if flag]
        self.newest_is_bad = bool(flags[-1])
        self._steps.clear()
        if not bad:
            return before
        place = self._keep(bad)
        if before + len(bad) > self._limit:
            raise MlimError(_too_many(bad[0], before + len(bad), self._limit, place))
        return before + len(bad)


def _too_many(step: BadStep, count: int, limit: int, place: Path) -> str:
    items = list(dict.fromkeys(step.items))
    more = f" and {len(items) - NAMED_ITEMS} more" if len(items) > NAMED_ITEMS else ""
    return (
        f"step {step.step}: the loss or its gradient is not a finite number; the batch held "
        f"{', '.join(items[:NAMED_ITEMS])}{more}. That is the case in {count} steps, max_skipped_steps allows {limit}; "
        f"their items are listed in {place}; try a lower learning_rate, more warmup_steps or a clip_norm"
    )
