"""How many processes one command becomes."""

import pytest

from mlim.errors import InputError
from mlim.training.launch import largest_even, wanted_processes
from mlim.training.ranks import Ranks


@pytest.mark.parametrize(
    ("batch_size", "devices", "processes"),
    [(32, 8, 8), (32, 3, 2), (33, 2, 1), (6, 4, 3), (4, 8, 4), (32, 1, 1), (32, 0, 1)],
)
def test_a_batch_is_dealt_evenly_to_as_many_devices_as_possible(batch_size, devices, processes):
    assert largest_even(batch_size, devices) == processes


def test_examples_that_a_loss_looks_at_together_stay_on_one_device():
    assert Ranks(1, 2).per_rank(8, together=2) == 4
    with pytest.raises(
        InputError, match="batch_size 8 among 8 processes parts 2 examples that a loss looks at together"
    ):
        Ranks(1, 8).per_rank(8, together=2)


def test_the_recipe_has_the_last_word(tiny_recipe):
    assert wanted_processes(tiny_recipe.compute, "cpu", 8) == 1
    three = tiny_recipe.compute.model_copy(update={"processes": 3})
    assert wanted_processes(three, "cpu", 8) == 3  # refused later, with a sentence


def test_a_batch_that_cannot_be_dealt_is_refused():
    assert Ranks(1, 2).per_rank(6) == 3
    with pytest.raises(InputError, match="batch_size 5 cannot be divided evenly among 2 processes"):
        Ranks(1, 2).per_rank(5)
