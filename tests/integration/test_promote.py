"""`mlim promote`, `rollback` and `compare` on real versions: each answers with its own code in its own process."""

import json
import subprocess
from pathlib import Path

import pytest

from mlim.files import read_json
from mlim.manifest import remove_derived, write_manifest
from mlim.recipe import PromotionConfig
from mlim.registry import RUN_OF_REGISTRATION, VERSION_SHA256, Registry
from mlim.roles import Roles
from mlim.steps import own_process
from mlim.steps import register as step
from mlim.steps.compare import read_test_pairs, requests
from mlim.steps.own_process import answer_alone
from mlim.steps.register import register
from mlim.tracking import client, fetch_artifact
from tests.commands import call as mlim
from tests.registry_room import artifacts_of, put_model

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("warm_versions")]

check_champion = Roles.check_champion


def test_a_person_promotes_rolls_back_and_a_nightly_run_leaves_it_so(promoted, quiet, monkeypatch, capsys, tmp_path):
    recipe, workspace = promoted
    registry = Registry(recipe.tracking)
    file = tmp_path / "own.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    options = ("--recipe", str(file), "--work", str(workspace.root))
    put_model(recipe, workspace, seed=0, head_scale=-1.0)
    statuses = statuses_at_work(monkeypatch, recipe)
    strict = recipe.model_copy(update={"promotion": PromotionConfig(max_calibration_error=0)})
    summary = register(strict, workspace, quiet)
    assert (summary["version"], summary["promoted"]) == ("2", False)
    assert statuses == ["RUNNING"]
    assert [found["code"] for found in summary["objections"]] == ["calibration"]
    page = (workspace.registration / "decision.md").read_text()
    assert page.startswith("# mlim-matcher version 2 is not promoted")

    assert mlim(monkeypatch, "promote", "challenger", *options) == 3
    said = capsys.readouterr().err
    assert "calibration: Its probabilities are off by" in said
    assert "--force WHY" in said
    assert registry.roles.holder("champion") == "1"
    assert mlim(monkeypatch, "promote", "1", *options) == 0
    assert "is the champion already" in capsys.readouterr().err
    assert mlim(monkeypatch, "promote", "9", *options) == 2

    with monkeypatch.context() as patch:  # somebody promotes or rolls back while two versions are compared
        patch.setattr(Roles, "check_champion", lambda roles, _: check_champion(roles, "7"))
        assert mlim(patch, "promote", "2", "--force", "a talk", *options) == 1
    assert "the champion changed meanwhile, from version 7 to 1" in capsys.readouterr().err
    assert registry.roles.holder("champion") == "1"
    assert "mlim.forced" not in registry.tags("2")

    assert mlim(monkeypatch, "promote", "2", "--force", "a talk", *options, "--json") == 0
    assert json.loads(capsys.readouterr().out)["forced"] == "a talk"
    assert registry.roles.holder("champion") == "2"
    tags = registry.tags("2")
    assert (tags["stage"], tags["mlim.forced"]) == ("Production", "a talk")
    kept = fetch_artifact(recipe.tracking, tags[RUN_OF_REGISTRATION], "decision", tmp_path / "kept")
    decisions = [read_json(path) for path in sorted(Path(kept).rglob("decision.json"))]
    assert sorted(each["promoted"] for each in decisions) == [False, False, True]

    assert mlim(monkeypatch, "rollback", "--why", "blue shirts", "--recipe", str(file)) == 0
    assert registry.roles.holder("champion") == "1"
    again = register(recipe, workspace, quiet)  # the same model: the version that was taken back
    assert (again["version"], again["promoted"]) == ("2", False)
    assert "rolled-back" in {found["code"] for found in again["objections"]}
    assert mlim(monkeypatch, "rollback", "--recipe", str(file)) == 2
    assert "no champion before version 1" in capsys.readouterr().err


def statuses_at_work(monkeypatch, recipe):
    """The status of a registration's run while its version is tested, filled as it happens."""
    statuses, measure = [], step.measure_behaviour

    def seen(recipe, workspace, registry, version, pairs):
        run_id = registry.tags(version)[RUN_OF_REGISTRATION]
        statuses.append(client(recipe.tracking).get_run(run_id).info.status)
        return measure(recipe, workspace, registry, version, pairs)

    monkeypatch.setattr(step, "measure_behaviour", seen)
    return statuses


def test_a_version_whose_files_were_changed_is_never_promoted(promoted, monkeypatch, capsys, tmp_path):
    recipe, workspace = promoted
    client(recipe.tracking).delete_registered_model_alias(recipe.tracking.model_name, "champion")
    weights = next(artifacts_of(recipe, "1").rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    file = tmp_path / "own.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    options = ("--recipe", str(file), "--work", str(workspace.root))
    assert mlim(monkeypatch, "promote", "1", "--force", "a talk", *options) == 1
    assert "are not those that were registered" in capsys.readouterr().err
    assert Registry(recipe.tracking).roles.holder("champion") is None


def test_a_version_is_judged_by_the_code_that_is_stored_with_it(promoted, monkeypatch):
    """Code of another mlim beside the same weights: that code answers, and not the one installed here."""
    monkeypatch.setattr(own_process, "subprocess", subprocess)  # as a command starts it, with nothing loaded
    recipe, workspace = promoted
    folder = artifacts_of(recipe, "1")
    code = folder / "code" / "mlim" / "serving.py"
    model = folder / "serving.py"
    for path in (code, model):
        if path.is_file():
            text = path.read_text()
            path.write_text(text.replace('{"probability": found.probability,', '{"probability": 0.125,'))
            assert path.read_text() != text
    remove_derived(folder)
    registry = Registry(recipe.tracking)
    registry.add_tags("1", {VERSION_SHA256: write_manifest(folder)})
    sent = requests(recipe, workspace, read_test_pairs(workspace), 8)
    answers = answer_alone(registry, "1", sent, timed=2)
    assert set(answers.probability) == {0.125}
    assert answers.milliseconds > 0


def test_doctor_finds_lost_files_and_roles_that_disagree_and_mends_roles(
    promoted, quiet, monkeypatch, capsys, tmp_path
):
    """The command after each finding mends it: `--fix` the roles, a new registration the files."""
    recipe, workspace = promoted
    file = tmp_path / "own.yaml"
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    examine = ("doctor", "--quick", "--json", "--recipe", str(file))

    def bad(*options: str) -> list[dict[str, str]]:
        mlim(monkeypatch, *examine, *options)
        found = [each for each in json.loads(capsys.readouterr().out) if not each["fine"]]
        return [each for each in found if each["subject"] in ("registry", "model files")]

    assert bad() == []
    next(artifacts_of(recipe, "1").rglob("model.safetensors")).unlink()
    client(recipe.tracking).set_model_version_tag(recipe.tracking.model_name, "1", "stage", "Staging")
    roles, files = bad()
    assert "version 1: stage Production follows the alias" in roles["detail"]
    store = f"--set tracking.uri={recipe.tracking.uri}"
    assert roles["command"] == f"mlim doctor --fix {store}"
    assert "version 1, challenger, champion: files are gone (artifacts/matcher/model.safetensors)" in files["detail"]
    assert files["command"] == f"mlim register --recipe {recipe.name} {store}"
    [left] = bad("--fix")
    assert left == files
    again = register(recipe, workspace, quiet)
    assert (again["version"], again["promoted"]) == ("2", True)
    assert [each["detail"].split(":")[0] for each in bad()] == ["mlim-matcher version 1"]
