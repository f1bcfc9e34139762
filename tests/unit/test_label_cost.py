"""How many labels a way of choosing needs for what random pairs reach."""

import numpy as np
import pytest

from mlim.evaluation.label_cost import label_cost

LABELS = [100, 200, 300, 400]
RANDOM = np.array([[0.2, 0.3, 0.4, 0.5]] * 3)


def test_a_way_that_is_as_good_as_random_needs_all_labels() -> None:
    assert label_cost(LABELS, RANDOM, RANDOM, 0.95, 0) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_between_two_rounds_it_is_interpolated() -> None:
    faster = np.array([[0.2, 0.4, 0.6, 0.7]] * 3)
    assert label_cost(LABELS, faster, RANDOM, 0.95, 0)["value"] == pytest.approx(250 / 400)


def test_a_way_that_never_gets_there_has_no_cost() -> None:
    assert label_cost(LABELS, RANDOM - 0.1, RANDOM, 0.95, 0) == {"value": None, "low": None, "high": None}


def test_seeds_that_differ_widen_the_interval() -> None:
    seeds = np.random.default_rng(0).normal(0, 0.05, size=(8, 1))
    faster = np.array([[0.2, 0.4, 0.6, 0.7]]) + seeds
    found = label_cost(LABELS, faster, np.repeat(RANDOM[:1], 8, axis=0), 0.95, 0)
    assert found["low"] < found["value"] < found["high"]
