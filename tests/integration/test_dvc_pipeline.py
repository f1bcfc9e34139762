"""`dvc repro` and `mlim run` on a fresh clone run everything once, nothing runs twice, and browsers show the pages."""

import csv
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from dvc.repo import Repo

from mlim.files import sha256_of
from mlim.recipe import load_recipe
from mlim.steps.plan import everything
from mlim.versions import _dvc_version
from mlim.workspace import Workspace
from mlim.writer import TOKENS, locked
from scripts.chromium import rendered
from tests.integration.conftest import IDENTITY, ITEMS, environment, free_port, run_in

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
    by_repro = {
        "ingest",
        "validate",
        "pairs",
        "pretrain@recon-mlm-mam-0",
        "finetune@recon-mlm-mam-0",
        "stack",
        "evaluate",
    }
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


def test_checkout_brings_back_what_was_deleted_and_nothing_runs(reproduced: Path) -> None:
    """Outputs that persist are not in the way of `dvc checkout`; `dvc repro` alone would run their stage again."""
    page = reproduced / "build/demo/report/index.html"
    before = page.read_bytes()
    shutil.rmtree(page.parent)
    run_in(reproduced, ["dvc", "checkout"])
    assert page.read_bytes() == before
    assert "Running stage" not in run_in(reproduced, ["dvc", "repro"]).stdout


def test_a_run_leaves_git_clean_but_for_the_lock_file(reproduced: Path) -> None:
    changed = run_in(reproduced, ["git", "status", "--porcelain"]).stdout.split("\n")
    assert {line[3:] for line in changed if line} <= {"dvc.lock"}


def test_making_the_data_again_leaves_its_dvc_file_alone(reproduced: Path) -> None:
    run_in(reproduced, ["mlim", "catalog", "synthesize", "--items", str(ITEMS), "--quiet"])
    assert run_in(reproduced, ["git", "status", "--porcelain", "data.dvc"]).stdout == ""
    assert not stale(reproduced)


def test_every_training_is_a_child_run_of_one_pipeline(reproduced: Path, client: mlflow.MlflowClient) -> None:
    recipe = load_recipe(str(reproduced / "params.yaml"))
    parent = json.loads((reproduced / "build/demo/pipeline.json").read_text())["run_id"]
    children = [run for run in all_runs(client) if run.data.tags.get("mlflow.parentRunId") == parent]
    trained = [stage for stage in everything(recipe) if stage.trains]
    assert len([run for run in children if run.data.tags["mlim.stage"] in {"pretrain", "finetune"}]) == len(trained)
    tracked = {stage.command for stage in everything(recipe)}
    assert {run.data.tags["mlim.stage"] for run in children} == tracked
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


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    original = path.read_text()
    assert old in original
    path.write_text(original.replace(old, new))
    try:
        yield
    finally:
        path.write_text(original)


def stale(folder: Path) -> set[str]:
    """The commands of the stages that DVC finds changed by themselves: `dvc status`, without starting a process."""
    with chdir(folder), Repo() as repo:
        found = repo.status()
    return {name.partition("@")[0].removesuffix(".dvc") for name in found}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("mlim/masking.py", {"pretrain", "finetune", "finetune-variant", "finetune-scratch"}),
        ("mlim/registry.py", {"register"}),
        ("mlim/report/report.html", {"report"}),
        ("mlim/pairs/choose.py", {"pairs"}),
        ("mlim/console.py", set()),
    ],
)
def test_changed_code_makes_stale_what_it_makes(reproduced: Path, file: str, stages: set[str]) -> None:
    """Point 14: DVC sees the code that a step imports, and none that cannot change a result."""
    with changed(reproduced / file, "\n", "\n\n"):
        assert stale(reproduced) == stages


@pytest.mark.parametrize(
    ("old", "new", "stages"),
    [
        ("  test_share: 0.2", "  test_share: 0.3", {"pairs", "report", "register"}),
        ("  audit_pairs: 10000", "  audit_pairs: 500", {"pairs", "report", "register"}),
        ("  min_label_share: 0.1", "  min_label_share: 0.2", {"validate", "pairs", "report", "register"}),
        ("  target_precision: 0.9", "  target_precision: 0.8", {"evaluate", "report", "register"}),
        ("  image_cache_mb: 256", "  image_cache_mb: 64", {"report", "register"}),
    ],
)
def test_a_changed_setting_makes_stale_what_reads_it(reproduced: Path, old: str, new: str, stages: set[str]) -> None:
    """Point 14: what DVC reads from params.yaml is what the step reads."""
    with changed(reproduced / "params.yaml", old, new):
        assert stale(reproduced) == stages


