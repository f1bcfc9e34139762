"""An MLflow server that goes away while a run is open: nothing is lost, nothing comes twice, the status is right."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlim.recipe import Recipe
from mlim.tracking import client, deliver_left, stage_run
from mlim.workspace import Workspace
from tests.mlflow_server import LINEAGE, MlflowServer, tracked_at

pytestmark = pytest.mark.integration

WAIT_SECONDS = 120


@pytest.fixture(autouse=True)
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def recipe(server: MlflowServer) -> Recipe:
    return tracked_at(server.address)


def points(recipe: Recipe, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(recipe.tracking).get_metric_history(run_id, "mlm")]


def test_a_server_that_comes_back_after_the_end_gets_everything_once(
    server: MlflowServer, recipe: Recipe, workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "history.csv").write_text("step\n")
    (tmp_path / "page.md").write_text("champion")
    with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
        run.log({"mlm": 3.0}, 1)
        run.flush()
        server.stop()
        for step in (2, 3):
            run.log({"mlm": 4.0 - step}, step)
            run.flush()
        run.tag("note", "a word")
        run.artifact(tmp_path / "history.csv")
        run.headline({"pr_auc": 0.5}, {"decision": tmp_path / "page.md"})
        (tmp_path / "history.csv").unlink()  # the run has a copy
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2, said
    assert f"{server.address} does not answer; the work goes on" in said[0]
    assert f"run {run.id} is completed by the next command that tracks" in said[1]

    server.start()
    with stage_run(recipe.record, workspace, "probe", "probe", LINEAGE) as later:
        pass
    store = client(recipe.tracking)
    found = store.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert points(recipe, run.id) == [(1, 3), (2, 2), (3, 1)]
    assert found.data.tags["note"] == "a word"
    assert {entry.path for entry in store.list_artifacts(run.id)} == {"recipe.yaml", "history.csv"}
    parent = store.get_run(found.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics == {"pr_auc": 0.5}
    assert store.get_run(later.id).info.end_time > found.info.end_time
    assert deliver_left(recipe.tracking, workspace) == []
    assert list(workspace.outboxes.iterdir()) == []


@pytest.mark.slow
def test_what_was_sent_but_not_acknowledged_does_not_come_twice(
    server: MlflowServer, recipe: Recipe, workspace: Workspace
) -> None:
    """A server that dies between writing and answering, or a process that dies before it notes the answer."""
    with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
        server.stop()
        run.log({"mlm": 2.0}, 2)
        run.flush()
        (waiting,) = workspace.outboxes.glob("*/*/operation.json")
        again = waiting.read_bytes()
        server.start()
        run.log({"mlm": 1.0}, 3)
        run.flush()
        waiting.parent.mkdir()
        waiting.write_bytes(again)
    assert points(recipe, run.id) == [(2, 2), (3, 1)]


@pytest.mark.slow
def test_a_failure_keeps_its_status_and_its_error(server: MlflowServer, recipe: Recipe, workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:  # noqa: PT012
        run.log({"mlm": 3.0}, 1)
        server.stop()
        raise ZeroDivisionError
    server.start()
    assert deliver_left(recipe.tracking, workspace) == [run.id]
    assert client(recipe.tracking).get_run(run.id).info.status == "FAILED"
    assert points(recipe, run.id) == [(1, 3)]


SCRIPT = """
import os, signal, sys
from pathlib import Path
from mlim.recipe import load_recipe
from mlim.tracking import stage_run
from mlim.versions import Lineage
from mlim.workspace import Workspace

recipe = load_recipe("demo", [f"tracking.uri={sys.argv[1]}"])
origin = Lineage("unknown", False, "data", "passed")
with stage_run(recipe.record, Workspace(Path(sys.argv[2])), "pretrain", "x", origin) as run:
    print(run.id, flush=True)
    input()
    run.log({"mlm": 1.0}, 1)
    run.flush()
    print("kept", flush=True)
    input()
"""


@pytest.mark.slow
def test_what_a_killed_process_had_kept_is_delivered(
    server: MlflowServer, recipe: Recipe, workspace: Workspace
) -> None:
    """And while it lives nobody else delivers it."""
    command = [sys.executable, "-c", SCRIPT, server.address, str(workspace.root)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
    assert process.stdin is not None
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    server.stop()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "kept\n"
    server.start()
    assert deliver_left(recipe.tracking, workspace) == []
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_SECONDS)
    assert deliver_left(recipe.tracking, workspace) == [run_id]
    assert points(recipe, run_id) == [(1, 1)]
