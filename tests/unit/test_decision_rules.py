"""Threshold and calibration of each modality: what is stored with a model, and what an earlier version has instead."""

import numpy as np
import pandas as pd
import pytest

import mlim
from mlim.evaluation.threshold import Calibration, calibrate, choose_threshold
from mlim.matching.settings import DecisionRule
from mlim.steps.evaluate import Scored, _matcher_decision
from mlim.steps.packaged import rules_of_other_modalities
from tests.unit.test_loading import build

SCORES = np.array([0.1, 0.4, 0.6, 0.9])
RULES = {
    "text": DecisionRule(threshold=0.3, calibration=(1.5, -0.5)),
    "image": DecisionRule(threshold=0.7, calibration=(0.5, 0.2)),
}
EARLIER = {"matcher_threshold": 0.55, "matcher_calibration": (3.0, 0.0)}


@pytest.fixture(scope="module")
def saved(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    build(tiny_recipe, other_modalities=RULES, **EARLIER).save(folder)
    return folder


@pytest.mark.parametrize("modality", ["text", "image"])
def test_pairs_that_are_read_as_one_modality_are_decided_by_its_own_rule(saved, modality):
    model = mlim.load(saved, device="cpu")
    found, rule = model.decide(SCORES, modality), RULES[modality]
    assert model.threshold_of(modality) == rule.threshold
    np.testing.assert_array_equal(found.match, found.score >= rule.threshold)
    np.testing.assert_allclose(found.probability, Calibration(*rule.calibration).apply(SCORES))
    again = model.with_network(model.network)
    assert again.threshold_of(modality) == rule.threshold


def test_what_the_model_was_evaluated_on_is_decided_by_its_settings(saved):
    model = mlim.load(saved, device="cpu")
    found = model.decide(SCORES, "both")
    assert model.threshold_of("both") == model.threshold == 0.5
    np.testing.assert_array_equal(found.match, found.score >= model.threshold)
    np.testing.assert_allclose(found.probability, Calibration(2.0, 0.1).apply(SCORES))


@pytest.mark.parametrize(("settings", "rule"), [(EARLIER, (0.55, (3.0, 0.0))), ({}, (0.5, (2.0, 0.1)))])
def test_a_model_of_an_earlier_version_has_one_rule_for_other_modalities(tiny_recipe, tmp_path, settings, rule):
    build(tiny_recipe, **settings).save(tmp_path / "model")
    model, (threshold, calibration) = mlim.load(tmp_path / "model", device="cpu"), rule
    for modality in ("text", "image"):
        assert model.threshold_of(modality) == threshold
        expected = Calibration(*calibration).apply(SCORES)
        np.testing.assert_allclose(model.decide(SCORES, modality).probability, expected)


def test_every_modality_gets_the_rule_of_its_own_validation_scores(tiny_recipe):
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    frames = [
        pd.DataFrame({"label": labels, "split": "validation", "modality": modality, "score": scores})
        for modality, scores in {
            modality: 1 / (1 + np.exp(-(skill * (2 * labels - 1) + shift + generator.normal(size=200))))
            for modality, skill, shift in [("both", 2.0, 0.0), ("text", 1.0, 2.0), ("image", 1.0, -2.0)]
        }.items()
    ]
    scored = Scored(pd.concat(frames, ignore_index=True), pd.DataFrame(), pd.DataFrame(), "matcher")
    asked = tiny_recipe.evaluate.target_precision, tiny_recipe.evaluate.min_recall
    rules = {frame["modality"][0]: _matcher_decision(tiny_recipe, scored, frame["modality"][0]) for frame in frames}
    for frame in frames:
        scores, rule = frame["score"].to_numpy(), rules[frame["modality"][0]]
        assert rule["threshold"] == choose_threshold(labels, scores, *asked).value
        assert (rule["slope"], rule["intercept"]) == calibrate(labels, scores)
    kept = rules_of_other_modalities("both", {"matcher_by_modality": rules})
    assert {modality: rule.threshold for modality, rule in kept.items()} == {
        modality: rules[modality]["threshold"] for modality in ("text", "image")
    }
    assert kept["text"].threshold > kept["image"].threshold
    assert rules_of_other_modalities("both", {}) == {}  # figures of an earlier `mlim evaluate`
