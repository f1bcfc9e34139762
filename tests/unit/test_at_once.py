"""How many trainings run at the same time where the recipe leaves it open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.processes import cores
from mlim.recipe import load_recipe
from mlim.steps.at_once import as_many_as_fit, bytes_of, trainings_at_once

GB = 10**9


@pytest.mark.parametrize(
    ("cores", "memory", "each", "expected"),
    [(2, 24 * GB, GB, 2), (16, 24 * GB, GB, 16), (16, 4 * GB, GB, 3), (16, 64 * GB, 20 * GB, 2), (8, GB, 2 * GB, 1)],
)
def test_one_for_each_core_as_far_as_memory_reaches(cores, memory, each, expected):
    assert as_many_as_fit(cores, memory, each) == expected


@given(cores=st.integers(1, 512), memory=st.integers(0, 2**45), each=st.integers(1, 2**40))
def test_at_least_one_and_at_most_one_for_each_core(cores, memory, each):
    assert 1 <= as_many_as_fit(cores, memory, each) <= cores


def test_what_the_recipe_says_stays():
    assert trainings_at_once(load_recipe("small", ["compute.side_by_side=7"])) == 7
    assert load_recipe("small").compute.side_by_side == "auto"
    assert 1 <= trainings_at_once(load_recipe("small", ["device=cpu"])) <= cores()
    assert trainings_at_once(load_recipe("small", ["device=cuda"])) == 2


def test_a_larger_network_takes_more_memory():
    """`small` fits a few times into a gigabyte or two; 110 million weights take three gigabytes (measured: 2.8 GiB)."""
    base = [
        "model.hidden_size=768",
        "model.layers=12",
        "model.heads=12",
        "model.intermediate_size=3072",
    ]
    assert bytes_of(load_recipe("small")) < GB < 2.5 * GB < bytes_of(load_recipe("small", base)) < 3.5 * GB
