"""Where a version comes from, which versions come from some data or an item, and a version trained again."""

import json

import pandas as pd
import pytest

from mlim.files import read_json, sha256_of
from mlim.registry import RUN_OF_REGISTRATION, Registry
from mlim.steps.lineage import lineage_of, saw_item, trained_on
from mlim.steps.seen import items_of
from mlim.tracking import all_runs, client
from tests.commands import call as mlim

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_versions")]


def test_a_version_leads_to_everything_that_it_came_from(registered, monkeypatch, capsys, tmp_path):
    recipe, workspace = registered.recipe, registered.workspace
    found = lineage_of(recipe.tracking, Registry(recipe.tracking), "1")
    assert found["aliases"] == ["challenger", "champion"]
    assert found["manifest"] == sha256_of(workspace.items / "manifest.json")
    assert found["validation"] == "passed"
    assert found["recipe"] == recipe.name
    assert set(found["runs"]) >= {"finetune", "register", "pipeline"}
    assert found["runs"]["finetune"]["recorded"]
    assert found["runs"]["finetune"]["manifest"] == found["manifest"]
    assert "torch" in found["environment"]["packages"]
    file = tmp_path / "own.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert mlim(monkeypatch, "lineage", "--recipe", str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))
    assert mlim(monkeypatch, "lineage", "--recipe", str(file)) == 0
    said = capsys.readouterr().out
    assert said.startswith("mlim-matcher version 1 (challenger, champion)")
    assert found["manifest"] in said
    assert mlim(monkeypatch, "lineage", "--data", "123456", "--item", "x", "--recipe", str(file)) == 2


def test_mlflows_pages_say_what_the_model_is_and_lead_to_its_runs(registered):
    recipe, workspace, store = registered.recipe, registered.workspace, client(registered.recipe.tracking)
    place = read_json(workspace.pipeline)
    assert store.get_experiment(place["experiment_id"]).tags["mlflow.experimentKind"] == "custom_model_development"
    page = store.get_model_version("mlim-matcher", "1").description
    assert page.startswith("**Can you use this?")
    assert "PR-AUC 0.500 [0.400, 0.600]" in page
    assert 'mlim.load("models:/mlim-matcher/1")' in page
    finetuned = Registry(recipe.tracking).tags("1")["mlim.run.finetune"]
    assert f"(#/experiments/{place['experiment_id']}/runs/{finetuned})" in page
    assert store.get_registered_model("mlim-matcher").description == page
    parent = store.get_run(place["run_id"])
    assert parent.data.metrics["test/calibration_error"] == pytest.approx(registered.summary["calibration_error"])
    kept = {entry.path for entry in store.list_artifacts(place["run_id"])}
    assert {"model_card", "data_card", "decision", "recipe.yaml"} <= kept


def test_an_item_leads_to_the_versions_that_learned_from_it_and_to_those_that_nobody_can_answer_for(promoted, capsys):
    recipe, workspace = promoted
    assert {"family", "image_sha256"} <= set(items_of(recipe.tracking, Registry(recipe.tracking), "1"))
    members = pd.read_parquet(workspace.pairs / "items.parquet").groupby("split")["id"].first()
    for split, did in (("train", "learned from it"), ("test", "was judged on it and learned nothing from it")):
        found = saw_item(recipe.tracking, members[split])
        assert [(each["version"], each["split"], each["did"]) for each in found["versions"]] == [("1", split, did)]
        assert found["unanswered"] == []
        assert {run["stage"] for run in found["runs"]} == {"finetune"}
    unknown = saw_item(recipe.tracking, "no-such-item")
    assert unknown["versions"][0]["did"] == "did not see it"
    assert unknown["runs"] == []
    store = client(recipe.tracking)
    store.create_registered_model("shoes")  # another model, registered before items were recorded
    store.create_model_version("shoes", source="elsewhere")
    store.create_model_version("shoes", source="elsewhere", tags={RUN_OF_REGISTRATION: "0" * 32})
    found = saw_item(recipe.tracking, members["train"])
    assert found["unanswered"] == ["shoes version 1", "shoes version 2"]
    data = sha256_of(workspace.items / "manifest.json")
    versions = trained_on(recipe.tracking, data[:12])["versions"]
    assert [(each["model"], each["version"]) for each in versions] == [("mlim-matcher", "1")]
    assert trained_on(recipe.tracking, "ffffffffffff")["versions"] == []


def test_all_runs_are_found_whatever_fits_on_a_page(registered):
    store = client(registered.recipe.tracking)
    experiments = [each.experiment_id for each in store.search_experiments()]
    everything = [run.info.run_id for run in store.search_runs(experiments)]
    assert len(everything) >= 3
    assert [run.info.run_id for run in all_runs(store, experiments, "", per_page=2)] == everything