def test_another_rule_for_pairs_makes_the_pairs_stale(reproduced: Path) -> None:
    """Point 14: `dvc repro` kept the pairs when `pairs` of data/catalog.yaml changed."""
    description = (reproduced / "data/catalog.yaml").read_text()
    one = "  max_pairs_per_family: 3"
    line = next((line for line in description.splitlines() if "max_pairs_per_family" in line), "")
    with changed(reproduced / "data/catalog.yaml", line or "pairs:", one if line else f"pairs:\n{one}"):
        assert {"ingest", "validate", "pairs"} <= stale(reproduced)
    assert not stale(reproduced)


def test_a_run_whose_stages_dvc_does_not_know_is_refused(reproduced: Path) -> None:
    """Point 14: a stage that reads more than dvc.yaml says would keep stale results."""
    with changed(reproduced / "dvc.yaml", "    - mlim/losses.py\n", ""):
        refused = run_in(reproduced, ["mlim", "run", "--recipe", "params.yaml"], check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("error:") == 1
    assert "mlim pipeline --write" in refused.stderr


def test_a_stage_that_is_refused_through_dvc_keeps_its_results(reproduced, monkeypatch):
    """Point 20: DVC does not remove the outputs of a stage before the stage knows that it may write."""
    work = Workspace(reproduced / "build" / "demo")

    def results():
        return {str(path): sha256_of(path) for path in work.valid.rglob("*") if path.is_file()}

    with locked(work, load_recipe(str(reproduced / "params.yaml")).record, "mlim run"):
        monkeypatch.delenv(TOKENS)  # as in another terminal
        before = results()
        done = run_in(reproduced, ["dvc", "repro", "--force", "--single-item", "validate"], check=False)
        assert done.returncode != 0
        assert "is writing there" in done.stdout + done.stderr
        assert results() == before


CHARTS = {
    "build/demo/evaluation/curve.csv": "name",
    "build/demo/ablation/table.csv": "row",
    "build/demo/ablation/pretraining_losses.csv": "name",
    "build/demo/ablation/finetuning_losses.csv": "name",
}


@pytest.fixture(scope="module")
def charts(reproduced: Path) -> dict[str, dict[str, Any]]:
    """What `dvc plots show` draws, by the path of the table: specifications of Vega-Lite with their data."""
    shown = json.loads(run_in(reproduced, ["dvc", "plots", "show", "--json"]).stdout)
    assert not shown.get("errors")
    return {path: found[0]["content"] for path, found in shown["data"].items()}


def test_every_chart_of_dvc_has_a_named_curve_for_each_variant(reproduced: Path, charts) -> None:
    """The chart of variants was empty, and all curves of a chart had one name."""
    recipe = load_recipe(str(reproduced / "params.yaml"))
    variants, starts = set(recipe.variants), {variant.pretraining for variant in recipe.variants.values()} - {None}
    named = {path: {point[CHARTS[path]] for point in chart["data"]["values"]} for path, chart in charts.items()}
    assert named["build/demo/ablation/table.csv"] == variants
    assert named["build/demo/ablation/pretraining_losses.csv"] == starts
    assert named["build/demo/ablation/finetuning_losses.csv"] == variants
    assert named["build/demo/evaluation/curve.csv"] >= {recipe.main, "boosted-trees", "text only", "picture only"}
    assert charts.keys() == CHARTS.keys()


def test_every_chart_of_dvc_finds_its_numbers(charts) -> None:
    for path, chart in charts.items():
        points, encodings = chart["data"]["values"], list(found_in(chart, "encoding"))
        axes = [each[axis] for each in encodings for axis in ("x", "y") if axis in each]
        numbers = {axis["field"] for axis in axes if axis["type"] == "quantitative"} - {"low", "high"}
        assert len(numbers) == (1 if path.endswith("table.csv") else 2), path
        assert all(np.isfinite(float(point[name])) for point in points for name in numbers), path
        named = {channel["field"] for each in encodings for channel in each.values() if channel}
        assert named <= points[0].keys(), path


def found_in(value: Any, key: str) -> Iterator[Any]:
    """What has this key, anywhere in a nested value."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and key in value:
        yield value[key]
    for child in children:
        yield from found_in(child, key)


def test_the_metrics_of_dvc_are_few_and_those_that_matter(reproduced: Path) -> None:
    with chdir(reproduced), Repo() as repo:
        (found,) = repo.metrics.show()[""]["data"].values()
    metrics = found["data"]
    assert {"validation/pr_auc", "test/pr_auc", "test/boosted-trees", "test/prevalence"} <= metrics.keys()
    assert len(metrics) <= 10
    summary = json.loads((reproduced / "build/demo/evaluation/summary.json").read_text())
    assert metrics["test/pr_auc"] == summary["registered"]["pr_auc"]["value"]


@pytest.fixture(scope="module")
def colleague(reproduced: Path, tmp_path_factory: pytest.TempPathFactory, new_store) -> Path:
    """A clone on another machine: code and dvc.lock from git, data and results from the folder that both share."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shared, clone = elsewhere / "remote", elsewhere / "clone"
    settings = f"[core]\n    remote = shared\n[cache]\n    type = hardlink\n['remote \"shared\"']\n    url = {shared}\n"
    (reproduced / ".dvc/config.local").write_text(settings)
    try:
        with chdir(reproduced), Repo() as repo:
            assert repo.push() > 0
    finally:
        (reproduced / ".dvc/config.local").unlink()
    run_in(reproduced, ["git", "clone", "--quiet", ".", str(clone)])
    shutil.copy(reproduced / "dvc.lock", clone / "dvc.lock")
    run_in(clone, ["git", "add", "dvc.lock"])
    run_in(clone, ["git", *IDENTITY, "commit", "--quiet", "-m", "results"])
    (clone / ".dvc/config.local").write_text(settings)
    with chdir(clone), Repo() as repo:
        repo.pull()
    new_store(clone / "mlflow.db")
    return clone


def test_a_colleague_pulls_data_and_results_and_nothing_is_left_to_do(reproduced: Path, colleague: Path) -> None:
    for name in ("data/catalog.yaml", "build/demo/report/index.html", "build/demo/registration/summary.json"):
        assert (colleague / name).read_bytes() == (reproduced / name).read_bytes()
    done = run_in(colleague, ["dvc", "repro"])
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout
    assert run_in(colleague, ["git", "status", "--porcelain"]).stdout == ""


def test_an_experiment_in_a_copy_keeps_its_runs_and_can_be_applied(colleague: Path) -> None:
    """`dvc exp run --temp` left its runs in mlflow.db of the copy, which DVC removes."""
    change = ["--set-param", "evaluate.min_recall=0.3"]
    run_in(colleague, ["dvc", "exp", "run", "--temp", "--name", "recall", *change, "evaluate"])
    store = mlflow.MlflowClient(tracking_uri=f"sqlite:///{colleague / 'mlflow.db'}")
    (judged,) = [run for run in all_runs(store) if run.data.tags.get("mlim.dvc_experiment") and is_child(run)]
    assert judged.data.tags["mlim.dvc_experiment"] == "recall"
    assert Path(judged.info.artifact_uri.removeprefix("file://")).is_relative_to(colleague / "mlruns")
    assert not list((colleague / ".dvc/tmp").rglob("mlflow.db"))
    with chdir(colleague), Repo() as repo:
        repo.experiments.apply("recall")
    summary = json.loads((colleague / "build/demo/evaluation/summary.json").read_text())
    assert summary["run_id"] == judged.info.run_id
    assert "min_recall: 0.3" in (colleague / "params.yaml").read_text()


def test_an_applied_experiment_is_compared_with_the_last_commit(colleague: Path) -> None:
    """What docs/dvc.md says of `dvc params diff`, `dvc metrics diff` and `dvc exp show`; after the experiment above."""
    (parameters,) = dvc(colleague, "params", "diff").values()
    assert {name: each["new"] for name, each in parameters.items()} == {"evaluate.min_recall": 0.3}
    (metrics,) = dvc(colleague, "metrics", "diff", "--all").values()
    assert metrics["test/pr_auc"]["diff"] == 0  # another threshold, the same scores
    workspace, commit = dvc(colleague, "exp", "show")
    (recall,) = (one for group in commit["experiments"] for one in group["revs"])
    assert recall["name"] == "recall"
    asked = [shown["data"]["params"]["params.yaml"]["data"]["evaluate"]["min_recall"] for shown in (workspace, recall)]
    assert asked == [0.3, 0.3]
    assert commit["data"]["params"]["params.yaml"]["data"]["evaluate"]["min_recall"] != 0.3


def dvc(folder: Path, *words: str) -> Any:
    """What a command of DVC prints with `--json`."""
    return json.loads(run_in(folder, ["dvc", *words, "--json"]).stdout)


def test_a_catalog_too_large_for_the_cache_goes_to_the_remote_alone(colleague: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big/catalog.yaml").write_text("source: table\n")
    cache, shared = colleague / ".dvc/cache/files/md5", colleague.parent / "remote/files/md5"
    before = set(cache.rglob("*"))
    with chdir(colleague), Repo() as repo:
        repo.add(str(tmp_path / "big"), to_remote=True, out="big")
        assert not Path("big").exists()
        assert set(cache.rglob("*")) == before
        repo.pull("big")
    assert (colleague / "big/catalog.yaml").read_text() == "source: table\n"
    (line,) = [line for line in (colleague / "big.dvc").read_text().splitlines() if "md5: " in line]
    version = line.split()[-1]
    assert (shared / version[:2] / version[2:]).is_file()
    with chdir(colleague):
        assert _dvc_version(Path("big/catalog.yaml").absolute()) == version


def is_child(run: mlflow.entities.Run) -> bool:
    return "mlflow.parentRunId" in run.data.tags


START_SECONDS = 90
RENDER_MILLISECONDS = 15_000


@pytest.fixture(scope="module")
def mlflow_ui(reproduced: Path) -> Iterator[str]:
    """`mlim ui` as the demo prints it, on the database of the finished pipeline."""
    port = free_port()
    command = ["mlim", "ui", "--recipe", "params.yaml", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=reproduced, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health"):
            assert time.monotonic() < deadline, "mlim ui did not start"
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.parametrize("host", ["shop.example", "10.shop.example", "192.168.shop.example:5000", "10.0.0.1"])
def test_the_pages_of_runs_are_not_served_under_another_name(mlflow_ui: str, host: str) -> None:
    """Point 21: a foreign Host header is refused; MLflow's own rules let in all that begins like a private address."""
    assert status(mlflow_ui, {}) == 200
    assert status(mlflow_ui, {"Host": host}) == 403


def test_pages_of_other_sites_change_no_runs(mlflow_ui: str) -> None:
    """Point 21: a POST with a foreign Origin is refused, and no site may frame the pages."""
    address, body = f"{mlflow_ui}/api/2.0/mlflow/runs/search", b'{"experiment_ids": ["0"]}'
    headers = {"Content-Type": "application/json"}
    assert status(address, headers, body) == 200
    assert status(address, {**headers, "Origin": "http://shop.example"}, body) == 403
    with urllib.request.urlopen(mlflow_ui, timeout=30) as answer:
        assert answer.headers["X-Frame-Options"] == "DENY"


def status(address: str, headers: dict[str, str], body: bytes | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_compare_page_shows_the_variants_side_by_side(browser: str, reproduced: Path, mlflow_ui: str) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{reproduced / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "mlim"]
    runs = client.search_runs([experiment.experiment_id], "tags.`mlim.stage` = 'finetune'", max_results=2)
    ids = urllib.parse.quote(str([run.info.run_id for run in runs]).replace("'", '"'))
    experiments = urllib.parse.quote(f'["{experiment.experiment_id}"]')
    address = f"{mlflow_ui}/#/compare-runs?runs={ids}&experiments={experiments}"
    page = rendered(browser, address, milliseconds=RENDER_MILLISECONDS)
    for run in runs:
        assert run.info.run_name in page


def test_the_report_needs_nothing_from_outside(browser: str, reproduced: Path) -> None:
    path = reproduced / "build/demo/report/index.html"
    page = rendered(browser, path.as_uri())
    assert "RECON + MLM + MAM" in page
    assert re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", path.read_text()) == []
