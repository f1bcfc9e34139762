"""Model and data cards: the format that Hugging Face reads, and figures that come from the results."""

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard

from mlim.evaluation.groups import ACROSS, describe_pairs, group_figures
from mlim.evaluation.pr_auc import average_precision
from mlim.report.cards import data_card, markdown_table, model_card

LINEAGE = {"commit": "0123abc", "dirty": True, "data_version": "feed", "validation": "passed"}
INTERVAL = {"value": 0.8224, "low": 0.8, "high": 0.84}
METRICS = {
    "modality": "both",
    "kinds": [{"group": "shape", "pairs": 70, "matches": 0, "pr_auc": 0.7, "right": 0.5, "wrong": 35}],
    "pr_auc": {"both": INTERVAL, "text": {"value": 0.7, "low": 0.68, "high": 0.72}},
    "pairs": 1968,
    "prevalence": 0.669,
    "threshold": 0.61,
    "threshold_rule": "target-precision",
    "precision_at_threshold": 0.88,
    "recall_at_threshold": 0.54,
    "baselines": {"boosted-trees": {"value": 0.851, "low": 0.84, "high": 0.86}},
    "registered": {"scorer": "stack", "pr_auc": {"value": 0.9, "low": 0.88, "high": 0.92}, "baselines": {}},
    "boosted_trees_win": True,
}
BEHAVIOUR = {
    **{"pairs": 200, "swap_difference": 1e-7, "items": 150, "identical_right": 0.98},
    **{"matches": 120, "matching": 0.8, "unrelated": {"image": 0.4, "text": 0.7}},
}
JUDGED = {"objections": [], "behaviour": BEHAVIOUR, "forced": None, "why": "champion, the first of this model"}
REFUSED = {
    **JUDGED,
    "objections": [{"code": "baseline", "sentence": "Baseline `boosted-trees` is better."}],
    "why": "champion, the first of this model; forced against objections (baseline): a talk",
    "forced": "a talk",
}
PAIRS = {
    "counts": {"train": {"0": 100, "1": 1200}, "test": {"0": 40, "1": 60}},
    "prevalence": 0.6,
    "kinds": {"same pattern": 60, "pattern differs": 40},
    "leak_audit": [
        {"rule": "text is equal", "pr_auc": 0.68, "leaks": False},
        {"rule": "same colour", "pr_auc": 0.99, "leaks": True},
    ],
    "test_pairs_sha256": "beef",
}
INGEST = {
    "rows_in": 120,
    "ingested": 110,
    "catalog": "catalogs/x.yaml",
    "data_version": "f00d",
    "quarantined": {"a": 10},
}
VALIDATION = {"accepted": 105, "quarantined": {"b": 5}}


@pytest.fixture
def described():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    kinds = np.where(labels == 1, "same", generator.choice(["colour", "shape"], 200))
    scores = labels + generator.normal(size=200) + (kinds == "shape")
    category = generator.choice(["bags", "shirts"], 200)
    return pd.DataFrame({"label": labels, "score": scores, "kind": kinds, "category": category})


def group_of(figures, name):
    return figures.set_index("group").loc[name]


def test_a_group_with_all_pairs_is_the_whole(described):
    (row,) = group_figures(described.assign(all="all"), "all", 0.5).to_dict("records")
    assert row["pairs"] == 200
    assert row["pr_auc"] == pytest.approx(
        average_precision(described["label"].to_numpy(), described["score"].to_numpy())
    )


def test_a_kind_of_one_label_stands_among_all_pairs_of_the_other(described):
    figures = group_figures(described, "kind", 0.5)
    assert set(figures["group"]) == {"same", "colour", "shape"}
    labels, scores = described["label"].to_numpy(), described["score"].to_numpy()
    assert group_of(figures, "same")["pr_auc"] == pytest.approx(average_precision(labels, scores))
    # Mismatches in shape were given higher scores: they are harder, and those in colour easier.
    assert group_of(figures, "shape")["pr_auc"] < group_of(figures, "same")["pr_auc"]
    assert group_of(figures, "colour")["pr_auc"] > group_of(figures, "same")["pr_auc"]
    shape = described[described["kind"] == "shape"]
    assert group_of(figures, "shape")["right"] == pytest.approx((shape["score"] < 0.5).mean())
    assert group_of(figures, "shape")["matches"] == 0


def test_a_group_is_judged_at_the_share_of_matches_of_the_whole():
    """Doubling the mismatches of one group only, copy by copy, changes nothing but its count."""
    labels = np.array([1, 0, 1, 0, 1, 0, 1, 0])
    frame = pd.DataFrame({"label": labels, "score": [8, 7, 6, 5, 4, 3, 2, 1.0], "category": ["a"] * 4 + ["b"] * 4})
    rows = pd.concat([frame, frame[(frame["category"] == "a") & (frame["label"] == 0)]])
    found = group_of(group_figures(rows, "category", 0.5), "a")
    weights = {1: 4 / 2, 0: 6 / 4}
    by_hand = np.mean([1, 2 * weights[1] / (2 * weights[1] + 2 * weights[0])])
    assert found["pr_auc"] == pytest.approx(by_hand)
    assert found["pairs"] == 6


