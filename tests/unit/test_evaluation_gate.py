"""The quality gate: which figures of an evaluation stand against a champion, and which do not."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlim.evaluation.gate import kinds_of, objections
from mlim.evaluation.groups import group_figures
from mlim.recipe import GateConfig

LIMITS = GateConfig()
shares = st.floats(0, 1)


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


GOOD = {
    "modality": "both",
    "prevalence": 0.4,
    "no_interval": None,
    "called_matches": 0.35,
}
REACHED = interval(0.9, 0.87, 0.93)
BEHIND = {"boosted-trees": {**interval(0.85, 0.8, 0.9), "difference_to_registered": interval(-0.05, -0.08, -0.01)}}
KINDS = [{"group": "colour differs", "pairs": 60, "matches": 0, "right": 0.8, "wrong": 12}]


def metrics_of(pr_auc=REACHED, baselines=BEHIND, **changes):
    return {**GOOD, "registered": {"scorer": "stack", "pr_auc": pr_auc, "baselines": baselines}, **changes}


def codes(limits=LIMITS, kinds=KINDS, **changes):
    return [objection.code for objection in objections(metrics_of(**changes), kinds, limits)]


def test_a_good_model_has_nothing_against_it():
    assert codes() == []


@given(low=shares, chance=shares)
def test_the_interval_has_to_lie_above_chance(low, chance):
    found = codes(pr_auc=interval(0.99, low, 1.0), prevalence=chance, called_matches=0.5)
    assert ("chance" in found) == (low <= chance)


def test_without_an_interval_nothing_is_shown_and_the_reason_is_reported():
    metrics = metrics_of(pr_auc=interval(0.99, None, None), no_interval="the test pairs are of 2 families")
    [objection] = objections(metrics, KINDS, LIMITS)
    assert objection.code == "chance"
    assert "the test pairs are of 2 families" in objection.sentence


@given(low=st.floats(-1, 1) | st.none())
def test_a_baseline_counts_where_its_lead_is_beyond_doubt(low):
    lead = interval(0.02, low, None if low is None else 1.0)
    found = codes(baselines={"boosted-trees": {**interval(0.92, 0.8, 0.95), "difference_to_registered": lead}})
    assert found == (["baseline"] if low is not None and low > 0 else [])


@given(called=shares, chance=shares)
def test_one_answer_is_refused_unless_the_data_have_one_label(called, chance):
    found = codes(called_matches=called, prevalence=chance, pr_auc=interval(2.0, 1.5, 2.5))
    most = LIMITS.max_one_answer
    expected = (called > most and chance <= most) or (1 - called > most and 1 - chance <= most)
    assert found == (["one-answer"] if expected else [])


@pytest.mark.parametrize(("pairs", "right", "refused"), [(20, 0.04, True), (19, 0.0, False), (200, 0.05, False)])
def test_a_kind_that_is_always_wrong(pairs, right, refused):
    kinds = [*KINDS, {"group": "size differs", "pairs": pairs, "matches": 0, "right": right, "wrong": 0}]
    assert codes(kinds=kinds) == (["wrong-kind"] if refused else [])


def test_limits_of_the_recipe_turn_every_rule_off():
    off = GateConfig(above_chance=False, above_baselines=False, max_one_answer=1, min_kind_right=0)
    useless = {
        "pr_auc": interval(0.4, None, None),
        "called_matches": 1.0,
        "baselines": {"tfidf-cosine": {**interval(0.9, 0.8, 1.0), "difference_to_registered": interval(0.5, 0.4, 0.6)}},
    }
    wrong = [{"group": "colour differs", "pairs": 60, "matches": 0, "right": 0.0, "wrong": 60}]
    assert codes(kinds=wrong, **useless) == ["chance", "baseline", "one-answer", "wrong-kind"]
    assert codes(limits=off, kinds=wrong, **useless) == []


def test_pictures_that_are_all_copies_are_a_kind_that_is_always_wrong():
    """Items that look alike have one score: every mismatch is called a match, at whatever threshold finds matches."""
    pairs = pd.DataFrame({"label": [1] * 40 + [0] * 60, "score": 0.5, "kind": ["same"] * 40 + ["pattern differs"] * 60})
    kinds = kinds_of(group_figures(pairs, "kind", 0.5))
    assert [(kind["group"], kind["wrong"]) for kind in kinds] == [("pattern differs", 60), ("same", 0)]
    found = codes(kinds=kinds, pr_auc=interval(0.4, 0.33, 0.47), called_matches=1.0)
    assert found == ["chance", "one-answer", "wrong-kind"]
