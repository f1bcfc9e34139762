"""The learning rate over the steps, what is decayed, and which device is taken."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlim.errors import InputError
from mlim.recipe import OptimConfig
from mlim.training.device import choose_device
from mlim.training.optim import build_optimizer, learning_rate

SETTINGS = {
    "learning_rate": 8e-4,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_norm": 0.0,
}


def optim(**changes: object) -> OptimConfig:
    return OptimConfig.model_validate({**SETTINGS, **changes})


def test_the_papers_learning_rate_never_changes():
    assert {learning_rate(step, 1000, optim()) for step in range(1000)} == {8e-4}


@given(st.sampled_from(["constant", "linear", "cosine"]), st.integers(0, 20), st.integers(1, 60))
def test_it_rises_to_its_peak_and_never_again(schedule, warmup, steps):
    rates = [learning_rate(step, steps, optim(schedule=schedule, warmup_steps=warmup)) for step in range(steps)]
    assert all(0 < rate <= 8e-4 * (1 + 1e-12) for rate in rates)
    assert rates[:warmup] == sorted(rates[:warmup])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    if warmup < steps:
        assert rates[warmup] == pytest.approx(8e-4)


def test_cosine_and_linear_are_at_half_in_the_middle():
    for schedule in ("linear", "cosine"):
        assert learning_rate(55, 100, optim(schedule=schedule, warmup_steps=10)) == pytest.approx(4e-4)
    assert math.isclose(learning_rate(4, 100, optim(warmup_steps=10)), 4e-4)


def test_adam_decays_nothing_and_adamw_spares_biases_and_norms():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    plain = build_optimizer(model, optim())
    assert type(plain) is torch.optim.Adam
    assert [group["weight_decay"] for group in plain.param_groups] == [0]
    decaying = build_optimizer(model, optim(weight_decay=0.1))
    assert type(decaying) is torch.optim.AdamW
    decayed, spared = decaying.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 3)]
    assert [tuple(parameter.shape) for parameter in spared["params"]] == [(4,), (4,), (4,)]


def test_a_device_that_is_not_there_is_named():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    absent = next((name for name in ("cuda", "mps") if choose_device("auto").type != name), None)
    with pytest.raises(InputError, match=f"`{absent}` is not available"):
        choose_device(absent)
