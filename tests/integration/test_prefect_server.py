"""`make serve-prefect` for real: server, pool, worker, and the deployment run that a person would start."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.integration.conftest import ROOT, environment, free_port, make_checkout, run_in

pytestmark = pytest.mark.integration

START_SECONDS = 120
CANCEL_SECONDS = 90
STOP_SECONDS = 60


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one pre-training and three rows, so that the whole job fits into a test."""
    folder = make_checkout(tmp_path_factory.mktemp("prefect"))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["rows"] = {name: values["rows"][name] for name in ("recon-mlm-mam", "no-mdo", "no-pretraining")}
    values["name"] = "tiny"
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def server(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The script behind `make serve-prefect`, with a state folder of its own; yields the client's environment."""
    port, home = str(free_port()), tmp_path_factory.mktemp("prefect-home")
    settings = {"PORT": port, "PREFECT_HOME": str(home), "MLIM_ROOT": str(checkout)}
    client = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_HOME": str(home)}
    log = (home / "serve.log").open("w")
    process = subprocess.Popen(
        ["bash", str(ROOT / "scripts/serve-prefect.sh")],
        cwd=checkout,
        env=environment(**settings),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(lambda: "Prefect is ready" in (home / "serve.log").read_text(), START_SECONDS)
        yield client
    finally:
        process.terminate()
        process.wait(timeout=STOP_SECONDS)
        log.close()
    left = [p for p in psutil.process_iter(["cmdline"]) if str(home) in environment_of(p).get("PREFECT_HOME", "")]
    assert not left, "the script left processes behind"


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)


def ask(client: dict[str, str], path: str, **body: object) -> list[dict[str, object]]:
    request = urllib.request.Request(
        f"{client['PREFECT_API_URL']}/{path}",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return list(json.load(answer))


def test_a_deployment_run_does_the_whole_job(checkout: Path, server: dict[str, str]) -> None:
    run_in(
        checkout,
        ["prefect", "deployment", "run", "pipeline/local", "--watch", "--param", "recipe=tiny.yaml"],
        **server,
    )
    assert (checkout / "build/tiny/report/index.html").is_file()
    assert json.loads((checkout / "build/tiny/registration/summary.json").read_text())["version"]
    assert (checkout / "build/tiny/logs/pretrain@recon-mlm-mam-0.log").read_text()


def test_its_artifacts_are_on_the_server(server: dict[str, str]) -> None:
    artifacts = {artifact["key"]: artifact for artifact in ask(server, "artifacts/filter")}
    assert "rows in" in str(artifacts["validation"]["data"])
    rows = json.loads(str(artifacts["ablation"]["data"]))
    assert {row["label"] for row in rows} == {"RECON + MLM + MAM", "RECON + MLM + MAM, without MDO", "no pre-training"}
    assert any(
        artifact["type"] == "progress" and artifact["data"] == 100.0 for artifact in ask(server, "artifacts/filter")
    )


def test_trainings_of_the_sweep_ran_side_by_side(server: dict[str, str]) -> None:
    runs = {str(run["name"]): run for run in ask(server, "task_runs/filter")}
    first, second = (runs[f"finetune-{row}-0"] for row in ("variant@no-mdo", "scratch@no-pretraining"))
    assert str(first["start_time"]) < str(second["end_time"])
    assert str(second["start_time"]) < str(first["end_time"])


def test_the_server_listens_on_loopback_only(server: dict[str, str]) -> None:
    port = int(server["PREFECT_API_URL"].split(":")[2].split("/")[0])
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


def test_a_wrong_recipe_fails_the_run(checkout: Path, server: dict[str, str]) -> None:
    command = ["prefect", "deployment", "run", "ingest/local", "--watch", "--param", "recipe=nonsense"]
    assert run_in(checkout, command, check=False, **server).returncode != 0


def test_cancelling_stops_every_trainer(checkout: Path, server: dict[str, str]) -> None:
    for name in ("items", "valid", "pairs", "pretrain"):
        run_in(checkout, ["mkdir", "-p", "build/long"])
        run_in(checkout, ["cp", "-r", f"build/tiny/{name}", f"build/long/{name}"])
    long = {"recipe": "tiny.yaml", "overrides": '["finetune.steps=100000"]', "work": "build/long"}
    words = [word for name, value in long.items() for word in ("--param", f"{name}={value}")]
    run_in(checkout, ["prefect", "deployment", "run", "sweep/local", *words], **server)
    wait_until(lambda: len(trainers(checkout)) == 2, START_SECONDS)
    (running,) = ask(server, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    run_in(checkout, ["prefect", "flow-run", "cancel", str(running["id"])], **server)
    wait_until(lambda: not trainers(checkout), CANCEL_SECONDS)


def trainers(checkout: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(checkout) and "finetune" in words and "--recipe" in words:
            found.append(process.info["pid"])
    return found
