"""`dvc repro` and `mlim run` on a fresh clone run everything once; nothing runs twice, whoever started it."""

import csv
import json
import shutil
from pathlib import Path

import mlflow
import pytest

from mlim.recipe import load_recipe
from mlim.steps.plan import everything
from tests.integration.conftest import ITEMS, run_in

pytestmark = pytest.mark.integration


@pytest.fixture
def client(reproduced: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{reproduced / 'mlflow.db'}")


def all_runs(client: mlflow.MlflowClient) -> list[mlflow.entities.Run]:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=500))


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "build/demo/ablation/table.csv").open(newline="") as source:
        return {row["row"]: row for row in csv.DictReader(source)}


def test_the_flow_took_what_repro_had_made(reproduced: Path) -> None:
    said = {log.stem: log.read_text() for log in (reproduced / "build/demo/logs").iterdir()}
    ran = {stage for stage, words in said.items() if "Running stage" in words}
    by_repro = {"ingest", "validate", "pairs", "pretrain@recon-mlm-mam-0", "finetune@recon-mlm-mam-0", "evaluate"}
    assert by_repro == said.keys() - ran
    assert ran == {stage.target for stage in everything(load_recipe(str(reproduced / "params.yaml")))} - by_repro


def test_repro_finds_nothing_to_do(reproduced: Path) -> None:
    done = run_in(reproduced, ["dvc", "repro"])
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def test_the_flow_finds_nothing_to_do(reproduced: Path, client: mlflow.MlflowClient) -> None:
    before = {run.info.run_id for run in all_runs(client)}
    done = run_in(reproduced, ["mlim", "run", "--recipe", "params.yaml"])
    assert {run.info.run_id for run in all_runs(client)} == before
    assert "Running stage" not in done.stdout + done.stderr
    assert "report:" in done.stderr
    assert "dvc repro" in done.stderr


def test_repro_brings_back_what_was_deleted(reproduced: Path) -> None:
    page = reproduced / "build/demo/report/index.html"
    before = page.read_bytes()
    shutil.rmtree(page.parent)
    assert "Running stage" not in run_in(reproduced, ["dvc", "repro"]).stdout
    assert page.read_bytes() == before


def test_a_run_leaves_git_clean_but_for_the_lock_file(reproduced: Path) -> None:
    changed = run_in(reproduced, ["git", "status", "--porcelain"]).stdout.split("\n")
    assert {line[3:] for line in changed if line} <= {"dvc.lock"}


def test_making_the_data_again_leaves_its_dvc_file_alone(reproduced: Path) -> None:
    run_in(reproduced, ["mlim", "catalog", "synthesize", "--items", str(ITEMS), "--quiet"])
    assert run_in(reproduced, ["git", "status", "--porcelain", "data.dvc"]).stdout == ""
    assert "Running stage" not in run_in(reproduced, ["dvc", "repro"]).stdout


def test_every_training_is_a_child_run_of_one_pipeline(reproduced: Path, client: mlflow.MlflowClient) -> None:
    recipe = load_recipe(str(reproduced / "params.yaml"))
    parent = json.loads((reproduced / "build/demo/pipeline.json").read_text())["run_id"]
    children = [run for run in all_runs(client) if run.data.tags.get("mlflow.parentRunId") == parent]
    trained = [stage for stage in everything(recipe) if stage.trains]
    assert len([run for run in children if run.data.tags["mlim.stage"] in {"pretrain", "finetune"}]) == len(trained)
    assert {run.data.tags["mlim.stage"] for run in children} == {stage.command for stage in everything(recipe)}
    assert {run.info.status for run in children} == {"FINISHED"}


def test_the_table_agrees_with_mlflow(reproduced: Path, client: mlflow.MlflowClient) -> None:
    summary = json.loads((reproduced / "build/demo/ablation/summary.json").read_text())
    tracked = client.get_run(summary["run_id"]).data.metrics
    for name, row in table(reproduced).items():
        assert any(value == pytest.approx(float(row["pr_auc"]), abs=1e-6) for value in tracked.values()), name


def test_the_report_shows_the_figures_of_the_table(reproduced: Path) -> None:
    page = (reproduced / "build/demo/report/index.html").read_text()
    for row in table(reproduced).values():
        assert f"{float(row['pr_auc']):.3f}" in page


def test_the_registered_model_leads_back_to_its_origins(reproduced: Path, client: mlflow.MlflowClient) -> None:
    version = client.get_model_version_by_alias("mlim-matcher", "champion")
    commit = run_in(reproduced, ["git", "rev-parse", "HEAD"]).stdout.strip()
    data = next(line.split()[-1] for line in (reproduced / "data.dvc").read_text().splitlines() if "md5:" in line)
    values = set(version.tags.values())
    assert commit in values
    assert data in values
    assert "passed" in values


def test_a_changed_finetuning_leaves_the_pretrainings_alone(reproduced: Path) -> None:
    params = reproduced / "params.yaml"
    original = params.read_text()
    try:
        params.write_text(original.replace("head_dropout: 0.1", "head_dropout: 0.2"))
        planned = run_in(reproduced, ["dvc", "repro", "--dry"]).stdout
    finally:
        params.write_text(original)
    assert "Running stage 'finetune@recon-mlm-mam-0'" in planned
    assert "Running stage 'pretrain" not in planned
