import numpy as np
import pytest

from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.significance import paired_bootstrap

SETTINGS = {"samples": 200, "confidence": 0.95, "seed": 0}


def pairs(size=500, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random(size) < 0.4).astype(np.int64)
    return labels, labels + generator.normal(size=size), generator.normal(size=size)


def test_equal_scores_differ_by_nothing():
    labels, good, _ = pairs()
    difference = paired_bootstrap(labels, good, good.copy(), **SETTINGS)
    assert difference == (0.0, 0.0, 0.0, 1.0)
    assert not difference.separated


def test_a_transformed_scoring_differs_by_nothing():
    labels, good, _ = pairs()
    assert paired_bootstrap(labels, good, np.exp(good), **SETTINGS) == (0.0, 0.0, 0.0, 1.0)


def test_a_clear_difference_is_separated_and_significant():
    labels, good, noise = pairs()
    difference = paired_bootstrap(labels, good, noise, **SETTINGS)
    assert difference.value == pytest.approx(average_precision(labels, good) - average_precision(labels, noise))
    assert difference.separated
    assert 0 < difference.low <= difference.value <= difference.high
    assert 0 < difference.p_value < 0.02


def test_turning_the_question_round_turns_the_answer_round():
    labels, good, noise = pairs()
    one, other = paired_bootstrap(labels, good, noise, **SETTINGS), paired_bootstrap(labels, noise, good, **SETTINGS)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p_value == other.p_value


def test_two_noises_are_seldom_called_different():
    results = []
    for seed in range(40):
        labels, _, noise = pairs(200, seed)
        other = np.random.default_rng(1000 + seed).normal(size=labels.size)
        results.append(paired_bootstrap(labels, noise, other, **SETTINGS).p_value < 0.05)
    assert np.mean(results) <= 0.2


def test_pairing_gives_a_narrower_interval_than_independent_noise_would():
    labels, good, noise = pairs(1000)
    near = paired_bootstrap(labels, good, good + 0.01 * noise, **SETTINGS)
    far = paired_bootstrap(labels, good, noise, **SETTINGS)
    assert near.high - near.low < (far.high - far.low) / 3
