"""Trainings on a machine without MLflow, carried home and recorded there as if they had been tracked."""

import json
import shutil
import sys
from importlib import metadata

import pytest
from mlflow.entities import ViewType

from mlim.cli.main import main
from mlim.console import Terminal
from mlim.doctor import TRAINING
from mlim.errors import InputError
from mlim.files import read_json, write_json
from mlim.outbox import Outbox
from mlim.recipe import load_recipe
from mlim.steps.import_run import chosen_tracking, import_run, logged
from mlim.steps.pretrain import pretrain
from mlim.tracking import client, stage_run
from mlim.versions import lineage
from mlim.workspace import Workspace, run_name
from tests.commands import ENVIRONMENT
from tests.integration.test_bare_training import closure, run

HERE = chosen_tracking([])
NAME, SEED = "recon-mlm-mam", 0
COMMIT = "c0ffee" * 6 + "c0ff"
MODES = ("heavy_image", "heavy_text", "light")
TIMED = {"samples_per_second", "tokens_per_second", "data_wait_share", "memory_gib"}  # differ from run to run
ABOUT_IMPORT = {
    "mlim.imported_from",
    "mlim.imported_experiment",
    "mlim.commit",
    "mlim.dirty",
    "mlflow.source.git.commit",
    "mlflow.parentRunId",
}
pytestmark = pytest.mark.integration

COMMANDS = """
from mlim.cli.main import app
for words in json.loads(sys.argv[1]):
    app(words, standalone_mode=False)
assert not {"mlflow", "prefect", "dvc", "great_expectations", "dask"} & sys.modules.keys()
"""


def lacking():
    """The modules that a machine with those packages, and what they need, does not have."""
    there = closure(TRAINING)
    names = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if module.isidentifier()
        and module not in {*sys.stdlib_module_names, "mlim", "flows"}
        and not there & {name.lower().replace("_", "-") for name in distributions}
    }
    assert {"mlflow", "prefect", "dvc", "great_expectations", "dask", "distributed", "pebble", "matplotlib"} <= names
    return sorted(names)


@pytest.fixture(scope="module")
def brought(tiny_recipe, tiny_workspace, tmp_path_factory):
    """A prepared work folder after both trainings on a machine without MLflow, git and the rest; read-only."""
    away = tmp_path_factory.mktemp("away")
    workspace = Workspace(away / "work")
    shutil.copytree(tiny_workspace.root, workspace.root)
    (away / "tiny.yaml").write_text(tiny_recipe.to_yaml(), encoding="utf-8")
    common = ["--recipe", "tiny.yaml", "--set", "tracking.uri=none", "--work", "work", "--quiet"]
    trainings = [["pretrain", NAME, *common], ["finetune", tiny_recipe.main, "--seed", str(SEED), *common]]
    run(COMMANDS, lacking(), json.dumps(trainings), cwd=away, env={**ENVIRONMENT, "MLIM_COMMIT": f"{COMMIT}-dirty"})
    return workspace


@pytest.fixture
def carried(brought, tmp_path):
    """A copy of it that one test may write to."""
    shutil.copytree(brought.root, tmp_path / "gpu")
    return Workspace(tmp_path / "gpu")