def test_pairs_get_kind_and_category():
    scores = pd.DataFrame({"item_a": ["a", "b"], "item_b": ["b", "c"], "label": [1, 0], "score": [0.9, 0.2]})
    pairs = pd.DataFrame({"item_a": ["b", "a"], "item_b": ["c", "b"], "kind": ["colour", "same"]})
    found = describe_pairs(scores, pairs, {"a": "bags", "b": "bags", "c": "shirts"})
    assert found["kind"].tolist() == ["same", "colour"]
    assert found["category"].tolist() == ["bags", ACROSS]


def test_the_model_card_is_what_hugging_face_reads(tiny_recipe, described):
    by_kind, by_category = (group_figures(described, column, 0.5) for column in ("kind", "category"))
    text = model_card(tiny_recipe, METRICS, LINEAGE, "catalogs/x.yaml", JUDGED, by_category, by_kind)
    card = ModelCard(text)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("pr_auc", 0.9, "catalogs/x.yaml")
    assert result.dataset_revision == "feed"
    assert card.data.library_name == "mlim"
    assert text.index("## Can you use this? Yes") < text.index("## Intended use")
    for words in (
        "Most errors by kind of variation: “shape”, 35 of 70 pairs.",
        "98.0 % of 150 items match themselves.",
        "mean probability of 120 matching pairs is 0.400; with their own it is 0.800",
        "## Intended use",
        "text and picture: PR-AUC 0.822 [0.800, 0.840]",
        "Gradient-boosted trees: PR-AUC 0.851",
        "0123abc` with uncommitted changes",
        "A score of 0.610 or more",
        "### By category",
        "| bags |",
        "### By kind of variation",
        "## Limits",
        "consider them first",
        "Weakest on “shape”",
    ):
        assert words in text


def test_a_threshold_that_keeps_a_promise_was_chosen_on_the_test_pairs(tiny_recipe, described):
    groups = group_figures(described, "kind", 0.5)
    cards = [
        model_card(tiny_recipe, {**METRICS, "threshold_rule": rule}, LINEAGE, "x.yaml", JUDGED, groups, groups)
        for rule in ("target-precision", "promised-recall")
    ]
    assert "was chosen on validation pairs (target-precision)" in cards[0]
    assert "was chosen on the test pairs (promised-recall)" in cards[1]


def test_small_groups_and_a_model_that_wins_are_reported_so(tiny_recipe, described):
    few = group_figures(described.head(19), "category", 0.5)
    text = model_card(tiny_recipe, {**METRICS, "boosted_trees_win": False}, LINEAGE, "x", REFUSED, few, few)
    assert "### By category" not in text
    assert "consider them first" not in text
    assert "Weakest" not in text
    assert (
        "## Can you use this? Not yet: one reason stands against it.\n\n- Baseline `boosted-trees` is better." in text
    )
    assert "It was made champion against these objections, because: a talk" in text


def test_the_data_card_is_what_hugging_face_reads(tiny_recipe):
    text = data_card(tiny_recipe, INGEST, VALIDATION, PAIRS, LINEAGE)
    card = DatasetCard(text)
    assert card.data.size_categories == ["n<1K"]
    assert yaml.safe_load(text.split("---")[1])["pretty_name"] == "catalogs/x.yaml"
    for words in (
        "Quarantined: a 10, b 5.",
        "| train | 1,200 | 100 |",
        "PR-AUC 0.990 (same colour)",
        "The pairs leak: same colour.",
        "same pattern 60, pattern differs 40",
        "items `f00d`",
        "`beef`",
    ):
        assert words in text


def test_a_data_card_of_next_to_nothing_is_possible(tiny_recipe):
    text = data_card(tiny_recipe, {}, {"accepted": 2_000_000}, {}, {})
    assert DatasetCard(text).data.size_categories == ["n>1M"]
    assert "The leak audit has not run." in text


def test_equal_results_give_equal_text(tiny_recipe, described):
    kinds = group_figures(described, "kind", 0.5)
    first, second = (model_card(tiny_recipe, METRICS, LINEAGE, "x", JUDGED, kinds, kinds) for _ in range(2))
    assert first == second


def test_a_cell_cannot_break_its_table():
    table = markdown_table(("a", "b"), [("x | y", "two\nlines")])
    assert table.splitlines()[-1] == "| x \\| y | two lines |"
