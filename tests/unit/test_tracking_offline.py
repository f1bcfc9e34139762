"""`tracking.uri: none`: no runs, nothing of MLflow, and a model that waits for its run before it is registered."""

import sys
from pathlib import Path

import pytest

from mlim.cli.main import main
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.offline import check_recorded
from mlim.recipe import Recipe, load_recipe
from mlim.registry import Registry, referred
from mlim.tracking import check_server, stage_run, tracking_uri
from mlim.versions import UNKNOWN, Lineage
from mlim.workspace import Workspace, run_name

LINEAGE = Lineage("c0ffee", True, "5eed.dir", "passed", "1234", "data/catalog.yaml")
NOT_FROM_GIT = Lineage(UNKNOWN, False, "5eed.dir", "passed")


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("demo", ["tracking.uri=none"])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def train(recipe: Recipe, workspace: Workspace, origin: Lineage = LINEAGE) -> dict:
    """A training that writes nothing but its summary; gives what lies there after its run has ended."""
    folder = workspace.finetuned(recipe.main, 0)
    with stage_run(recipe.record, workspace, "finetune", run_name(recipe.main, 0), origin) as run:
        run.log({"match": 0.5}, 1)
        run.metric("pr_auc", 0.5)
        run.tag("note", "a word")
        write_json(folder / "summary.json", {"row": recipe.main, "device": "cpu", "run_id": run.id})
        run.artifact(folder)
    return read_json(folder / "summary.json")


def test_a_training_without_tracking_says_where_it_came_from(recipe, workspace):
    summary = train(recipe, workspace)
    assert summary["run_id"] is None
    assert summary["row"] == recipe.main
    assert Lineage(**summary["lineage"]) == LINEAGE
    assert not workspace.pipeline.exists()


def test_a_copy_of_the_code_is_reported_its_commit(recipe, workspace, monkeypatch):
    assert train(recipe, workspace, NOT_FROM_GIT)["lineage"]["commit"] == UNKNOWN
    for commit, dirty in (("beef", False), ("beef-dirty", True)):
        monkeypatch.setenv("MLIM_COMMIT", commit)
        found = train(recipe, workspace, NOT_FROM_GIT)["lineage"]
        assert (found["commit"], found["dirty"]) == ("beef", dirty)
    assert train(recipe, workspace)["lineage"]["commit"] == "c0ffee"  # the repository knows better


def test_a_failed_training_is_not_signed(recipe, workspace):
    folder = workspace.finetuned(recipe.main, 0)
    write_json(folder / "summary.json", {"device": "cpu"})
    with pytest.raises(KeyError), stage_run(recipe.record, workspace, "finetune", run_name(recipe.main, 0), LINEAGE):
        raise KeyError
    assert read_json(folder / "summary.json") == {"device": "cpu"}


def test_other_stages_run_too_and_leave_no_trace(recipe, workspace):
    write_json(workspace.evaluation / "summary.json", {})
    for stage in ("ingest", "evaluate", "report"):
        with stage_run(recipe.record, workspace, stage, stage, LINEAGE) as run:
            assert run.id is None
    assert read_json(workspace.evaluation / "summary.json") == {}


def test_what_needs_a_store_says_so(recipe):
    for ask in (tracking_uri, check_server, Registry):
        with pytest.raises(InputError, match=r"tracking\.uri is `none`"):
            ask(recipe.tracking)


def test_a_model_is_registered_only_when_its_trainings_have_runs(recipe, workspace, tmp_path):
    store = load_recipe("demo", [f"tracking.uri=sqlite:///{tmp_path / 'runs.db'}"])
    folders = (workspace.finetuned(recipe.main, 0), workspace.pretrained(recipe.main_variant.pretraining, 0))
    for folder in (*folders, workspace.evaluation):
        write_json(folder / "summary.json", {"run_id": None})
    with pytest.raises(InputError) as caught:
        check_recorded(workspace, store.main, store.main_variant.pretraining, store.seeds[0])
    for folder, problem in zip(folders, caught.value.problems[:2], strict=True):
        assert f"run `mlim import-run {folder}` first" in problem
    assert "run `mlim evaluate` with tracking again" in caught.value.problems[2]
    for folder in (*folders, workspace.evaluation):
        write_json(folder / "summary.json", {"run_id": "1234"})
    check_recorded(workspace, store.main, store.main_variant.pretraining, store.seeds[0])


def test_a_whole_run_without_a_store_is_refused_before_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlim", "run", "--catalog", "nowhere.yaml", "--set", "tracking.uri=none"])
    assert main() == 2
    assert "tracking.uri is `none`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_help_says_how(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlim", command, "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "tracking.uri=none" in capsys.readouterr().out


class _EmptyStore:
    """A registry in which nothing is registered."""

    def search_model_versions(self, query: str) -> list:
        return []

    search_registered_models = search_model_versions


@pytest.mark.parametrize(
    ("reference", "advice"),
    [
        ("w0", "`w0` is a folder: name a registered version, models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("1", "`1` is a number: name a registered version, models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("mlim-matcher", "`mlim register` makes one"),
    ],
)
def test_a_folder_or_a_number_is_no_registered_model(reference, advice, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlim.registry.client", lambda tracking: _EmptyStore())
    (tmp_path / "w0").mkdir()
    registry, choice = referred(load_recipe("demo").tracking, reference, "--model")
    with pytest.raises(InputError) as caught:
        registry.version_of(choice)
    assert str(caught.value) == f"{reference} has no version `champion` in {registry.uri}; {advice}"
