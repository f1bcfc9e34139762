"""`dvc repro` in pipelines/systems and `mlim run` without pairs: one result, nothing run twice, nothing about pairs."""

import json
from collections.abc import Mapping
from pathlib import Path

import mlflow
import pytest
import yaml

from mlim.recipe import load_recipe
from mlim.steps.pipeline import write_stages
from mlim.steps.plan import SYSTEMS_PIPELINE, everything
from tests.integration.conftest import CLOSED_PROXIES, copy_project, run_in
from tests.systems_recipe import SCENES, systems_values

pytestmark = pytest.mark.integration

RECIPE = SYSTEMS_PIPELINE.parameters.as_posix()
RUN = ("mlim", "run", "--recipe", RECIPE, "--catalog", SYSTEMS_PIPELINE.catalog.as_posix())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, forks: Mapping[str, str]) -> Path:
    """A checkout in which `dvc repro` has annotated in the pipeline's folder, and `mlim run` has done the rest."""
    folder = copy_project(tmp_path_factory.mktemp("systems"))
    (folder / SYSTEMS_PIPELINE.folder).mkdir(parents=True)
    (folder / RECIPE).write_text(yaml.safe_dump(systems_values(), sort_keys=False))
    write_stages(folder, SYSTEMS_PIPELINE)
    run_in(folder, ["git", "init", "--quiet"])
    drawn = ("--kind", "scenes", "--items", str(SCENES), "--image-size", "32", "--out", "scenes", "--quiet")
    run_in(folder, ["mlim", "catalog", "synthesize", *drawn])
    run_in(folder, ["dvc", "add", "--quiet", "scenes"])
    run_in(folder / SYSTEMS_PIPELINE.folder, ["dvc", "repro", "annotate"], **forks)
    run_in(folder, RUN, **CLOSED_PROXIES)
    return folder


def test_the_flow_took_what_repro_had_made(project: Path) -> None:
    recipe = load_recipe(str(project / RECIPE))
    stages = {stage.target for stage in everything(recipe, matches=False)}
    said = {log.stem: log.read_text() for log in (project / "build/systems-tiny/logs").iterdir()}
    by_repro = {"ingest", "validate", "pairs", "annotate"}
    assert {stage for stage, words in said.items() if "Running stage" in words} == stages - by_repro
    assert said.keys() == stages
    assert not (project / "build/systems-tiny/evaluation").exists()


def test_nothing_is_left_to_do_for_either(project: Path) -> None:
    done = run_in(project / SYSTEMS_PIPELINE.folder, ["dvc", "repro"])
    assert "Running stage" not in done.stdout
    again = run_in(project, RUN)
    assert "Running stage" not in again.stdout + again.stderr
    assert "MLIM: Answers, accuracy" in again.stderr
    assert "ViLT: Statements, accuracy" in again.stderr
    assert "dvc repro pipelines/systems/dvc.yaml" in again.stderr


def test_the_report_and_the_results_show_the_tasks_and_no_pairs(project: Path) -> None:
    page = (project / "build/systems-tiny/report/index.html").read_text()
    table = json.loads((project / "build/systems-tiny/ablation/answer.json").read_text())
    assert f"{table['rows']['mlim-answer']['accuracy']['value']:.3f}" in page
    run_in(project, ["mlim", "results", "--recipe", RECIPE, "--out", "results.md"])
    results = (project / "results.md").read_text()
    assert "accuracy, binary" in results
    assert "test pairs" not in results
    assert "PR-AUC" not in results


def test_every_stage_is_tracked_as_part_of_one_run(project: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    parent = json.loads((project / "build/systems-tiny/pipeline.json").read_text())["run_id"]
    (experiment,) = [each for each in client.search_experiments() if each.name == "mlim"]
    runs = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    recipe = load_recipe(str(project / RECIPE))
    assert {run.data.tags["mlim.stage"] for run in runs} == {each.command for each in everything(recipe, matches=False)}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_trainings_can_be_told_apart_by_system_and_task_and_carry_their_figures(project: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    table = json.loads((project / "build/systems-tiny/ablation/statement.json").read_text())
    summary = json.loads((project / "build/systems-tiny/finetune/vilt-statement-s0/summary.json").read_text())
    run = client.get_run(summary["run_id"]).data
    assert (run.tags["mlim.system"], run.tags["mlim.task"]) == ("vilt", "statement")
    assert run.tags["mlim.also_saw"] == "nothing"
    assert run.metrics["statement.accuracy"] == pytest.approx(table["rows"]["vilt-statement"]["accuracy"]["value"])
