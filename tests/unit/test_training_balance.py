"""Losses that pull equally: the rule, and what the loop measures."""

import math

import pytest
from training_room import Room, balanced, changed, for_the_room

from mlim.recipe import BalanceConfig, load_recipe
from mlim.shards.items import ItemStore
from mlim.training.balance import Balance

EQUAL = {"mlm": 1.0, "recon": 1.0, "itm": 1.0}


def balance(weights=EQUAL, **changes) -> Balance:
    return Balance(BalanceConfig(**{"every": 10, "smoothing": 0.5, "most": 50, **changes}), weights)


def test_the_largest_gradient_keeps_its_size_and_the_others_are_raised_to_it():
    found = balance()
    assert found.factors == {}
    found.take(0, {"mlm": 0.8, "recon": 0.04})
    assert found.factors == pytest.approx({"mlm": 1.0, "recon": 20.0})
    found.take(10, {"mlm": 0.4, "recon": 0.001})
    assert found.norms == pytest.approx({"mlm": 0.6, "recon": 0.0205})


def test_a_loss_is_measured_every_so_often_once_it_has_targets():
    found = balance()
    assert found.due(0, {"mlm": 0, "recon": 64}) == ["recon"]
    found.take(0, {"recon": 0.04})
    assert found.due(1, {"mlm": 12, "recon": 64}) == ["mlm"]
    found.take(1, {"mlm": 0.8})
    assert found.due(10, {"mlm": 12, "recon": 64}) == ["recon"]
    again = balance()
    again.load_state_dict(found.state_dict())
    assert again.due(11, {"mlm": 12, "recon": 64}) == ["mlm", "recon"]
    assert again.factors == found.factors


def test_a_factor_has_a_limit_and_a_loss_that_is_not_measured_is_left_alone():
    found = balance(most=5)
    found.take(0, {"mlm": 1.0, "recon": 0.001, "itm": 0.0})
    assert found.factors == {"mlm": 1.0, "recon": 5.0}
    found.take(10, {"mlm": math.nan, "recon": math.inf})
    assert found.norms == {"mlm": 1.0, "recon": 0.001}


def test_weights_multiply_on_top():
    """The same losses with another weight: a larger measured norm, the same factor."""
    found = balance({"mlm": 1.0, "recon": 2.0})
    found.take(0, {"mlm": 0.8, "recon": 0.08})
    assert found.factors == pytest.approx({"mlm": 1.0, "recon": 20.0})


def test_no_balance_measures_nothing():
    found = Balance(None, EQUAL)
    assert found.due(0, {"mlm": 12}) == []
    assert found.factors == {}


@pytest.fixture(scope="module")
def store(tiny_workspace) -> ItemStore:
    return ItemStore.open(tiny_workspace.items, tiny_workspace.valid / "index.parquet")


def test_a_training_raises_the_loss_that_pulls_least(tiny_recipe, store, tmp_path):
    """The factors are logged; the same however a step is cut, as without dropout all else is."""
    model = tiny_recipe.model.model_copy(update={"dropout": 0.0})
    recipe = balanced(for_the_room(tiny_recipe.model_copy(update={"model": model})))
    logged = []
    for size, parts in ((8, 1), (4, 2)):
        room = Room(changed(recipe, steps=10, batch_size=size, accumulate=parts), store, tmp_path / str(size))
        room.start()
        logged.append(next(values for step, values in room.sink.logged if step == 10 and "grad_norm" in values))
    factors = {name: value for name, value in logged[0].items() if name.startswith("factor_")}
    assert factors.keys() == {"factor_mlm", "factor_recon", "factor_itm"}
    assert min(factors.values()) == 1.0 < factors["factor_recon"]
    assert logged[1] == pytest.approx({**logged[1], **factors}, rel=1e-3)


def test_balanced_is_another_training_and_the_plain_sum_keeps_its_name():
    plain = load_recipe("demo", ["pretrain.balance=null"])
    other = load_recipe("demo", ["pretrain.balance={every: 20, smoothing: 0.8, most: 100}"])
    assert plain.training_key("pretrain", plain.main) != other.training_key("pretrain", other.main)
