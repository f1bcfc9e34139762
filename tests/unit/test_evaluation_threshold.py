import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from mlim.evaluation.pr_auc import average_precision
from mlim.evaluation.threshold import IDENTITY, Calibration, calibrate, choose_threshold, decide


def pairs(size=2000, seed=0, sharpness=4.0):
    """Scores that are over-confident: the true logit times `sharpness`."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=size)
    labels = (generator.random(size) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    return labels, 1 / (1 + np.exp(-sharpness * logits))


@given(st.integers(0, 200), st.sampled_from([0.3, 0.5, 0.7, 0.9]))
def test_the_threshold_is_the_lowest_that_keeps_the_promise(seed, target):
    labels, scores = pairs(60, seed)
    chosen = choose_threshold(labels, scores, target, min_recall=0)
    lower = [value for value in scores if value < chosen.value]
    assert decide(labels, scores, chosen.value) == pytest.approx((chosen.precision, chosen.recall))
    if chosen.rule == "target-precision":
        assert chosen.precision >= target
        assert all(decide(labels, scores, value).precision < target for value in lower)


def test_an_unreachable_target_falls_back_to_the_best_f1_and_says_so():
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    chosen = choose_threshold(labels, scores, 0.95, min_recall=0)
    assert chosen == (0.7, pytest.approx(2 / 3), 1.0, "best-f1")


def test_calling_nothing_a_match_has_precision_0():
    assert decide(np.array([1, 0]), np.array([0.2, 0.1]), 0.5) == (0, 0)


def test_calibration_mends_over_confidence_and_keeps_the_order():
    labels, scores = pairs()
    fitted = calibrate(labels, scores)
    assert fitted.slope == pytest.approx(1 / 4, rel=0.2)
    test_labels, test_scores = pairs(seed=1)
    probabilities = fitted.apply(test_scores)
    assert brier_score_loss(test_labels, probabilities) < brier_score_loss(test_labels, test_scores)
    assert average_precision(test_labels, probabilities) == pytest.approx(average_precision(test_labels, test_scores))


def test_perfectly_separated_scores_give_finite_numbers():
    fitted = calibrate(np.array([0, 0, 1, 1]), np.array([0.0, 0.1, 0.9, 1.0]))
    assert all(np.isfinite(fitted))
    assert np.isfinite(fitted.apply(np.array([0.0, 0.5, 1.0]))).all()


def test_a_calibration_that_would_reverse_the_ranking_is_refused():
    labels, scores = pairs()
    assert calibrate(1 - labels, scores) == IDENTITY


def test_a_calibration_survives_json():
    labels, scores = pairs()
    fitted = calibrate(labels, scores)
    assert Calibration(**json.loads(json.dumps(fitted._asdict()))) == fitted


def test_a_handful_of_lucky_pairs_sets_no_threshold():
    labels = np.array([1] + [0, 1] * 20)
    scores = np.linspace(1, 0.1, len(labels))  # only the topmost pair is pure
    assert choose_threshold(labels, scores, 0.95, min_recall=0).rule == "target-precision"
    assert choose_threshold(labels, scores, 0.95, min_recall=0.1).rule == "best-f1"
