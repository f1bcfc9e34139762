"""Pages that people look at, opened in a real headless browser."""

import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from scripts.chromium import rendered
from tests.integration.conftest import environment, free_port

pytestmark = pytest.mark.integration

START_SECONDS = 90
RENDER_MILLISECONDS = 15_000


@pytest.fixture
def mlflow_ui(reproduced: Path) -> Iterator[str]:
    """`mlflow ui` as the demo prints it, on the database of the finished pipeline."""
    port = free_port()
    command = ["mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=reproduced, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health"):
            assert time.monotonic() < deadline, "mlflow ui did not start"
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


def test_the_compare_page_shows_the_rows_side_by_side(browser: str, reproduced: Path, mlflow_ui: str) -> None:
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
