"""The learning rate over the steps, what is decayed, and which device is taken."""

import copy
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlim.config import parse
from mlim.errors import InputError
from mlim.models.config import MlimConfig
from mlim.models.mlim import Mlim
from mlim.models.network import Network
from mlim.recipe import OptimConfig
from mlim.training.device import choose_device
from mlim.training.optim import (
    MovingAverage,
    build_optimizer,
    learning_rate,
    learning_rate_scales,
    low_peak,
    set_learning_rate,
    step_unless,
)

SETTINGS = {
    "learning_rate": 8e-4,
    "rates": {"transformer": 1.0, "embedder": 1.0, "decoder": 1.0, "heads": 1.0},
    "layer_decay": 1.0,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "clip_norm": 0.0,
}


class Plain(Network):
    """Layers that are all heads."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def parts(self):
        return {"heads": [self.layers]}

    def levels(self):
        return []

    def save_pretrained(self, folder):
        raise NotImplementedError


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


@given(warmup=st.integers(0, 60), steps=st.integers(1, 60))
def test_a_peak_is_low_where_no_step_has_the_highest_rate(warmup, steps):
    config = optim(warmup_steps=warmup)
    highest = max(learning_rate(step, steps, config) for step in range(steps))
    peak = low_peak(steps, config)
    assert highest == pytest.approx(config.learning_rate if peak is None else peak)
    assert peak is None or peak < config.learning_rate


@pytest.mark.parametrize("betas", [(1.0, 0.999), (0.9, 1.0), (-0.1, 0.999), (0.9, float("nan"))])
def test_betas_that_adam_refuses_are_refused_with_the_recipe(betas):
    with pytest.raises(InputError, match=r"`betas\.[01]`"):
        parse(OptimConfig, {"betas": betas}, "recipe")


def test_cosine_and_linear_are_at_half_in_the_middle():
    for schedule in ("linear", "cosine"):
        assert learning_rate(55, 100, optim(schedule=schedule, warmup_steps=10)) == pytest.approx(4e-4)
    assert math.isclose(learning_rate(4, 100, optim(warmup_steps=10)), 4e-4)


def test_adam_decays_nothing_and_adamw_spares_biases_and_norms():
    model = Plain(nn.Linear(3, 4), nn.LayerNorm(4))
    plain = build_optimizer(model, optim())
    assert [group["weight_decay"] for group in plain.param_groups] == [0]
    decaying = build_optimizer(model, optim(weight_decay=0.1))
    decayed, spared = decaying.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(4, 3)]
    assert [tuple(parameter.shape) for parameter in spared["params"]] == [(4,), (4,), (4,)]


@pytest.mark.parametrize(("reference", "decay"), [(torch.optim.Adam, 0.0), (torch.optim.AdamW, 0.1)])
def test_the_steps_are_those_of_torch_to_the_last_bit(reference, decay):
    ours, theirs = (Plain(nn.Linear(3, 4, bias=False)) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    settings = optim(weight_decay=decay, learning_rate=0.1)
    built = build_optimizer(ours, settings)
    compared = reference(
        theirs.parameters(), lr=0.1, betas=settings.betas, eps=settings.eps, weight_decay=decay, fused=True
    )
    for step in range(5):
        for model, optimizer in ((ours, built), (theirs, compared)):
            optimizer.zero_grad()
            model.layers(torch.full((2, 3), 1.0 + step)).square().sum().backward()
            optimizer.step()
        if step == 2:  # as after a checkpoint
            built = build_optimizer(ours, settings)
            built.load_state_dict(copy.deepcopy(compared.state_dict()))
    assert torch.equal(ours.layers[0].weight, theirs.layers[0].weight)


def test_a_device_that_is_not_there_is_named():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    absent = next((name for name in ("cuda", "mps") if choose_device("auto").type != name), None)
    with pytest.raises(InputError, match=f"`{absent}` is not available"):
        choose_device(absent)


@pytest.fixture(scope="module")
def model(tiny_recipe) -> Mlim:
    return Mlim.random(MlimConfig.from_recipe(tiny_recipe, 128), seed=0)


def test_every_part_has_its_own_rate(model):
    rates = {"transformer": 2.0, "embedder": 3.0, "decoder": 5.0, "heads": 7.0}
    scales = learning_rate_scales(model, optim(rates=rates))
    wanted = {"backbone.image_embedder": 3.0, "backbone": 2.0, "decoder": 5.0, "mlm_head": 7.0, "itm_head": 7.0}
    for name, scale in scales.items():
        assert scale == next(value for part, value in wanted.items() if name.startswith(part)), name
    assert set(scales.values()) == {2.0, 3.0, 5.0, 7.0}
    optimizer = build_optimizer(model, optim(rates=rates, weight_decay=0.1))
    set_learning_rate(optimizer, 0.1)
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {0.2, 0.3, 0.5, 0.7}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_layers_far_from_the_outputs_learn_slower(model):
    scales = learning_rate_scales(model, optim(layer_decay=0.5))
    blocks = {
        number: {scale for name, scale in scales.items() if re.search(rf"\.encoder\.\w+\.{number}\.", name)}
        for number in (0, 1)
    }
    assert blocks == {0: {0.5}, 1: {1.0}}
    assert scales["backbone.word_embeddings.weight"] == scales["backbone.image_positions.weight"] == 0.25
    assert {scale for name, scale in scales.items() if not name.startswith("backbone.")} == {1.0}


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_bad_step_moves_neither_weights_nor_moments(weight_decay):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(Plain(layer), optim(weight_decay=weight_decay))
    histories = []
    for bad in (0.0, 1.0):
        layer(torch.ones(4, 3)).sum().backward()
        if bad:
            layer.weight.grad.fill_(math.nan)
        step_unless(torch.tensor(bad), optimizer)
        optimizer.zero_grad()
        state = [value.clone() for values in optimizer.state_dict()["state"].values() for value in values.values()]
        histories.append([*(parameter.detach().clone() for parameter in layer.parameters()), *state])
    assert all(torch.equal(before, after) for before, after in zip(*histories, strict=True))


def test_the_moving_average_is_a_mean_first_and_exponential_later():
    layer = nn.Linear(1, 1, bias=False)
    average = MovingAverage(layer, decay=0.9)
    seen = [layer.weight.item()]
    for update in range(1, 40):
        with torch.no_grad():
            layer.weight.fill_(float(update))
        average.update(update)
        seen.append(float(update))
        if update < 9:
            assert average.tensors["weight"].item() == pytest.approx(sum(seen) / len(seen), rel=1e-5)
    kept = average.tensors["weight"].item()
    with torch.no_grad():
        layer.weight.fill_(100.0)
    average.update(40)
    assert average.tensors["weight"].item() == pytest.approx(0.9 * kept + 0.1 * 100.0, rel=1e-5)
    own = layer.weight.item()
    average.exchange()
    assert layer.weight.item() == pytest.approx(0.9 * kept + 10.0, rel=1e-5)
    average.exchange()
    assert layer.weight.item() == own


def test_without_a_decay_there_is_no_average():
    layer = nn.Linear(1, 1)
    average = MovingAverage(layer, decay=0.0)
    before = layer.weight.item()
    average.update(1)
    average.exchange()
    assert not average.tensors
    assert layer.weight.item() == before
