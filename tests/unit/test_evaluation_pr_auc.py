import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from mlim.errors import DataError
from mlim.evaluation.pr_auc import (
    CURVE_POINTS,
    average_precision,
    bootstrap_interval,
    pr_curve,
    prevalence,
    resampled_average_precision,
)


@st.composite
def scored_pairs(draw, levels=8):
    """Labels of both kinds and scores on few levels, so that ties are common."""
    size = draw(st.integers(2, 40))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, 1)))
    labels[draw(st.integers(0, size - 1))] ^= int(labels.min() == labels.max())
    scores = draw(arrays(np.int64, size, elements=st.integers(0, levels))) / levels
    return labels, scores


def random_pairs(size, seed=0):
    generator = np.random.default_rng(seed)
    labels = (generator.random(size) < 0.4).astype(np.int64)
    return labels, labels * 0.3 + generator.random(size)


@given(scored_pairs())
def test_resampled_precision_is_scikit_learns_on_the_drawn_pairs(pairs):
    labels, scores = pairs
    ours = resampled_average_precision(labels, [scores], samples=3, seed=7)[0]
    generator = np.random.default_rng(7)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    for value in ours:
        drawn = np.concatenate(
            [
                positives[generator.integers(positives.size, size=positives.size)],
                negatives[generator.integers(negatives.size, size=negatives.size)],
            ]
        )
        truth = np.repeat([1, 0], [positives.size, negatives.size])
        assert value == pytest.approx(average_precision_score(truth, drawn), abs=1e-12)


@given(scored_pairs())
def test_a_monotone_transformation_changes_nothing(pairs):
    labels, scores = pairs
    assert average_precision(labels, np.exp(3 * scores)) == average_precision(labels, scores)
    before = resampled_average_precision(labels, [scores], samples=4, seed=1)
    np.testing.assert_array_equal(resampled_average_precision(labels, [scores**3 - 5], samples=4, seed=1), before)


@hypothesis_settings(deadline=None)
@given(scored_pairs())
def test_the_interval_holds_the_value_and_stays_within_0_and_1(pairs):
    interval = bootstrap_interval(*pairs, samples=30, confidence=0.9, seed=3)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_perfect_constant_and_reversed_scores():
    labels = np.array([1, 1, 0, 0, 0])
    assert average_precision(labels, np.array([0.9, 0.8, 0.3, 0.2, 0.1])) == 1
    assert average_precision(labels, np.full(5, 0.5)) == pytest.approx(prevalence(labels))
    assert average_precision(labels, -labels.astype(float)) == pytest.approx(prevalence(labels))


def test_the_interval_is_the_same_for_the_same_seed_and_narrows_with_more_pairs():
    small, large = random_pairs(300), random_pairs(5000)
    one = bootstrap_interval(*small, samples=200, confidence=0.95, seed=0)
    assert one == bootstrap_interval(*small, samples=200, confidence=0.95, seed=0)
    many = bootstrap_interval(*large, samples=200, confidence=0.95, seed=0)
    assert many.high - many.low < one.high - one.low


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = average_precision(*random_pairs(200_000, seed=99))
    intervals = [
        bootstrap_interval(*random_pairs(400, seed), samples=200, confidence=0.9, seed=0) for seed in range(60)
    ]
    covered = np.mean([one.low <= truth <= one.high for one in intervals])
    assert 0.78 <= covered <= 1


def test_the_curve_rises_in_recall_and_is_thinned():
    labels, scores = random_pairs(20_000)
    curve = pr_curve(labels, scores)
    assert len(curve) <= CURVE_POINTS
    assert curve.recall.is_monotonic_increasing
    assert curve.recall.iloc[0] == 0
    assert curve.recall.iloc[-1] == 1
    assert curve.precision.iloc[-1] == pytest.approx(prevalence(labels), abs=0.01)
    assert np.trapezoid(curve.precision, curve.recall) == pytest.approx(average_precision(labels, scores), abs=0.01)


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        ([1, 1], [0.1, 0.2], "both labels"),
        ([0, 0], [0.1, 0.2], "both labels"),
        ([0, 1], [0.1, np.nan], "not finite"),
        ([0, 1], [0.1], "do not belong together"),
        ([], [], "both labels"),
    ],
)
def test_what_has_no_pr_auc_is_refused(labels, scores, says):
    with pytest.raises(DataError, match=says):
        average_precision(np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float64))
