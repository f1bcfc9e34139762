"""From a catalog to a folder that a person opens: `mlim match`."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlim.errors import InputError
from mlim.evaluation.gate import GateDecision, Objection, plain
from mlim.evaluation.promise import Promise
from mlim.files import read_csv, read_json, write_json
from mlim.matching.catalog_drift import CatalogProfile, read_profile
from mlim.recipe import load_recipe
from mlim.steps import match as step
from mlim.steps.ingest import ingest
from mlim.steps.match import match
from mlim.steps.score import prepared_for
from mlim.tracking import client, recipe_sha256
from mlim.workspace import Workspace
from tests.small_catalog import small_catalog
from tests.unit.test_loading import build

pytestmark = pytest.mark.integration

FILES = {
    *("pairs.parquet", "pairs.csv", "groups.parquet", "groups.csv", "conflicts.csv", "rejected.parquet"),
    *("rejected.csv", "items.parquet", "explanations.json", "matches.html", "summary.json", ".mlim-folder"),
}


@pytest.fixture
def model(tiny_recipe):
    return build(tiny_recipe, "separate")


def recipe_of(model):
    given = load_recipe(
        "demo", ["ingest.workers=1", "validation.max_quarantined_share=0.9", "validation.min_contrast=0"]
    )
    return prepared_for(given, model.settings)


def run(model, shop, tmp_path, quiet, **changes):
    recipe = recipe_of(model)
    catalog = shop.write() if changes.pop("write", True) else shop.description
    work, out = Workspace(tmp_path / "work"), tmp_path / changes.pop("out", "out")
    return match(model, "model", catalog, out, recipe, work, quiet, workers=1, **changes)


def test_a_catalog_becomes_pairs_groups_rejected_rows_and_a_page(model, tmp_path, quiet):
    shop = small_catalog(tmp_path / "shop", rows=12)
    shop.rows[3]["title"] = "<script>alert(1)</script>"
    shop.rows[4]["picture"] = "gone.png"
    summary = run(model, shop, tmp_path, quiet)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == FILES
    pairs = pd.read_parquet(out / "pairs.parquet")
    assert len(pairs) == len(read_csv(out / "pairs.csv")) == summary["candidates"] == summary["scored"] > 0
    assert set(read_csv(out / "groups.csv")[0]) == {"item", "group", "role", "size"}
    rejected = {row["id"]: row["reason"] for row in read_csv(out / "rejected.csv")}
    assert rejected["004"] == "missing-image"
    assert read_json(out / "summary.json")["rejected"] == summary["rejected"]
    assert len(rejected) == sum(summary["rejected"].values()) == 12 - summary["items"]
    page = (out / "matches.html").read_text()
    assert "<script>alert(1)" not in page
    assert page.count("<script>") == 1
    assert page.count("<summary>Why</summary>") == min(20, summary["scored"])
    assert f"mlim explain --model model --work {tmp_path / 'work'} -- 00" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    again = run(model, shop, tmp_path, quiet, write=False)
    assert again["groups"] == summary["groups"]


def test_a_catalog_of_one_item_has_no_matches(model, tmp_path, quiet):
    summary = run(model, small_catalog(tmp_path / "shop", rows=1), tmp_path, quiet)
    assert (summary["items"], summary["candidates"], summary["groups"]) == (1, 0, 0)
    assert "No matches among 1 items" in (tmp_path / "out" / "matches.html").read_text()


def test_items_that_are_all_alike_are_matched(model, tmp_path, quiet):
    shop = small_catalog(tmp_path / "shop", rows=6)
    for row in shop.rows:
        row.update(title="thing", colour="red", picture="0.png", product="p")
    summary = run(model, shop, tmp_path, quiet)
    assert summary["candidates"] == 15


def test_a_promise_needs_test_pairs(model, tmp_path, quiet):
    with pytest.raises(InputError, match=r"--precision 0\.9: .* has no test pairs of this model"):
        run(model, small_catalog(tmp_path / "shop"), tmp_path, quiet, promise=Promise("precision", 0.9))


def test_a_folder_of_somebody_else_is_not_replaced(model, tmp_path, quiet):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds something that mlim did not make"):
        run(model, small_catalog(tmp_path / "shop"), tmp_path, quiet)


def test_a_promise_raises_the_threshold_of_pairs_and_groups(model, tiny_recipe, own_workspace, monkeypatch):
    labels = np.arange(600) % 2
    test = pd.DataFrame({"split": "test", "label": labels, "score": np.where(labels == 1, 0.9, 0.1)})
    test.loc[test["label"] == 0, "score"] += np.linspace(0, 0.5, 300)
    monkeypatch.setattr(step, "read_scored", lambda recipe, workspace: SimpleNamespace(of_registered=test))
    monkeypatch.setattr(step, "families_of", lambda pairs, workspace: None)
    write_json(own_workspace.evaluation / "summary.json", {"threshold": model.threshold})
    threshold, promised = step._threshold(model, tiny_recipe, own_workspace, Promise("precision", 0.9))
    assert 0.1 < threshold <= 0.9
    assert "0.9" in promised
    recalled, _ = step._threshold(model, tiny_recipe, own_workspace, Promise("recall", 0.9))
    assert recalled == 0.9  # every match scores that
    assert step._threshold(model, tiny_recipe, own_workspace, None) == (model.threshold, "")
    with pytest.raises(InputError, match=r"--precision 0\.9999: not enough labels"):
        step._threshold(model, tiny_recipe, own_workspace, Promise("precision", 0.9999))
    write_json(own_workspace.evaluation / "summary.json", {"threshold": 0.25})
    with pytest.raises(InputError, match="were scored by another model"):
        step._threshold(model, tiny_recipe, own_workspace, Promise("precision", 0.9))


@pytest.mark.parametrize(
    ("families", "warning"), [("any", "mean nothing"), (None, "were not compared"), ("within", "")]
)
def test_a_model_that_saw_no_pair_across_families_compares_none_unless_asked(
    tiny_recipe, tmp_path, quiet, families, warning
):
    model = build(tiny_recipe, "separate", trained_across_families=False)
    shop = small_catalog(tmp_path / "shop", rows=6)
    shop.write(matching={"families": families})
    summary = run(model, shop, tmp_path, quiet, write=False)
    assert warning in " ".join(summary["warnings"])
    assert len(summary["warnings"]) == bool(warning)
    assert ("Warning:" in (tmp_path / "out" / "matches.html").read_text()) is bool(warning)
    family = {row["sku"]: row["product"] for row in shop.rows}
    found = pd.read_parquet(tmp_path / "out" / "pairs.parquet")
    across = [family[one] != family[other] for one, other in zip(found["item_a"], found["item_b"], strict=True)]
    assert any(across) is (families == "any")


def test_a_catalog_of_another_kind_and_the_objections_of_the_gate_are_warnings(tiny_recipe, tmp_path, quiet):
    shop = small_catalog(tmp_path / "shop", rows=6)
    run(build(tiny_recipe, "separate"), shop, tmp_path, quiet)
    work = Workspace(tmp_path / "work")
    trained_on = read_profile(work.valid)
    assert trained_on.columns == ("colour", "title")
    model = build(tiny_recipe, "separate", catalog=trained_on)
    objections = plain([Objection("chance", "useless")])
    write_json(work.evaluation / "summary.json", {"threshold": model.threshold, "objections": objections})
    summary = run(model, shop, tmp_path, quiet, write=False)
    assert summary["warnings"] == ["the quality gate objects to this model: useless"]
    [swap, one_answer] = (Objection(code, f"found by {code}") for code in ("swap", "one-answer"))
    decided = GateDecision(objections=(swap, one_answer), forced="a talk")
    summary = run(model, shop, tmp_path, quiet, write=False, gate=decided)
    page = (tmp_path / "out" / "matches.html").read_text()
    assert summary["warnings"] == [
        *(f"the quality gate objects to this model: {each.sentence}" for each in (swap, one_answer)),
        "it was made champion against these objections, because: a talk",
    ]
    assert all(sentence in page for sentence in summary["warnings"])

    bright = {**trained_on.profile.histograms, "brightness": (10_000, *[0] * 19)}
    other = trained_on.profile.model_copy(update={"items": 10_000, "histograms": bright})
    model = build(
        tiny_recipe, "separate", catalog=CatalogProfile(columns=("brand", "title"), profile=other), threshold=0.4
    )
    summary = run(model, shop, tmp_path, quiet, write=False)
    columns, brightness = summary["warnings"]
    assert "this catalog has no brand" in columns
    assert "the brightnesses of the pictures of this catalog are not those that the model was trained on" in brightness
    assert (tmp_path / "out" / "matches.html").read_text().count("Warning:") == 2


def test_a_finished_match_is_a_tracked_run(model, tiny_recipe, tmp_path, quiet, new_store):
    tracking = tiny_recipe.tracking.model_copy(update={"uri": new_store(tmp_path / "mlflow.db")})
    pipeline = tiny_recipe.model_copy(update={"tracking": tracking})
    shop = small_catalog(tmp_path / "shop", rows=6)
    summary = run(model, shop, tmp_path, quiet, tracked=pipeline.record)
    store = client(tracking)
    experiment = store.get_experiment_by_name(tracking.experiment).experiment_id
    [found] = store.search_runs([experiment], "tags.`mlim.stage` = 'match' and attributes.status = 'FINISHED'")
    assert found.data.metrics["groups"] == summary["groups"]
    assert found.data.tags["mlim.catalog"].endswith("catalog.yaml")
    assert found.data.tags["mlim.recipe_sha256"] == recipe_sha256(pipeline.record)  # not that of the model's settings
    names = {entry.path for entry in store.list_artifacts(found.info.run_id)}
    assert {"matches.html", "groups.csv", "summary.json"} <= names


def test_the_run_of_a_match_is_open_before_the_work(model, tiny_recipe, tmp_path, quiet, new_store, monkeypatch):
    """A server that goes away meanwhile must not cost the work, nor the events of a night."""
    tracking = tiny_recipe.tracking.model_copy(update={"uri": new_store(tmp_path / "mlflow.db")})
    pipeline = tiny_recipe.model_copy(update={"tracking": tracking})
    statuses = []

    def seen(*_, **__):
        store = client(tracking)
        experiment = store.get_experiment_by_name(tracking.experiment).experiment_id
        statuses.extend(run.info.status for run in store.search_runs([experiment], "tags.`mlim.stage` = 'match'"))
        raise ZeroDivisionError

    monkeypatch.setattr(step, "score_pairs", seen)
    with pytest.raises(ZeroDivisionError):
        run(model, small_catalog(tmp_path / "shop", rows=6), tmp_path, quiet, tracked=pipeline.record)
    assert statuses == ["RUNNING"]


def test_items_of_another_ingest_are_not_matched(model, tmp_path, quiet):
    """After a second `mlim ingest` the index of before names other items by the same places."""
    shop = small_catalog(tmp_path / "shop", rows=6)
    run(model, shop, tmp_path, quiet)
    del shop.rows[0]
    ingest(recipe_of(model), shop.write(), Workspace(tmp_path / "work"), quiet, for_pairs=False)
    with pytest.raises(InputError, match="run `mlim validate` again"):
        run(model, shop, tmp_path, quiet, write=False)


def partition(out):
    groups = pd.read_parquet(out / "groups.parquet")
    return {frozenset(items) for _, items in groups.groupby("group")["item"]}


def why(out):
    """What the page says of why pairs have their scores."""
    return "".join(re.findall(r"<details class=.why.>.*?</details>", (out / "matches.html").read_text(), re.DOTALL))


def test_a_match_since_an_earlier_one_comes_to_the_same_and_computes_little(model, tmp_path, quiet, monkeypatch):
    shop = small_catalog(tmp_path / "shop", rows=9)
    run(model, shop, tmp_path, quiet, out="first")
    first = pd.read_parquet(tmp_path / "first" / "pairs.parquet").set_index(["item_a", "item_b"])
    del shop.rows[7]
    shop.rows[2]["title"] = "thing anew"
    shop.rows[4]["picture"] = "new.png"
    Image.new("RGB", (40, 60), "yellow").save(shop.images / "new.png")
    shop.rows.append({**shop.rows[0], "sku": "new"})
    summary = run(model, shop, tmp_path, quiet, out="next", since=tmp_path / "first")
    assert summary["since"]["items"] == {"new": 1, "changed": 2, "removed": 1}
    run(model, shop, tmp_path, quiet, out="full")
    found, full = (pd.read_parquet(tmp_path / name / "pairs.parquet") for name in ("next", "full"))
    pd.testing.assert_frame_equal(found, full, atol=1e-5)
    assert partition(tmp_path / "next") == partition(tmp_path / "full")
    found = found.set_index(["item_a", "item_b"])
    same = [pair for pair in found.index if pair in first.index and not {"new", "002", "004"} & {*pair}]
    assert summary["since"]["scores_kept"] == len(same) > 0
    assert found.loc[same, "score"].tolist() == first.loc[same, "score"].tolist()
    events = pd.read_parquet(tmp_path / "next" / "events.parquet")
    assert len(events) == len(read_csv(tmp_path / "next" / "events.csv")) == sum(summary["since"]["events"].values())
    page = (tmp_path / "next" / "matches.html").read_text()
    assert "Since the last match" in page
    assert "Items: 1 new, 2 changed, 1 removed" in page
    said = why(tmp_path / "next")
    monkeypatch.setattr(type(model), "compare", None)  # nothing is left to be scored ...
    monkeypatch.setattr(step, "explain_pairs", None)  # ... or to be explained
    again = run(model, shop, tmp_path, quiet, out="next", since=tmp_path / "next")
    assert again["since"]["scores_kept"] == again["candidates"] == summary["candidates"]
    assert not any([*again["since"]["items"].values(), *again["since"]["events"].values()])
    assert why(tmp_path / "next") == said != ""


def test_what_only_rules_read_scores_nothing_again(model, tmp_path, quiet):
    """As a list of prices does that comes anew each night."""
    shop = small_catalog(tmp_path / "shop", rows=9)
    first = run(model, shop, tmp_path, quiet, out="first")
    for row in shop.rows:
        row["pattern"] = "striped"
    shop.rows[1]["product"] = "another"
    summary = run(model, shop, tmp_path, quiet, out="next", since=tmp_path / "first")
    assert summary["since"]["items"] == {"new": 0, "changed": 9, "removed": 0}
    assert summary["since"]["scores_kept"] == summary["candidates"] == first["candidates"] > 0
    run(model, shop, tmp_path, quiet, out="full")
    found, full = (pd.read_parquet(tmp_path / name / "pairs.parquet") for name in ("next", "full"))
    pd.testing.assert_frame_equal(found, full, atol=1e-5)
    assert partition(tmp_path / "next") == partition(tmp_path / "full")


def test_an_earlier_match_of_another_model_is_not_continued(model, tiny_recipe, tmp_path, quiet):
    shop, last = small_catalog(tmp_path / "shop", rows=6), tmp_path / "out"
    with pytest.raises(InputError, match=r"--since .*out: holds no matches"):
        run(model, shop, tmp_path, quiet, since=last)
    assert run(model, shop, tmp_path, quiet, since=last, full_if_changed=True)["since"] is None
    groups = read_csv(last / "groups.csv")
    other = build(tiny_recipe, "separate")
    other.settings = other.settings.model_copy(update={"threshold": 1.0})
    with pytest.raises(InputError, match=r"was made with another model .*--full-if-changed"):
        run(other, shop, tmp_path, quiet, since=last)
    assert read_csv(last / "groups.csv") == groups
    summary = run(other, shop, tmp_path, quiet, since=last, full_if_changed=True)
    assert summary["since"]["grouped_anew"] == "another model; another threshold"
    assert summary["since"]["scores_kept"] == 0
    reasons = {event["reason"] for event in read_csv(last / "events.csv")}
    assert reasons == {"another model; another threshold"}
    write_json(last / "summary.json", {**read_json(last / "summary.json"), "format": 0})
    with pytest.raises(InputError, match="another version of mlim"):
        run(other, shop, tmp_path, quiet, since=last)
