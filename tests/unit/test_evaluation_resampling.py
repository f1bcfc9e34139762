"""Intervals of PR-AUC: right on simulated worlds where the truth is known, with families and with seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mlim.evaluation.curves import mean_pr_curve
from mlim.evaluation.metrics.accuracy import by_kind
from mlim.evaluation.pr_auc import Ranking, average_precision
from mlim.evaluation.resampling import (
    FEWEST_UNITS,
    JudgedExamples,
    JudgedPairs,
    Resampled,
    compare,
    compare_drawn,
    draw_weights,
    effect_of,
    resample,
    resample_measures,
    satterthwaite,
)
from mlim.evaluation.spreads import LEVEL, Pools, pooled_spread, spread_parts

SETTINGS = {"samples": 200, "confidence": 0.9, "seed": 0}
FAMILIES, PER_FAMILY = 60, 5
# Of 200 simulated worlds: nominal coverage 0.9 has a standard error of 0.021, so 0.84 is nearly three of them below.
WORLDS, LOWEST_COVERAGE = 200, 0.84


def world(seed, seeds=1, by_family=0.0, by_seed=0.0, noise=0.7, better=0.0):
    """Labelled pairs of families and two models that know the labels equally well (`better`: the first one more).

    `by_family` is how far a model is at home with a family or not, `by_seed` how far a training turns out well.
    """
    generator = np.random.default_rng(seed)
    size = FAMILIES * PER_FAMILY
    family = np.repeat(np.arange(FAMILIES), PER_FAMILY)
    labels = (generator.random(size) < 0.5).astype(np.int64)
    sides, common = 2 * labels - 1, generator.normal(0, 0.5, size)
    models = []
    for skill in (1 + better, 1):
        home = generator.normal(0, by_family, FAMILIES)[family]
        luck = generator.normal(0, by_seed, (seeds, 1))
        models.append((skill + luck + home) * sides + common + generator.normal(0, noise, (seeds, size)))
    return JudgedPairs(labels, np.stack([family, family], axis=1)), models[0], models[1]


def coverage(seeds, alone=False, **kind):
    """In which share of worlds the interval of a difference that is 0 holds 0."""
    held = 0
    for number in range(WORLDS):
        pairs, first, second = world(number, seeds, **kind)
        judged = JudgedPairs(pairs.labels) if alone else pairs
        found = compare(judged, first, second, **{**SETTINGS, "samples": 100})
        held += found.low <= 0 <= found.high
    return held / WORLDS


@given(st.integers(0, 10_000), st.integers(4, 60), st.booleans())
@settings(deadline=None, max_examples=60)
def test_weighted_average_precision_is_scikit_learns(seed, size, ties):
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(size) % 2)
    scores = generator.integers(0, 4, size).astype(float) if ties else generator.normal(size=size)
    weights = generator.integers(0, 4, (size, 3)).astype(float)
    weights[0], weights[-1] = 1, 1
    weights[np.argmax(labels)] = 1  # a match in each column
    found = Ranking(labels, scores).average_precision(weights)
    for column, value in zip(weights.T, found, strict=True):
        assert value == pytest.approx(average_precision_score(labels, scores, sample_weight=column))


def test_counts_are_repeats_of_pairs():
    pairs, first, _ = world(0)
    weights = np.random.default_rng(0).integers(0, 3, pairs.labels.size)
    (found,) = Ranking(pairs.labels, first[0]).average_precision(weights[:, None].astype(float))
    assert found == pytest.approx(average_precision(pairs.labels.repeat(weights), first[0].repeat(weights)))


@pytest.mark.parametrize("alone", [True, False])
def test_resamples_keep_the_weight_of_each_label(alone):
    pairs = world(0)[0]
    weights = draw_weights(JudgedPairs(pairs.labels) if alone else pairs, 50, np.random.default_rng(0))
    assert weights.shape == (pairs.labels.size, 50)
    for label in (0, 1):
        expected = (pairs.labels == label).sum()
        np.testing.assert_allclose(weights[pairs.labels == label].sum(axis=0), expected)


def test_pairs_of_a_family_come_and_go_together():
    pairs = world(0)[0]
    weights = draw_weights(pairs, 20, np.random.default_rng(1))
    gone = (weights == 0).reshape(FAMILIES, PER_FAMILY, -1)
    assert (gone.any(axis=1) == gone.all(axis=1)).all()
    assert 0.3 < gone.mean() < 0.45  # a family is missing from a resample with probability 1/e


def test_a_pair_across_two_families_counts_as_often_as_both_together():
    labels = np.array([1, 1, 1, 0, 0, 0])
    families = np.array([[0, 0], [1, 1], [0, 1], [0, 0], [1, 1], [1, 0]])
    weights = draw_weights(JudgedPairs(labels, families), 200, np.random.default_rng(0))
    np.testing.assert_array_equal(weights[2], weights[5])
    assert (weights[2] == 0).all()  # one of two families is drawn
    three = np.array([[0, 0], [1, 1], [0, 1], [2, 2], [1, 1], [0, 2]])
    weights = draw_weights(JudgedPairs(labels, three), 200, np.random.default_rng(0))
    assert ((weights[2] > 0) == ((weights[0] > 0) & (weights[1] > 0))).all()
    assert (weights[2] > 0).any()


def test_equal_scores_differ_by_nothing():
    pairs, first, _ = world(0, seeds=3)
    found = compare(pairs, first, first.copy(), **SETTINGS)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert not found.separated


@pytest.mark.parametrize("seeds", [1, 3])
def test_turning_the_question_round_turns_the_answer_round(seeds):
    pairs, first, second = world(0, seeds, by_seed=0.2, better=0.2)
    one, other = compare(pairs, first, second, **SETTINGS), compare(pairs, second, first, **SETTINGS)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))
    assert one.p_value == pytest.approx(other.p_value)


def test_a_clear_difference_is_separated():
    pairs, first, second = world(0, 3, better=1.0)
    found = compare(pairs, first, second, **SETTINGS)
    assert found.separated
    assert found.p_value < 0.01
    assert found.value == pytest.approx(
        np.mean([average_precision(pairs.labels, one) for one in first])
        - np.mean([average_precision(pairs.labels, one) for one in second])
    )
    assert found.seeds == 3
    assert found.clusters == FAMILIES


def test_families_whose_pairs_agree_make_the_interval_wider():
    pairs, first, second = world(0, by_family=1.0)
    alone = compare(JudgedPairs(pairs.labels), first, second, **SETTINGS)
    together = compare(pairs, first, second, **SETTINGS)
    assert together.pairs_error > 1.3 * alone.pairs_error
    assert together.high - together.low > alone.high - alone.low


def test_families_without_anything_in_common_change_little():
    errors = []
    for seed in range(10):
        pairs, first, second = world(seed)
        both = [compare(judged, first, second, **SETTINGS) for judged in (JudgedPairs(pairs.labels), pairs)]
        errors.append(both[1].pairs_error / both[0].pairs_error)
    assert np.mean(errors) == pytest.approx(1, abs=0.15)


def test_coverage_is_near_nominal_without_families():
    assert coverage(1, alone=True) >= LOWEST_COVERAGE


@pytest.mark.parametrize(("alone", "near"), [(False, True), (True, False)])
def test_coverage_is_near_nominal_with_families_where_the_naive_one_is_not(alone, near):
    assert (coverage(1, alone=alone, by_family=1.0) >= LOWEST_COVERAGE) is near


@pytest.mark.parametrize(("seeds", "near"), [(3, True), (1, False)])  # one seed cannot know
def test_coverage_is_near_nominal_over_seeds_where_pairs_alone_are_not(seeds, near):
    assert (coverage(seeds, by_seed=0.5, by_family=0.5) >= LOWEST_COVERAGE) is near


def test_the_spread_between_seeds_widens_the_interval():
    pairs, first, second = world(0, 4, by_seed=0.5)
    found = resample(pairs, {"first": first, "second": second}, 200, 0)
    apart = found["first"].minus(found["second"])
    effect = effect_of(apart, pairs.clusters, 0.9)
    assert effect.seeds_spread == pytest.approx(np.std(apart.by_seed, ddof=1))
    assert effect.standard_error**2 == pytest.approx(effect.pairs_error**2 + effect.seeds_spread**2 / 4)
    assert 3 <= effect.freedom <= FAMILIES - 1
    alone = effect_of(type(apart)(apart.by_seed[:1], apart.replicates[:1]), pairs.clusters, 0.9)
    assert alone.seeds_spread is None
    assert alone.freedom == FAMILIES - 1


def experiments(seeds, pooled, unsteady=1.0, number=1500, variants=(0, 1)):
    """How often the interval of a difference of two `variants` that is 0 holds 0 and leaves out one of 0.03.

    There are seven variants with spread 0.01.

    `unsteady`: how much more the first variant's trainings differ than those of the others.
    """
    generator = np.random.default_rng(0)
    one, other = variants
    held = separated = 0
    for _ in range(number):
        figures = generator.normal(0, 0.01, (7, seeds))
        figures[0] *= unsteady
        of_pairs = generator.normal(0, 0.003, 200)
        replicates = np.tile(of_pairs - of_pairs.mean(), (seeds, 1))
        apart = Resampled(figures[one] - figures[other] + generator.normal(0, 0.003), replicates)
        spread = Pools(dict(enumerate(figures))).between(one, other) if pooled else None
        found = effect_of(apart, 200, 0.95, spread)
        held += found.low <= 0 <= found.high
        separated += not found.low <= -0.03 <= found.high
    return held / number, separated / number


def test_the_spread_of_all_variants_makes_three_seeds_tell_more_and_is_as_safe():
    (alone, alone_power), (together, together_power) = experiments(3, False), experiments(3, True)
    assert together >= 0.94
    assert together >= alone
    assert together_power > alone_power + 0.1


@pytest.mark.parametrize("unsteady", [3.0, 6.0])
def test_an_unsteady_variant_is_judged_by_its_own_spread(unsteady):
    """Three or six times the spread of the others, which the pooled one underestimates: still near nominal."""
    assert experiments(3, True, unsteady)[0] >= 0.88


def test_an_unsteady_variant_does_not_blur_the_others():
    steady, power = experiments(3, True, unsteady=6.0, variants=(1, 2))
    assert steady >= 0.94
    assert power > experiments(3, False, variants=(1, 2))[1] + 0.1  # as if the unsteady variant were not there


def test_variants_are_pooled_with_those_of_like_spread():
    generator = np.random.default_rng(2)
    seeds = generator.normal(0, 1, 5)
    figures = {variant: seeds + generator.normal(0, 0.01, 5) for variant in "abcd"}
    figures |= {variant: seeds + generator.normal(0, 0.5, 5) for variant in "xy"}
    pools = Pools(figures)
    assert sorted(pools.groups) == [("a", "b", "c", "d"), ("x", "y")]
    found = pools.between("a", "c")
    assert (found.variants, found.freedom) == (("a", "b", "c", "d"), 3 * 4)
    assert found.value < 0.05 < pools.between("x", "y").value
    assert pools.between("a", "x") is None  # judged by the spread of their difference
    assert pools.between("a", "unknown") is None
    assert Pools({}).between("a", "b") is None
    assert Pools({variant: figure[:1] for variant, figure in figures.items()}).between("a", "b") is None


@pytest.mark.parametrize("variants", [5, 6])
def test_equal_variants_are_parted_as_seldom_as_the_level_says(variants):
    """However good each of them is."""
    generator = np.random.default_rng(2)
    levels = 10 * np.arange(variants)[:, None]
    worlds = [Pools(dict(enumerate(levels + generator.normal(size=(variants, 3))))) for _ in range(500)]
    assert np.mean([len(pools.groups) > 1 for pools in worlds]) == pytest.approx(LEVEL, abs=0.05)


@pytest.mark.parametrize("levels", [np.arange(7.0), np.array([3, 0, 1, 2, 4, 5, 6.0])])
def test_how_good_variants_are_does_not_decide_who_shares_a_spread(levels):
    noise = np.random.default_rng(5).normal(size=(7, 3)) * np.array([6, 1, 1, 1, 1, 1, 1])[:, None]
    assert Pools(dict(enumerate(noise + 100 * levels[:, None]))).groups == Pools(dict(enumerate(noise))).groups


def test_variants_without_any_spread_are_alike():
    same = {variant: np.full(3, value) for variant, value in (("a", 0.5), ("b", 0.6), ("c", 0.7))}
    assert Pools(same).groups == (("a", "b", "c"),)
    assert ("d",) in Pools({**same, "d": np.array([0.1, 0.5, 0.9])}).groups


def test_the_pooled_spread_is_that_of_a_difference_of_two_variants():
    generator = np.random.default_rng(0)
    figures = generator.normal(0, 0.01, (50, 40)) + generator.normal(0, 1, (50, 1)) + generator.normal(0, 1, 40)
    spread = pooled_spread([*figures])
    assert spread.freedom == 49 * 39
    assert spread.value == pytest.approx(np.sqrt(2) * 0.01, rel=0.05)
    one, other = figures[:2]
    assert pooled_spread([one, other]).value == pytest.approx(np.std(one - other, ddof=1))
    assert pooled_spread([one]) is None
    assert pooled_spread([one[:1], other[:1]]) is None
    assert pooled_spread([]) is None


def test_satterthwaite_lies_between_its_parts():
    assert satterthwaite((1.0, 10), (0.0, 2)) == pytest.approx(10)
    assert satterthwaite((0.0, 10), (1.0, 2)) == pytest.approx(2)
    # Two equal variances with equal degrees of freedom: twice as many (Welch).
    assert satterthwaite((1.0, 5), (1.0, 5)) == pytest.approx(10)


def test_resamples_depend_on_the_seed_alone():
    pairs, first, second = world(0)
    both = resample(pairs, {"a": first, "b": second}, 300, 7)
    alone = resample(pairs, {"b": second}, 300, 7)
    np.testing.assert_array_equal(both["b"].replicates, alone["b"].replicates)
    assert not np.array_equal(both["b"].replicates, resample(pairs, {"b": second}, 300, 8)["b"].replicates)


@pytest.mark.parametrize(
    ("labels", "families", "why"),
    [
        ([1, 0, 0, 0], None, "the test pairs hold 1 matches"),
        ([1, 1, 0, 0], [0, 0, 0, 0], "the test pairs hold matches of 1 families"),
        ([1, 0] * 9, [number // 2 for number in range(18)], "the test pairs hold matches of 9 families"),
        ([1] * 3 + [0] * 30, list(range(33)), "the test pairs hold matches of 3 families"),
        ([1] * 30 + [0] * 3, list(range(33)), "the test pairs hold mismatches of 3 families"),
    ],
)
def test_too_few_units_give_a_figure_but_no_interval_and_no_verdict(labels, families, why):
    """Point 6: with too few independent units there is no interval, no verdict, and one sentence why."""
    labels = np.array(labels)
    known = None if families is None else np.column_stack([families, families])
    found = compare(JudgedPairs(labels, known), np.stack([labels + 0.5]), np.zeros((1, labels.size)), **SETTINGS)
    assert found.value > 0
    assert found.why == f"{why}, fewer than the {FEWEST_UNITS} that an interval needs: no interval and no verdict"
    assert not found.separated
    assert found.interval == (found.value, None, None)
    assert found.difference == (found.value, None, None, None)


def test_enough_units_give_an_interval():
    labels = np.array([1, 0] * FEWEST_UNITS)
    families = np.repeat(np.arange(FEWEST_UNITS), 2)
    scores = np.random.default_rng(0).normal(size=(2, 1, labels.size)) + labels
    found = compare(JudgedPairs(labels, np.column_stack([families, families])), *scores, **SETTINGS)
    assert (found.why, found.low < found.value < found.high) == ("", True)


def test_labels_that_are_hardly_ever_drawn_together_give_no_interval():
    labels = np.repeat([1, 0], 10)
    found = resample(JudgedPairs(labels), {"a": labels[None] + 0.5}, 1, 0)["a"]
    assert found.why == "hardly a resample of the families holds both labels: no interval and no verdict"


def test_the_mean_curve_has_the_area_of_its_scorings():
    pairs, first, _ = world(0, 3)
    curve = mean_pr_curve(pairs.labels, [*first])
    area = np.mean([average_precision(pairs.labels, one) for one in first])
    assert curve["precision"].iloc[1:].mean() == pytest.approx(area, abs=0.01)
    assert curve["recall"].iloc[[0, -1]].tolist() == [0, 1]
    assert curve["precision"].iloc[-1] >= pairs.labels.mean()


def test_further_fine_tunings_are_averaged_within_their_seed():
    pairs, first, _ = world(0, 6)
    several = resample(pairs, {"a": first.reshape(3, 2, -1)}, 50, 0)["a"]
    single = resample(pairs, {"a": first}, 50, 0)["a"]
    np.testing.assert_allclose(several.by_seed, single.by_seed.reshape(3, 2).mean(axis=1))
    np.testing.assert_allclose(several.replicates, single.replicates.reshape(3, 2, -1).mean(axis=1))


def test_the_luck_of_pre_training_and_of_fine_tuning_are_told_apart():
    generator = np.random.default_rng(0)
    figures = [generator.normal(0, 0.03, (200, 1)) + generator.normal(0, 0.01, (200, 4)) for _ in range(3)]
    assert spread_parts(figures) == pytest.approx({"pretrainings": 0.03, "finetunings": 0.01}, rel=0.1)
    assert spread_parts([figures[0][:, :1]]) == {"pretrainings": None, "finetunings": None}
    assert spread_parts([figures[0][:1]])["pretrainings"] is None


def test_a_kind_that_few_units_have_gets_no_interval():
    """Two pictures with a question about numbers say nothing of such questions, however many have others."""
    kinds, rest = ["number"] * 2 + ["binary"] * 198, np.arange(198) % 3 > 0
    measures = {
        "a": [[by_kind(np.concatenate([[0.0, 0.0], rest]), kinds)]],
        "b": [[by_kind(np.concatenate([[1.0, 1.0], ~rest]), kinds)]],
    }
    every, of_kind = (
        compare_drawn(drawn, 200, 0.95)["b"].minus_first
        for drawn in resample_measures(JudgedExamples(np.arange(200)), measures, 200, 0)[::2]
    )
    assert (every.why, every.clusters) == ("", 200)
    assert "2 independent units hold an example of this kind" in of_kind.why
    assert np.isnan([of_kind.low, of_kind.high, of_kind.p_value]).all()
    assert of_kind.value == 1


class Counted:
    """A measure of one figure that counts the columns of weights it is asked about."""

    def __init__(self, examples):
        self.examples, self.columns = examples, 0

    def figures(self, weights):
        self.columns += weights.shape[1]
        return weights.mean(axis=0)[None]

    def about(self):
        return np.ones((1, self.examples), dtype=bool)


@pytest.mark.parametrize("units", [20, 2000])
def test_how_many_units_hold_an_example_takes_no_resample_of_each(units):
    measure = Counted(3 * units)
    drawn = resample_measures(JudgedExamples(np.repeat(np.arange(units), 3)), {"a": [[measure]]}, 50, 0)
    assert drawn[0]["a"].units == units
    assert measure.columns == 1 + 50  # the figure and its resamples, however many units there are
