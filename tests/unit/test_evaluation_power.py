"""Corrections and power against references: closed testing, simulation, and each other."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlim.evaluation.multiple import holm, p_above, p_below, p_equivalent, p_outside
from mlim.evaluation.power import MOST_SEEDS, detectable, needed, power_of
from mlim.evaluation.resampling import Resampled, effect_of, satterthwaite, t_test

CLUSTERS = 200
ALPHA = 0.05


def effect(value=0.02, pairs_error=0.01, spread=0.02, seeds=3, confidence=0.95):
    """An effect with exactly this error and spread."""
    by_seed = value + (spread * _unit_spread(seeds) if seeds > 1 else np.zeros(1))
    replicates = np.tile(value + pairs_error * _unit_spread(100), (seeds, 1))
    return effect_of(Resampled(by_seed, replicates), CLUSTERS, confidence)


def _unit_spread(size):
    values = stats.norm.ppf((np.arange(size) + 0.5) / size)
    return (values - values.mean()) / values.std(ddof=1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
@settings(deadline=None)
def test_holm_is_closed_testing_with_bonferroni(p_values):
    """A claim holds when every set of claims with it is rejected by Bonferroni (Marcus, Peritz and Gabriel 1976)."""
    places = range(len(p_values))
    subsets = [one for size in range(1, len(p_values) + 1) for one in itertools.combinations(places, size)]
    for place, found in zip(places, holm(p_values), strict=True):
        with_it = [min(1.0, len(one) * min(p_values[other] for other in one)) for one in subsets if place in one]
        assert found == pytest.approx(max(with_it))


def test_holm_of_a_worked_example():
    # Holm (1979) as R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_one_sided_tests_are_halves_of_the_two_sided_one():
    found = effect(0.02)
    assert 2 * p_above(found, 0) == pytest.approx(found.p_value)
    assert p_above(found, 0) + p_below(found, 0) == pytest.approx(1)


@pytest.mark.parametrize(("value", "error"), [(0.0, 0.002), (0.004, 0.002), (0.01, 0.002), (0.03, 0.01)])
def test_equivalence_is_the_ninety_percent_interval_inside_the_margin(value, error):
    found = effect(value, error, spread=0.0)
    low, high, _ = t_test(found.value, found.standard_error, found.freedom, 1 - 2 * ALPHA)
    assert (p_equivalent(found, 0.01) < ALPHA) == (low > -0.01 and high < 0.01)


def test_a_certain_effect_is_inside_or_outside_for_sure():
    inside, outside = effect(0.0, 0.0, 0.0), effect(0.02, 0.0, 0.0)
    assert (p_equivalent(inside, 0.01), p_outside(inside, 0.01)) == (0, 1)
    assert (p_equivalent(outside, 0.01), p_outside(outside, 0.01)) == (1, 0)


def test_outside_the_margin_is_found_on_either_side():
    assert p_outside(effect(0.08), 0.01) < ALPHA
    assert p_outside(effect(-0.08), 0.01) < ALPHA
    assert p_outside(effect(0.0), 0.01) == 1


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.02), (6, 0.03), (4, 0.002)])
def test_power_is_what_simulation_finds(seeds, spread):
    """Experiments are drawn and tested as the report tests them, with the difference that is said to have 80 %.

    The degrees of freedom are estimated in every experiment, which the formula does not know: agreement to 5 points.
    """
    found = effect(spread=spread, seeds=seeds)
    true = detectable(found, ALPHA)
    generator = np.random.default_rng(0)
    trials = 20_000
    of_pairs = generator.normal(0, found.pairs_error, trials)
    of_seeds = generator.normal(0, spread, (trials, seeds))
    value, between = true + of_pairs + of_seeds.mean(axis=1), of_seeds.var(axis=1, ddof=1) / seeds
    within = found.pairs_error**2 * generator.chisquare(CLUSTERS - 1, trials) / (CLUSTERS - 1)
    freedom = np.array(
        [satterthwaite((one, CLUSTERS - 1), (other, seeds - 1)) for one, other in zip(within, between, strict=True)]
    )
    separated = np.abs(value) / np.sqrt(within + between) > stats.t.ppf(1 - ALPHA / 2, freedom)
    assert power_of(found, true, ALPHA, seeds) == pytest.approx(0.8, abs=1e-6)
    assert separated.mean() == pytest.approx(0.8, abs=0.05)


def test_without_an_effect_power_is_the_level():
    assert power_of(effect(), 0.0, ALPHA, 5) == pytest.approx(ALPHA, abs=1e-6)


def test_the_seeds_needed_are_the_fewest_that_reach_the_power():
    found = effect(value=0.03, spread=0.03)
    plan = needed(found, 1000, ALPHA)
    assert power_of(found, 0.03, ALPHA, plan.seeds) >= 0.8 > power_of(found, 0.03, ALPHA, plan.seeds - 1)


def test_the_pairs_needed_reach_the_power():
    found = effect(value=0.03, pairs_error=0.02, spread=0.003)
    plan = needed(found, 1000, ALPHA)
    assert plan.pairs > 1000
    assert power_of(found, 0.03, ALPHA, 3, plan.pairs / 1000) == pytest.approx(0.8, abs=0.005)


def test_more_pairs_do_not_help_where_seeds_differ_and_the_other_way_round():
    of_seeds = needed(effect(value=0.01, pairs_error=0.001, spread=0.05), 1000, ALPHA)
    assert of_seeds.pairs is None
    assert of_seeds.seeds > 100
    of_pairs = needed(effect(value=0.005, pairs_error=0.05, spread=0.0001), 1000, ALPHA)
    assert of_pairs.seeds is None
    assert of_pairs.pairs > 100_000


def test_one_seed_cannot_say_how_many_are_needed():
    plan = needed(effect(seeds=1), 1000, ALPHA)
    assert plan.seeds is None
    assert plan.pairs is not None


def test_what_is_detectable_has_the_power():
    found = effect()
    assert power_of(found, detectable(found, ALPHA), ALPHA, 3) == pytest.approx(0.8, abs=1e-6)
    assert detectable(effect(pairs_error=0.0, spread=0.0), ALPHA) == pytest.approx(0, abs=1e-12)


def test_a_difference_of_nothing_cannot_be_separated():
    plan = needed(effect(value=0.0), 1000, ALPHA)
    assert plan.seeds is None
    assert plan.pairs is None
    assert power_of(effect(), 1e-6, ALPHA, MOST_SEEDS) < 0.8
