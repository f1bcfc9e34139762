"""Runs in a real tracking server on this machine, and in processes that are stopped or start together."""

import base64
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlim.errors import InputError
from mlim.files import read_json
from mlim.recipe import Recipe
from mlim.tracking import check_server, client, stage_run, tracking_uri
from mlim.workspace import Workspace
from tests.mlflow_server import LINEAGE, MlflowServer, tracked_at

pytestmark = pytest.mark.integration

SERVER_SECONDS = 180
STOP_SECONDS = 30


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture(autouse=True)
def few_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that tests leave running."""
    with MlflowServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of what stands before a server and asks for a login, as a proxy does."""

    class Guard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = f"Basic {base64.b64encode(b'anna:pass word').decode()}"
            self.send_response(200 if self.headers.get("Authorization") == wanted else 401)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


def test_a_server_behind_a_login_is_asked_with_it(guarded, monkeypatch):
    with pytest.raises(
        InputError, match="asks for a login and takes none that was given; set MLFLOW_TRACKING_USERNAME"
    ):
        check_server(tracked_at(f"http://{guarded}").tracking)
    with pytest.raises(InputError, match="asks for a login"):
        check_server(tracked_at(f"http://anna:wrong@{guarded}").tracking)
    check_server(tracked_at(f"http://anna:pass%20word@{guarded}").tracking)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pass word")
    check_server(tracked_at(f"http://{guarded}").tracking)


def test_a_server_keeps_runs_files_and_what_came_while_it_was_away(server, workspace, tmp_path):
    recipe = tracked_at(server.address)
    check_server(recipe.tracking)
    (tmp_path / "table.csv").write_text("a\n")
    with stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE) as run:
        run.artifact(tmp_path / "table.csv")
        run.log({"mlm": 3.0}, 1)
        run.flush()
        server.stop()
        run.log({"mlm": 2.0}, 2)
        run.flush()
        run.log({"mlm": 1.0}, 3)
        server.start()
    store = client(recipe.tracking)
    found = store.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")
    assert [(point.step, point.value) for point in store.get_metric_history(run.id, "mlm")] == [(1, 3), (2, 2), (3, 1)]
    assert {entry.path for entry in store.list_artifacts(run.id)} == {"recipe.yaml", "table.csv"}
    parent = store.get_run(read_json(workspace.pipeline)["run_id"])
    assert parent.info.run_id == found.data.tags["mlflow.parentRunId"]


def test_a_server_that_is_away_before_a_run_is_refused(server, workspace):
    recipe = tracked_at(server.address)
    server.stop()
    with (
        pytest.raises(InputError, match=f"{server.address} cannot be reached"),
        stage_run(recipe.record, workspace, "pretrain", "x", LINEAGE),
    ):
        pytest.fail("nothing may begin")
    server.start()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tracked_at(f"sqlite:///{tmp_path / 'fresh.db'}")


SCRIPT = """
import os, sys, time
from pathlib import Path
from mlim.recipe import load_recipe
from mlim.tracking import stage_run
from mlim.versions import Lineage
from mlim.workspace import Workspace
from tests.mlflow_server import MlflowServer

recipe = load_recipe("demo", [f"tracking.uri={sys.argv[1]}"])
origin = Lineage("unknown", False, "data", "passed")
with stage_run(recipe.record, Workspace(Path(sys.argv[2])), "pretrain", "x", origin) as run:
    run.log({"mlm": 1.0}, 1)
    print(run.id, flush=True)
    time.sleep(float(sys.argv[3]))
"""


def start(recipe: Recipe, workspace: Workspace, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, tracking_uri(recipe.tracking), str(workspace.root), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_and_wait(recipe: Recipe, workspace: Workspace, seconds: float) -> tuple["subprocess.Popen[str]", str]:
    process = start(recipe, workspace, seconds)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def status_of(recipe: Recipe, run_id: str) -> str:
    return str(client(recipe.tracking).get_run(run_id).info.status)


def test_sigterm_closes_the_run_and_a_kill_is_noticed_later(recipe, workspace):
    process, run_id = start_and_wait(recipe, workspace, seconds=60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=STOP_SECONDS) == 128 + signal.SIGTERM
    assert status_of(recipe, run_id) == "KILLED"
    assert client(recipe.tracking).get_run(run_id).data.metrics == {"mlm": 1.0}
    process, killed = start_and_wait(recipe, workspace, seconds=60)
    process.kill()
    process.wait(timeout=STOP_SECONDS)
    assert status_of(recipe, killed) == "RUNNING"
    process, last = start_and_wait(recipe, workspace, seconds=0)
    _, errors = process.communicate(timeout=STOP_SECONDS)
    assert (process.returncode, errors) == (0, "")
    assert [status_of(recipe, each) for each in (killed, last)] == ["KILLED", "FINISHED"]


def test_a_new_database_survives_processes_that_start_at_once(recipe, workspace):
    processes = [start(recipe, workspace, seconds=0) for _ in range(3)]
    results = [(process.communicate(timeout=SERVER_SECONDS)[1], process.returncode) for process in processes]
    assert results == [("", 0)] * len(processes)
    experiment = client(recipe.tracking).get_experiment_by_name("mlim")
    runs = client(recipe.tracking).search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["mlim.stage"] for run in runs) == ["pipeline", "pretrain", "pretrain", "pretrain"]
