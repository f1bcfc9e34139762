"""What replaces a champion: each figure of a comparison against its limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.evaluation.promotion import (
    Answers,
    Decision,
    compare_answers,
    comparison_objections,
    slow_objections,
    standing_objections,
)
from mlim.evaluation.resampling import JudgedPairs, Resampling
from mlim.evaluation.threshold import calibration_error
from mlim.recipe import PromotionConfig
from mlim.report.decision import category_rows, decision_page, figure_rows

HOW = Resampling(samples=200, confidence=0.95, seed=0)
LIMITS = PromotionConfig()
LABELS = np.tile([1, 0], 60)
CATEGORIES = ["shirt"] * 60 + ["bag"] * 60
RIGHT = np.where(LABELS == 1, 0.9, 0.1)


def answers(probability, milliseconds=10.0):
    return Answers(np.asarray(probability), np.asarray(probability) >= 0.5, milliseconds)


def comparison(first, second, times=(10.0, 10.0), **known):
    both = answers(first, times[0]), answers(second, times[1])
    return compare_answers(JudgedPairs(LABELS), CATEGORIES, ("2", "1"), both, HOW, **known)


def noisy(share, categories=("shirt", "bag")):
    """The right answers, of which a share in some categories are turned over."""
    chosen = np.random.default_rng(0).random(LABELS.size) < share
    inside = np.isin(CATEGORIES, categories)
    return np.where(chosen & inside, 1 - RIGHT, RIGHT)


def codes(found, limits=LIMITS):
    return [objection.code for objection in comparison_objections(found, limits)]


def test_one_that_is_right_replaces_one_that_is_often_wrong():
    found = comparison(RIGHT, noisy(0.4))
    assert codes(found) == []
    assert found.difference.value == pytest.approx(found.first.pr_auc - found.second.pr_auc)
    assert 0 < found.difference.low <= found.difference.value <= found.difference.high


def test_one_that_answers_the_same_replaces_nothing():
    assert codes(comparison(noisy(0.3), noisy(0.3))) == ["not-better"]


def test_a_lead_can_be_asked_for_and_a_loss_allowed():
    found = comparison(RIGHT, noisy(0.4))
    assert codes(found, PromotionConfig(min_lead=found.difference.low)) == ["not-better"]
    assert codes(comparison(noisy(0.3), noisy(0.3)), PromotionConfig(min_lead=-0.01)) == []


def test_without_an_interval_nothing_is_replaced_and_the_reason_is_said():
    pairs = JudgedPairs(LABELS[:8])
    both = answers(RIGHT[:8]), answers(1 - RIGHT[:8])
    [objection] = comparison_objections(compare_answers(pairs, CATEGORIES[:8], ("2", "1"), both, HOW), LIMITS)
    assert objection.code == "not-better"
    assert "no interval" in objection.sentence


def test_a_category_that_falls_is_named_with_both_shares():
    """Better as a whole, worse on bags: the customers of bags would notice."""
    found = comparison(noisy(0.3, ["bag"]), noisy(0.6, ["shirt"]))
    assert [each.category for each in found.categories] == ["bag", "shirt"]  # the greatest fall first
    [objection] = [each for each in comparison_objections(found, LIMITS) if each.code == "category"]
    fallen = found.categories[0]
    assert "“bag”" in objection.sentence
    assert f"{100 * fallen.first_right:.1f} % of 60 pairs" in objection.sentence
    assert fallen.second_right == 1
    assert "category" not in codes(found, PromotionConfig(max_category_drop=fallen.drop))
    assert "category" not in codes(found, PromotionConfig(min_category_pairs=61))


def test_time_has_two_limits_and_both_are_off_by_default():
    found = comparison(RIGHT, noisy(0.4), times=(30.0, 10.0))
    assert codes(found) == []
    assert codes(found, PromotionConfig(max_slowdown=2)) == ["slow"]
    assert codes(found, PromotionConfig(max_slowdown=3)) == []
    assert codes(found, PromotionConfig(max_milliseconds=29)) == ["slow"]
    assert list(slow_objections(5.0, None, PromotionConfig(max_slowdown=0.1, max_milliseconds=6))) == []


@pytest.mark.parametrize(("validation", "stands"), [("passed", False), ("accepted by Ann: known", False)])
def test_data_that_passed_or_were_accepted_may_be_used(validation, stands):
    assert bool(standing_objections(validation, 0.0, None, LIMITS)) is stands


@pytest.mark.parametrize("validation", ["failed", "unknown"])
def test_other_data_stand_against_a_version_unless_the_policy_does_not_ask(validation):
    assert [each.code for each in standing_objections(validation, 0.0, None, LIMITS)] == ["validation"]
    assert standing_objections(validation, 0.0, None, PromotionConfig(validated=False)) == []


def test_bad_calibration_and_a_roll_back_stand_against_a_version():
    found = standing_objections("passed", 0.21, "blue shirts", LIMITS)
    assert [each.code for each in found] == ["calibration", "rolled-back"]
    assert "0.210" in found[0].sentence
    assert "blue shirts" in found[1].sentence


def test_the_calibration_error_of_known_answers():
    labels = np.repeat([0, 1], 50)
    assert calibration_error(labels.astype(float), labels) == 0
    assert calibration_error(1.0 - labels, labels) == 1
    assert calibration_error(np.full(100, 0.5), np.tile([0, 1], 50)) == pytest.approx(0)
    assert calibration_error(np.full(100, 0.8), np.tile([0, 1], 50)) == pytest.approx(0.3)


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_calibration_error_is_a_share_and_at_least_the_gap_of_the_means(pairs):
    """Bins cannot hide an error of the whole."""
    labels, probability = (np.asarray(column) for column in zip(*pairs, strict=True))
    error = calibration_error(probability, labels)
    assert abs(probability.mean() - labels.mean()) - 1e-9 <= error <= 1


def test_the_page_says_who_decided_what_and_why():
    found = comparison(RIGHT, noisy(0.4, ["bag"]), left_out=4, unknown=["1"])
    decision = Decision(
        model="m",
        version="2",
        time="2026-11-30T00:00:00+00:00",
        by="Ann",
        promoted=True,
        why="better",
        comparison=found,
    )
    page = decision_page(decision)
    assert page.startswith("# m version 2 is champion\n\nbetter.")
    assert "| test/pr_auc |" in page
    assert "| bag | 60 |" in page
    assert "4 test pairs are left out" in page
    assert "version 1 does not record" in page
    forced = decision.model_copy(update={"forced": "a talk", "comparison": None})
    assert "**Overruled, because:** a talk" in decision_page(forced)


def test_every_row_of_the_tables_has_a_cell_for_every_column():
    found = comparison(RIGHT, noisy(0.4))
    for rows in (figure_rows(found), category_rows(found)):
        assert len({len(row) for row in rows}) == 1