@pytest.fixture(autouse=True)
def home(tiny_recipe, monkeypatch):
    """The store of this machine."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tiny_recipe.tracking.uri)


def both(recipe, workspace):
    return workspace.pretrained(NAME, SEED), workspace.finetuned(recipe.main, SEED)


def children(recipe, workspace):
    parent = read_json(workspace.pipeline)["run_id"]
    store = client(recipe.tracking)
    wanted = f"tags.`mlflow.parentRunId` = '{parent}'"
    return store.search_runs([store.get_run(parent).info.experiment_id], wanted, ViewType.ALL)


def test_a_bare_machine_trains_and_says_where(brought, tiny_recipe):
    for folder in both(tiny_recipe, brought):
        summary = read_json(folder / "summary.json")
        assert summary["run_id"] is None
        assert (summary["lineage"]["commit"], summary["lineage"]["dirty"]) == (COMMIT, True)
        assert summary["lineage"]["data_version"] == read_json(folder / "summary.json")["lineage"]["items"] != "unknown"
        assert summary["hardware"].startswith("cpu (")
        assert {"model", "history.csv"} <= {path.name for path in folder.iterdir()}
    assert not brought.pipeline.exists()
    assert not brought.checkpoints("pretrain", NAME, SEED).exists()


@pytest.fixture(scope="module")
def live(tiny_recipe, tiny_workspace, tmp_path_factory):
    """The same pre-training, tracked while it ran: its run."""
    workspace = Workspace(tmp_path_factory.mktemp("live") / "work")
    shutil.copytree(tiny_workspace.root, workspace.root)
    summary = pretrain(tiny_recipe, workspace, Terminal(quiet=True), NAME, SEED)
    return client(tiny_recipe.tracking).get_run(summary["run_id"])


def test_an_imported_run_is_what_a_live_one_is(carried, live, tiny_recipe, quiet):
    done = import_run(carried.root, HERE, quiet)
    assert list(done["imported"]) == [str(folder) for folder in both(tiny_recipe, carried)]
    store = client(tiny_recipe.tracking)
    found = store.get_run(read_json(carried.pretrained(NAME, SEED) / "summary.json")["run_id"])
    assert (found.info.run_name, found.info.status) == (live.info.run_name, "FINISHED")
    assert found.data.params == live.data.params
    assert plain_tags(found) == plain_tags(live)
    assert digests(found) == digests(live)
    assert artifacts(store, found) == artifacts(store, live)
    check_figures(store, found, live)


def test_the_value_that_chose_the_best_model_is_a_curve(carried, tiny_recipe, quiet):
    folder = carried.finetuned(tiny_recipe.main, SEED)
    [run_id] = import_run(folder, HERE, quiet)["imported"].values()
    curve = {
        point.step: point.value
        for point in client(tiny_recipe.tracking).get_metric_history(run_id, "validation/pr_auc")
    }
    summary = read_json(folder / "summary.json")
    assert curve[summary["best_step"]] == summary["validation_pr_auc"] == max(curve.values())


def plain_tags(found):
    return {key: value for key, value in found.data.tags.items() if key not in ABOUT_IMPORT}


def digests(found):
    [catalog] = found.inputs.dataset_inputs
    return catalog.dataset.name, catalog.dataset.digest


def artifacts(store, found):
    listed = [entry.path for folder in (None, "samples") for entry in store.list_artifacts(found.info.run_id, folder)]
    return sorted(listed)


def check_figures(store, one, other):
    """All of them under the same names, at the same steps, but for means over several modes before the end."""
    assert one.data.metrics.keys() <= other.data.metrics.keys()
    several = {name for name in other.data.metrics if any(f"{name}/{mode}" in other.data.metrics for mode in MODES)}
    assert other.data.metrics.keys() - one.data.metrics.keys() <= several
    for name in one.data.metrics:
        mine, theirs = (
            {point.step: point.value for point in store.get_metric_history(found.info.run_id, name)}
            for found in (one, other)
        )
        assert mine.keys() <= theirs.keys()
        assert mine.keys() == theirs.keys() or name in several
        if name not in TIMED:
            assert mine == pytest.approx({step: theirs[step] for step in mine})


def test_it_leads_back_to_machine_code_data_and_time_of_training(carried, tiny_recipe, quiet):
    import_run(carried.root, HERE, quiet)
    for folder in both(tiny_recipe, carried):
        summary = read_json(folder / "summary.json")
        found = client(tiny_recipe.tracking).get_run(summary["run_id"])
        tags = found.data.tags
        assert (tags["mlim.imported_from"], tags["mlim.commit"]) == (summary["hardware"], COMMIT)
        assert tags["mlim.dirty"] == "true"
        assert tags["mlim.data_version"] == summary["lineage"]["data_version"]
        assert tags["mlflow.parentRunId"] == read_json(carried.pipeline)["run_id"]
        spent = found.info.end_time - found.info.start_time
        assert spent == pytest.approx(1000 * summary["seconds"], abs=1.5)
        assert found.info.end_time % 1000 == 0  # what the summary says, to the second
        assert summary["final"].keys() <= {name.rpartition("/")[2] for name in found.data.metrics}


def test_a_second_import_does_nothing_and_says_so(carried, tiny_recipe, monkeypatch, capsys):
    said = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["mlim", "import-run", str(carried.root)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        said.append(capsys.readouterr().err.replace("\n", " "))
        runs = children(tiny_recipe, carried)
        assert sorted(each.info.run_name for each in runs) == [
            f"finetune {run_name(tiny_recipe.main, SEED)}",
            f"pretrain {run_name(NAME, SEED)}",
        ]
    assert "2 recorded" in said[0]
    assert "nothing to do, 2 recorded there already" in said[1]


def test_one_training_alone_and_one_that_the_store_does_not_know(carried, tiny_recipe, quiet):
    folder = carried.finetuned(tiny_recipe.main, SEED)
    assert list(import_run(folder, HERE, quiet)["imported"]) == [str(folder)]
    summary = read_json(folder / "summary.json")
    write_json(folder / "summary.json", {**summary, "run_id": "0" * 32})
    client(tiny_recipe.tracking).delete_run(summary["run_id"])
    assert import_run(folder, HERE, quiet)["known"] == []
    assert read_json(folder / "summary.json")["run_id"] not in {"0" * 32, summary["run_id"]}


def test_trainings_of_experiments_are_found_with_their_own_recipes(carried, tiny_recipe, quiet):
    wide = carried.experiment_run("wide")
    wide.root.mkdir(parents=True)
    recipe = load_recipe(str(carried.recipe), ["name=wide"])
    wide.recipe.write_text(recipe.to_yaml(), encoding="utf-8")
    carried.finetuned(tiny_recipe.main, SEED).parent.rename(wide.root / "finetune")
    done = import_run(carried.root, HERE, quiet)
    moved = wide.finetuned(tiny_recipe.main, SEED)
    assert str(moved) in done["imported"]
    found = client(tiny_recipe.tracking).get_run(done["imported"][str(moved)])
    assert found.data.tags["mlim.recipe"] == "wide"


def test_a_half_written_training_is_named_and_left(carried, tiny_recipe, quiet):
    folder = carried.finetuned(tiny_recipe.main, SEED)
    (folder / "summary.json").unlink()
    carried.checkpoints("finetune", "no-mdo", 3).mkdir(parents=True)
    done = import_run(carried.root, HERE, quiet)
    assert list(done["imported"]) == [str(carried.pretrained(NAME, SEED))]
    assert len(done["left"]) == 2
    assert all("has no summary.json" in why for why in done["left"])
    assert str(folder) in done["left"][1]
    with pytest.raises(InputError, match=r"has no summary\.json"):
        import_run(folder, HERE, quiet)


def other_settings(workspace, folder):
    workspace.recipe.write_text(load_recipe(str(workspace.recipe), ["finetune.steps=7"]).to_yaml(), encoding="utf-8")


def another_recipe(workspace, folder):
    write_json(folder / "summary.json", {**read_json(folder / "summary.json"), "row": "nobody"})


def no_recipe(workspace, folder):
    workspace.recipe.unlink()


def no_history(workspace, folder):
    (folder / "history.csv").unlink()


def broken(workspace, folder):
    (folder / "summary.json").write_text("{")


def of_something_else(workspace, folder):
    write_json(folder / "summary.json", {"checked": 5})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (other_settings, "other settings than"),
        (another_recipe, "other settings than"),
        (no_recipe, r"recipe\.yaml is missing"),
        (no_history, r"has no history\.csv"),
        (broken, r"summary\.json: cannot be read"),
        (of_something_else, "does not say row, seed"),
        (lambda workspace, folder: shutil.rmtree(folder), "no such folder"),
    ],
)
def test_what_cannot_be_imported_is_one_sentence(carried, tiny_recipe, quiet, spoil, why):
    folder = carried.finetuned(tiny_recipe.main, SEED)
    spoil(carried, folder)
    with pytest.raises(InputError, match=why):
        import_run(folder, HERE, quiet)
    assert not carried.pipeline.exists()


def test_a_folder_without_trainings_is_refused(tmp_path, quiet):
    with pytest.raises(InputError, match="holds no trainings"):
        import_run(tmp_path, HERE, quiet)


def test_what_stages_without_trainings_left_is_completed(tmp_path, tiny_recipe, quiet, new_store):
    tracking = tiny_recipe.tracking.model_copy(update={"uri": new_store(tmp_path / "own.db")})
    recipe, workspace = tiny_recipe.model_copy(update={"tracking": tracking}), Workspace(tmp_path / "work")
    with stage_run(recipe.record, workspace, "match", "match", lineage(workspace)) as run:
        pass
    outbox = Outbox(workspace.outboxes / run.id)
    outbox.add({"run": run.id, "do": "tag", "key": "late", "value": "yes"}, None)
    outbox.close()
    summary = import_run(workspace.root, tracking, quiet)
    assert (summary["completed"], summary["imported"]) == ([run.id], {})
    assert client(tracking).get_run(run.id).data.tags["late"] == "yes"
    with pytest.raises(InputError, match="holds no trainings"):
        import_run(workspace.root, tracking, quiet)


def test_figures_that_the_history_does_not_hold_are_not_made_up():
    rows = [
        {"step": 10, "kind": "train", "mode": "light", "mlm": 3.0, "grad_norm": 1.0},
        {"step": 15, "kind": "train", "mode": "light", "mlm": 2.0, "grad_norm": 1.0},
        {"step": 15, "kind": "train", "mode": "heavy_text", "mlm": 3.0, "grad_norm": 1.0},
        {"step": 15, "kind": "train", "mode": "all", "mlm": 2.75, "grad_norm": 1.0},
        {"step": 20, "kind": "train", "mode": "light", "mlm": 2.0, "grad_norm": 1.0},
        {"step": 20, "kind": "train", "mode": "heavy_text", "mlm": 4.0, "grad_norm": 1.0},
        {"step": 20, "kind": "validation", "mode": "light", "mlm": 1.0},
        {"step": 20, "kind": "validation", "mode": "heavy_text", "mlm": 2.0},
    ]
    assert logged(rows, {"skipped_steps": 2, "final": {"mlm": 1.25, "itm": None}}) == [
        (10, {"train/mlm": 3.0, "train/mlm/light": 3.0, "grad_norm": 1.0}),
        (15, {"train/mlm": 2.75, "train/mlm/light": 2.0, "train/mlm/heavy_text": 3.0, "grad_norm": 1.0}),
        (20, {"train/mlm/light": 2.0, "train/mlm/heavy_text": 4.0, "grad_norm": 1.0, "skipped_steps": 2.0}),
        (20, {"validation/mlm/light": 1.0, "validation/mlm/heavy_text": 2.0, "validation/mlm": 1.25}),
    ]
