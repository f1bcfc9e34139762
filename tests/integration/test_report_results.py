"""The report step with a real tracking store, and the document that is written from what it stored."""

import importlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_results import fill

from mlim.cli.main import main
from mlim.errors import InputError
from mlim.files import read_json, sha256_of, write_json
from mlim.report.kit import formats
from mlim.report.results import BEGIN, END, RESULTS_FILE, write_results
from mlim.steps.report import CLAIM_TAG, EFFECTS_FILE, VARIANTS_FILE, report
from mlim.tracking import ATTRIBUTE_TAG, CATALOG_TAG, COMPLETE_STAGE, MATCH_STAGE, client, stage_run
from mlim.versions import lineage

pytestmark = pytest.mark.integration


@pytest.fixture
def recipe(tiny_recipe, tmp_path, new_store):
    tracking = tiny_recipe.tracking.model_copy(update={"uri": new_store(tmp_path / "mlflow.db")})
    return tiny_recipe.model_copy(update={"tracking": tracking})


def ends(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


MATCHED = {
    **{"model": "models:/mlim-matcher/1", "items": 1000, "candidates": 4000, "share_of_all_pairs": 0.008},
    **{"matches": 900, "threshold": 0.5, "groups": 300, "grouped_items": 800, "largest_group": 5, "promise": ""},
    "pair_completeness": {
        "test": {"all": {"share": 0.99, "matches": 200}, "colour differs": {"share": 0.98, "matches": 50}}
    },
    "recall_at": {
        "test": {"text": {kind: {"1": 0.5, "10": 0.9, "20": 0.95, "60": 0.97} for kind in ("all", "colour differs")}}
    },
    "groups_on_test_pairs": {
        kind: {"precision": ends(0.9), "recall": ends(0.8), "f1": ends(0.85)} for kind in ("pairwise", "b_cubed")
    },
}
COMPLETED = {
    "attribute": "colour",
    "pretraining": "recon-mlm-mam",
    "test": {
        "cells": 80,
        "exact_match": {"model": ends(0.7)},
        "model_minus": {name: ends(0.2) for name in ("most frequent", "trees", "model without picture")},
    },
}


def label_point(pairs, first, second):
    ends = [{"value": value, "low": value - 0.02, "high": value + 0.02} for value in (first, second, first - second)]
    difference = {**ends[2], "p_value": 0.01}
    return {"pairs": pairs, "seeds": 3, "pretrained": ends[0], "unpretrained": ends[1], "difference": difference}


def test_results_are_written_from_the_latest_report(recipe, own_workspace, quiet, tmp_path):
    fill(own_workspace, recipe)
    first, second = report(recipe, own_workspace, quiet), report(recipe, own_workspace, quiet)
    assert first["sha256"] == second["sha256"] == sha256_of(own_workspace.report / "index.html")
    assert read_json(own_workspace.report / "summary.json") == second
    stored = {entry.path for entry in client(recipe.tracking).list_artifacts(second["run_id"])}
    assert {"index.html", RESULTS_FILE, EFFECTS_FILE, VARIANTS_FILE} <= stored
    tags = client(recipe.tracking).get_run(second["run_id"]).data.tags
    assert tags[f"{CLAIM_TAG}pretraining"] in ("supported", "not separated")
    assert tags[f"{CLAIM_TAG}shared-mask"] == "not measured"

    out = tmp_path / "results.md"
    out.write_text(f"# By hand\n\n{BEGIN}\nold\n{END}\n\nkept\n")
    assert write_results(recipe.tracking, out) == 1
    text = out.read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith("\n\nkept\n")
    assert "\nold\n" not in text
    assert "| RECON + MLM + MAM | 0.822 | 0.804 to 0.840 |" in text
    assert "Does pre-training pay?" not in text  # nobody measured it
    assert "| Gradient-boosted trees | 0.851 | 0.833 to 0.869 |" in text
    assert "missing-image 1, no-text 1" in text
    assert "What is not shown:" in text
    assert "No result here is of the embedded synthetic catalog;" in text
    assert "(results-effects.svg)" in text
    assert (tmp_path / "results-effects.svg").read_text().startswith("<?xml")
    assert "\n- trained on " in text
    assert write_results(recipe.tracking, out) == 1
    assert out.read_text() == text

    beside = out.with_suffix(".json")  # as if it had been measured on a machine whose MLflow is not here
    curve = [label_point(500, 0.7, 0.6), label_point(1500, 0.8, 0.75)]
    other = {"catalog": "far/away.yaml", "dirty": False, "label_curve": curve}
    elsewhere = [{**each, **other} for each in read_json(beside)]
    write_json(beside, elsewhere)
    assert write_results(recipe.tracking, out) == 2
    assert write_results(recipe.tracking, out) == 2
    both = out.read_text()
    assert both.count("| RECON + MLM + MAM | 0.822 |") == 2
    assert f"## Recipe `{recipe.name}` on `far/away.yaml`" in both
    assert "away, tiny, 40 items:" in both
    assert "| 1,500 | 0.800 [0.780, 0.820] | 0.750 [0.730, 0.770] | +0.050 [+0.030, +0.070] | 0.010 | 3 |" in both
    assert (tmp_path / "results-labels.svg").read_text().startswith("<?xml")
    assert [each["catalog"] for each in read_json(beside)].count("far/away.yaml") == 1

    (own_workspace.report / "by-hand.md").write_text("# no block\n")
    with pytest.raises(InputError, match="has no block"):
        write_results(recipe.tracking, own_workspace.report / "by-hand.md")
    for foreign in ('{"my": "notes"}', "[1]", '[{"recipe": "x"}]', "{"):
        (tmp_path / "notes.json").write_text(foreign)
        with pytest.raises(InputError, match=r"notes\.json: is not what `mlim results` keeps"):
            write_results(recipe.tracking, tmp_path / "notes.md")
        assert (tmp_path / "notes.json").read_text() == foreign
        assert not (tmp_path / "notes-effects.svg").exists()
    with pytest.raises(InputError, match="holds no finished report"):
        write_results(recipe.tracking, tmp_path / "new.md", experiment="another")


def test_what_was_found_in_the_whole_catalog_stands_beside_the_report(recipe, own_workspace, quiet, tmp_path):
    fill(own_workspace, recipe)
    report(recipe, own_workspace, quiet)
    for stage, name, summary in (
        (MATCH_STAGE, "match", {**MATCHED, "matches": 1}),
        (MATCH_STAGE, "match", MATCHED),
        (COMPLETE_STAGE, "material", {**COMPLETED, "attribute": "material"}),
        (COMPLETE_STAGE, "colour", COMPLETED),
    ):
        write_json(tmp_path / "summary.json", summary)
        origin = lineage(own_workspace)
        with stage_run(recipe.record, own_workspace, stage, name, origin) as run:
            run.tag(CATALOG_TAG, origin.catalog)
            run.tag(ATTRIBUTE_TAG, summary.get("attribute", ""))
            run.artifact(tmp_path / "summary.json")
    write_results(recipe.tracking, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "4,000 candidates of 1,000 items (0.8 % of all pairs), 900 of them matches at 0.500" in text
    assert "| known test matches | number | among the candidates | text, nearest 10 | text, nearest 60 |" in text
    assert "| colour differs | 50 | 98.0 % | 90.0 % | 97.0 % |" in text
    assert "| B-cubed | 0.900 [0.880, 0.920] | 0.800 [0.780, 0.820] | 0.850 [0.830, 0.870] |" in text
    assert "| colour | 80 | recon-mlm-mam: 0.700 [0.680, 0.720] | +0.200 [+0.180, +0.220] |" in text
    assert text.index("| colour | 80 |") < text.index("| material | 80 |")


def simulated(families, items):
    """Candidates inside families whose first similarity tells most matches."""
    generator = np.random.default_rng(0)
    ids = [[f"{family}-{item}" for item in range(items)] for family in range(families)]
    pairs = pd.DataFrame([pair for of in ids for pair in combinations(of, 2)], columns=["item_a", "item_b"])
    truth = generator.random(len(pairs)) < 0.4
    features = (truth[:, None] + generator.normal(0, 0.6, size=(len(pairs), 2))).astype(np.float32)
    return pairs, features, truth, {item: str(family) for family, of in enumerate(ids) for item in of}


def test_a_simulated_review_is_tracked_and_shown(recipe, own_workspace, quiet, tmp_path, monkeypatch):
    """The learning curves of a few labels, as the benchmark draws them, and what the page says of them."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    reviewing = importlib.import_module("reviewing")
    given = reviewing.Candidates(*simulated(30, 4))
    forest = reviewing.Forest(given.features, given.truth, trees=5)
    curves = {
        way: [list(reviewing.learning_curve(way, given, forest, 30, 10, seed)) for seed in (0, 1)]
        for way in reviewing.WAYS
    }
    assert {answered for of in curves["random"] for answered, *_ in of} == {10, 20, 30}
    found = reviewing.summary(given, curves, 0.95)
    fill(own_workspace, recipe)
    report(recipe, own_workspace, quiet)
    reviewing.keep(found, recipe, own_workspace)
    assert read_json(own_workspace.simulated_review / "summary.json") == found
    write_results(recipe.tracking, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "180 candidates" in text
    of_random = found["ways"]["random"]["pr_auc"][-1]
    assert f"30 random labels reach a PR-AUC of {of_random:.3f}" in text
    assert f"| random | {of_random:.3f} | 30 |" in text


def test_how_often_a_promise_is_kept_is_shown_where_it_was_measured(recipe, own_workspace, quiet, tmp_path):
    fill(own_workspace, recipe)
    report(recipe, own_workspace, quiet)
    write_results(recipe.tracking, tmp_path / "results.md")
    assert "Promised precision" not in (tmp_path / "results.md").read_text()  # evaluated by an earlier version
    told = {"resamples": 100, "families": 40}
    kept = [
        {"target": 0.95, **told, "promised": 90, "kept": 88, "share": {"value": 88 / 90, "low": 0.922, "high": 0.997}},
        {"target": 0.98, **told, "promised": 0, "kept": 0, "share": None},
    ]
    summary = own_workspace.evaluation / "summary.json"
    write_json(summary, {**read_json(summary), "kept_promises": kept})
    report(recipe, own_workspace, quiet)
    write_results(recipe.tracking, tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "100 times 40 families of the test pairs are drawn" in text
    assert "| 0.95 | 90 | 88 | 0.978 [0.922, 0.997] |" in text
    assert f"| 0.98 | 0 | 0 | {formats.MISSING} |" in text


def test_one_command_makes_the_report_and_the_page_of_results(recipe, own_workspace, monkeypatch, tmp_path):
    fill(own_workspace, recipe)
    (tmp_path / "given.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    options = ["--recipe", tmp_path / "given.yaml", "--work", own_workspace.root, "--results", tmp_path / "page.md"]
    monkeypatch.setattr("sys.argv", ["mlim", "report", *map(str, options), "--quiet"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "| RECON + MLM + MAM | 0.822 |" in (tmp_path / "page.md").read_text()


def test_a_report_of_nothing_says_what_to_run(recipe, own_workspace, quiet, tmp_path):
    empty = type(own_workspace)(tmp_path / "empty")
    with pytest.raises(InputError, match="run `mlim ingest` first"):
        report(recipe, empty, quiet)
