"""What the baselines of pre-training tasks reach on the items and masks that the losses are validated on."""

from collections.abc import Mapping
from typing import Final

from mlim.tasks.pretrain.baselines import Baselines
from mlim.tasks.protocols import ObjectiveOutput, Weighted
from mlim.training.held_out import HeldOutLosses
from mlim.training.meter import LossMeter

OVERALL: Final = "overall"  # over all masking modes together

Losses = dict[str, dict[str, float]]  # by baseline and by masking mode, with `OVERALL`


def baseline_losses(held_out: HeldOutLosses, baselines: Mapping[str, Baselines]) -> dict[str, Losses]:
    """The losses of the baselines on the items and masks of `held_out`: by loss, baseline and masking mode."""
    meters = {loss: LossMeter() for loss in baselines}
    for prepared in held_out.prepared():
        for loss, of_loss in baselines.items():
            terms = of_loss.losses(prepared.plan)
            weighted = tuple(Weighted(way, term, 1.0) for way, term in terms.items())
            output = ObjectiveOutput(weighted, prepared.masks.mode.value)
            meters[loss].add(output, dict.fromkeys(terms, prepared.counts[loss]))
    return {loss: _by_way(meter) for loss, meter in meters.items()}


def _by_way(meter: LossMeter) -> Losses:
    found: Losses = {}
    for mode, means in ((OVERALL, meter.overall()), *meter.by_mode().items()):
        for way, value in means.items():
            if way != "total":
                found.setdefault(way, {})[mode] = value
    return found


def not_beaten(final: Mapping[str, float], references: Mapping[str, Losses]) -> list[str]:
    """What a pre-training does no better than simple baselines, over all masking modes: a clause for each such loss.

    `final` and `references` as in the summary of a pre-training.
    """
    found = []
    for loss, ways in references.items():
        better = [f"{way} ({values[OVERALL]:.4f})" for way, values in ways.items() if values[OVERALL] <= final[loss]]
        if better:
            found.append(f"{loss.upper()} {final[loss]:.4f} is no better than {', '.join(better)}")
    return found
