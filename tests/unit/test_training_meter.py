"""Means of losses whose targets count in part, and a meter that is saved and loaded again."""

import json

import pytest
import torch

from mlim.losses import LossTerm
from mlim.tasks.protocols import ObjectiveOutput, Weighted
from mlim.training.meter import LossMeter
from mlim.training.ranks import Ranks

PIXELS = (1 << 24) + 1  # the first whole number that float32 rounds


def output(total: float, count: float) -> ObjectiveOutput:
    term = LossTerm(torch.tensor(total), torch.tensor(count))
    return ObjectiveOutput((Weighted("detect-class", term, 1.0),), "both")


def added(meter: LossMeter, *counts: float) -> LossMeter:
    for count in counts:
        meter.add(output(1.5 * count, count), {"detect-class": count})
    return meter


@pytest.mark.parametrize("counts", [(0.4,), (0.1, 0.1, 2.3), (PIXELS, PIXELS)])
def test_the_mean_is_that_per_target_however_little_a_target_counts(counts):
    assert added(LossMeter(), *counts).overall()["detect-class"] == pytest.approx(1.5)
    assert float(output(1.5 * counts[0], counts[0]).terms[0].term.mean) == pytest.approx(1.5)


def test_a_meter_that_was_saved_goes_on_as_if_it_had_not_been():
    counts = [0.1 * number for number in range(1, 12)]
    undisturbed, saved, resumed = added(LossMeter(), *counts), added(LossMeter(), *counts[:7]), LossMeter()
    resumed.load_state_dict(json.loads(json.dumps(saved.state_dict())), Ranks())
    assert added(resumed, *counts[7:]).overall() == undisturbed.overall()


def test_sums_over_ranks_keep_whole_numbers_whole():
    meter = added(LossMeter(), PIXELS)
    assert meter.gathered(Ranks()).state_dict()["sums"][0][3] == PIXELS
