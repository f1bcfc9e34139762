"""The environment that a run meets (proxies, a slow start, another database), and what doctor says of it."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import CLOSED_PROXIES, run_in
from tests.small_catalog import small_catalog

pytestmark = pytest.mark.integration

OWN_SERVER = """
import json, os, signal, sys, urllib.error, urllib.request
from flows.engine import engine

with engine() as address:
    from prefect import flow
    from prefect.server.api.server import SubprocessASGIServer

    @flow
    def ask():
        server = SubprocessASGIServer._instances[None].api_url
        for headers in ({}, {"Authorization": "Basic bWxpbTp3cm9uZw=="}):
            request = urllib.request.Request(f"{server}/deployments/filter", b"{}", headers, method="POST")
            try:
                print(urllib.request.urlopen(request, timeout=30).status)
            except urllib.error.HTTPError as error:
                print(error.code)

    ask()
    process = SubprocessASGIServer._instances[None].server_process
    os.kill(process.pid, signal.SIGINT)  # Ctrl-C, which a terminal sends to all processes
    ask()
print(process.poll(), address, sorted(name for name in os.environ if name.lower().endswith("_proxy")))
"""


def test_the_server_of_one_run_starts_behind_proxies_and_lets_nobody_in(tmp_path: Path) -> None:
    """Points 18 and 21: proxies that lead nowhere are not asked for loopback; a stranger gets 401.

    Ctrl-C is for the run, which tells the server how it ended.
    """
    settings = {"PREFECT_HOME": str(tmp_path), **CLOSED_PROXIES}
    said = run_in(Path.cwd(), [sys.executable, "-c", OWN_SERVER], **settings).stdout
    assert said.splitlines() == [*["401"] * 4, "None None ['NO_PROXY', 'no_proxy']"]


def doctor(folder: Path, **settings: str) -> tuple["subprocess.CompletedProcess[str]", dict[str, dict[str, object]]]:
    done = run_in(folder, ["mlim", "doctor", "--json"], check=False, PREFECT_HOME=str(folder / "prefect"), **settings)
    return done, {str(finding["subject"]): finding for finding in json.loads(done.stdout)}


def test_doctor_starts_what_a_run_starts(tmp_path: Path) -> None:
    """Point 18: a flow, a tracked run, the suites and the device, behind proxies; the folder stays as it was."""
    done, found = doctor(tmp_path, **CLOSED_PROXIES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a flow ran in" in str(found["Prefect"]["detail"])
    assert "takes runs" in str(found["MLflow"]["detail"])
    assert "computes" in str(found["device"]["detail"])
    assert "suites in" in str(found["suites"]["detail"])
    assert [path.name for path in tmp_path.iterdir()] == ["prefect"]


def test_doctor_says_what_a_run_would_fail_at(tmp_path: Path) -> None:
    """Point 18: a start that takes too long, a database of another version, a folder that is none."""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    (tmp_path / "build").touch()
    before = (tmp_path / "mlflow.db").read_bytes()
    done, found = doctor(tmp_path, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="1")
    assert done.returncode == 1
    bad = {subject for subject, finding in found.items() if not finding["fine"]}
    assert bad == {"MLflow", "Prefect", "work folder"}
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in str(found["Prefect"]["detail"])
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_run_whose_engine_does_not_start_is_one_sentence(tmp_path: Path) -> None:
    """Point 18: no traceback, exit 1, and what to do."""
    settings = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "1"}
    catalog = small_catalog(tmp_path / "shop", rows=12).write()
    done = run_in(tmp_path, ["mlim", "run", "--catalog", str(catalog)], check=False, **settings)
    assert done.returncode == 1
    [message] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message.startswith("error: Prefect failed (RuntimeError: Timed out")
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in message
    assert "Traceback" not in done.stderr
