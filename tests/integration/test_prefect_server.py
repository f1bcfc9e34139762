"""`make serve-prefect` for real: server, pool, worker, and the deployment run that a person would start."""

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.integration.conftest import CLOSED_PROXIES, ROOT, environment, free_port, make_checkout, run_in
from tests.reaper import of_this_run
from tests.systems_recipe import SCENES, systems_values

pytestmark = pytest.mark.integration

START_SECONDS = 600  # the server, its `prefect` commands and the worker, on a machine with other work
CANCEL_SECONDS = 90
EVENT_SECONDS = 60
STOP_SECONDS = 60


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one pre-training and three variants, so that the whole job fits into a test."""
    folder = make_checkout(tmp_path_factory.mktemp("prefect"))
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["variants"] = {name: values["variants"][name] for name in ("recon-mlm-mam", "no-mdo", "no-pretraining")}
    values["name"] = "tiny"
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    _wait_for_labels(folder)
    return folder


def _wait_for_labels(folder: Path) -> None:
    """A catalog with a table of labels, of which two are enough; both deployments that wait for events do."""
    catalog = yaml.safe_load((folder / "data/catalog.yaml").read_text())
    places = {name: f"data/{catalog[name]}" for name in ("table", "images")}
    (folder / "asked.yaml").write_text(yaml.safe_dump({**catalog, **places, "pairs": {"labelled": "labels.csv"}}))
    declared = yaml.safe_load((folder / "prefect.yaml").read_text())
    labels, new_data = [one for one in declared["deployments"] if "triggers" in one]
    labels["parameters"] |= {"recipe": "tiny.yaml", "catalog": "asked.yaml", "work": "build/asked", "least": 2}
    new_data["triggers"][0]["enabled"] = True
    (folder / "prefect.yaml").write_text(yaml.safe_dump(declared))


class _Webhook(BaseHTTPRequestHandler):
    """Keeps what it is told."""

    def do_POST(self) -> None:
        told: list[str] = self.server.told  # type: ignore[attr-defined]
        told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture(scope="module")
def webhook() -> Iterator[HTTPServer]:
    """A server on loopback; what it is told is in `told`."""
    with HTTPServer(("127.0.0.1", 0), _Webhook) as listening:
        listening.told = []  # type: ignore[attr-defined]
        Thread(target=listening.serve_forever, daemon=True).start()
        yield listening
        listening.shutdown()


@pytest.fixture(scope="module")
def server(checkout: Path, webhook: HTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `make serve-prefect` runs, with a state folder of its own and proxies that are no way to loopback.

    Yields the client's environment, as the last lines of the output say it.
    """
    port, home = str(free_port()), tmp_path_factory.mktemp("prefect-home")
    settings = {
        "PORT": port,
        "PREFECT_HOME": str(home),
        "MLIM_ROOT": str(checkout),
        "MLIM_NOTIFY_URL": f"http://127.0.0.1:{webhook.server_port}/",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # not 10: a dozen runs wait for the worker
    }
    log = (home / "serve.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.server"],
        cwd=checkout,
        env=environment(**settings, **CLOSED_PROXIES),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(lambda: "Prefect is ready" in (home / "serve.log").read_text(), START_SECONDS)
        secret = (home / "mlim-login").read_text().strip()
        yield {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_API_AUTH_STRING": secret,
            "PREFECT_HOME": str(home),
        }
    finally:
        process.terminate()
        process.wait(timeout=STOP_SECONDS)
        log.close()
    left = [process for process in of_this_run() if str(home) in process.info["environ"].get("PREFECT_HOME", "")]
    assert not left, "the script left processes behind"


@pytest.fixture(scope="module")
def job(checkout: Path, server: dict[str, str]) -> Path:
    """The work folder of the whole job, run once as a person would start it."""
    command = ["prefect", "deployment", "run", "pipeline/local", "--watch", "--param", "recipe=tiny.yaml"]
    run_in(checkout, command, **server)
    return checkout / "build/tiny"


def wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.5)


def basic(secret: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}


def request(client: dict[str, str], path: str, headers: dict[str, str], body: object) -> urllib.request.Request:
    return urllib.request.Request(
        f"{client['PREFECT_API_URL']}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json", **headers},
    )


def ask(client: dict[str, str], path: str, **body: object) -> list[dict[str, object]]:
    with urllib.request.urlopen(
        request(client, path, basic(client["PREFECT_API_AUTH_STRING"]), body), timeout=30
    ) as answer:
        return list(json.load(answer))


def status(client: dict[str, str], path: str, body: object = None, **headers: str) -> int:
    """Of a GET, or of a POST when there is a body."""
    try:
        with urllib.request.urlopen(request(client, path, headers, body), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_deployment_run_does_the_whole_job(job: Path) -> None:
    assert (job / "report/index.html").is_file()
    assert json.loads((job / "registration/summary.json").read_text())["version"]
    assert (job / "logs/pretrain@recon-mlm-mam-0.log").read_text()


def test_a_deployment_run_matches_a_catalog_with_a_model_of_before(
    checkout: Path, server: dict[str, str], job: Path
) -> None:
    asked = ["model=build/tiny", "work=build/tonight", "recipe=tiny.yaml", "out=tonight"]
    parameters = [word for one in asked for word in ("--param", one)]
    run_in(checkout, ["prefect", "deployment", "run", "match/local", "--watch", *parameters], **server)
    matched = json.loads((checkout / "tonight/summary.json").read_text())
    by_the_pipeline = json.loads((job / "matches/summary.json").read_text())
    counts = ("items", "candidates", "scored", "matches", "groups")
    assert {key: matched[key] for key in counts} == {key: by_the_pipeline[key] for key in counts}
    artifacts = {artifact["key"]: artifact for artifact in ask(server, "artifacts/filter")}
    assert f"{matched['matches']:,} of {matched['scored']:,} scored pairs match" in str(artifacts["matches"]["data"])


def test_schedules_wait_to_be_switched_on(server: dict[str, str]) -> None:
    schedules = [schedule for one in deployments(server) for schedule in one["schedules"]]
    assert {one["schedule"]["cron"]: one["active"] for one in schedules} == dict.fromkeys(
        ("0 1 * * *", "0 3 * * *", "0 4 * * 0"), False
    )


def test_the_run_form_gets_titles_descriptions_and_choices(server: dict[str, str]) -> None:
    schemas = {one["name"]: one["parameter_openapi_schema"]["properties"] for one in deployments(server)}
    recipe, start = schemas["local"]["recipe"], schemas["weekly"]["start"]
    assert (recipe["title"], recipe["default"]) == ("Recipe", "demo")
    assert "demo" in recipe["anyOf"][0]["enum"]
    assert start["enum"][:3] == ["ingest", "validate", "pairs"]
    assert all(parameter["description"] for schema in schemas.values() for parameter in schema.values())


@pytest.mark.usefixtures("job")
def test_its_artifacts_are_on_the_server(server: dict[str, str]) -> None:
    artifacts = {artifact["key"]: artifact for artifact in ask(server, "artifacts/filter")}
    assert "rows in" in str(artifacts["validation"]["data"])
    rows = json.loads(str(artifacts["ablation"]["data"]))
    assert {row["label"] for row in rows} == {"RECON + MLM + MAM", "RECON + MLM + MAM, without MDO", "no pre-training"}
    scores = {row["scores"]: row["value"] for row in json.loads(str(artifacts["pr-auc"]["data"]))}
    assert {"main model, both", "main model, image", "main model, text"} <= scores.keys()
    assert "report/index.html`" in str(artifacts["results"]["data"])
    assert "file://" not in str(artifacts)
    assert any(
        artifact["type"] == "progress" and artifact["data"] == 100.0 for artifact in ask(server, "artifacts/filter")
    )


@pytest.mark.usefixtures("job")
def test_a_variant_was_trained_beside_the_main_model(server: dict[str, str]) -> None:
    runs = {str(run["name"]): (str(run["start_time"]), str(run["end_time"])) for run in ask(server, "task_runs/filter")}
    began, ended = runs["pretrain@recon-mlm-mam-0"][0], runs["evaluate"][1]
    others = [runs[f"finetune-{row}-0"] for row in ("variant@no-mdo", "scratch@no-pretraining")]
    assert any(start < ended and end > began for start, end in others)


def test_the_server_listens_on_loopback_only(server: dict[str, str]) -> None:
    port = int(server["PREFECT_API_URL"].split(":")[2].split("/")[0])
    open_ones = [each for process in of_this_run("net_connections") for each in process.info["net_connections"] or ()]
    listening = {each.laddr.ip for each in open_ones if each.status == "LISTEN" and each.laddr.port == port}
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("path", ["deployments/filter", "deployments/", "work_pools/", "admin/database/clear"])
@pytest.mark.parametrize("body", [{}, None])
def test_nobody_gets_in_without_the_login(server: dict[str, str], path: str, body: object) -> None:
    """Point 21: the server answers 401 to whoever does not know the secret of the file."""
    assert status(server, path, body) == 401
    for wrong in ("mlim:wrong", server["PREFECT_API_AUTH_STRING"] + "x", ""):
        assert status(server, path, body, **basic(wrong)) == 401
    assert status(server, "deployments/filter", {}, **basic(server["PREFECT_API_AUTH_STRING"])) == 200


def test_only_the_health_check_itself_is_open(server: dict[str, str]) -> None:
    """Point 21: versions of Prefect before 3.6.22 let every path pass that ends in `health`."""
    assert status(server, "health") == 200
    assert status(server, "variables/name/my-health") == 401


def test_the_login_lies_in_a_file_of_mode_600_and_is_shown_nowhere(server: dict[str, str]) -> None:
    """Point 21: neither the terminal, nor a log, nor the list of processes has the secret."""
    home, (_, password) = Path(server["PREFECT_HOME"]), server["PREFECT_API_AUTH_STRING"].split(":")
    assert (home / "mlim-login").stat().st_mode & 0o777 == 0o600
    assert len(password) >= 32
    said = (home / "serve.log").read_text()
    assert f'export PREFECT_API_AUTH_STRING="$(cat {home / "mlim-login"})"' in said
    assert password not in said + (home / "mlim-server.log").read_text()
    words = [word for process in of_this_run("cmdline") for word in process.info["cmdline"] or ()]
    assert not [word for word in words if password in word]


def test_pages_of_other_sites_are_not_served(server: dict[str, str]) -> None:
    """Point 21: another origin gets no permission, and a foreign Host header (DNS rebinding) no answer."""
    login = basic(server["PREFECT_API_AUTH_STRING"])
    own = server["PREFECT_API_URL"].removesuffix("/api")
    allowed = {}
    for origin in (own, "http://shop.example", "null"):
        asked = request(server, "deployments/filter", {**login, "Origin": origin}, {})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            allowed[origin] = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == {own: own, "http://shop.example": None, "null": None}
    for host in ("shop.example", "127.0.0.1.shop.example", "127.shop.example:4277"):
        assert status(server, "deployments/filter", {}, **login, Host=host) == 400


@pytest.mark.parametrize("pool", ["process", "docker", "kubernetes"])
def test_the_server_takes_the_examples_of_work_pools(server: dict[str, str], pool: str) -> None:
    template = json.loads((ROOT / "deployments" / f"{pool}.json").read_text())
    login = basic(server["PREFECT_API_AUTH_STRING"])
    made = {"name": f"example-{pool}", "type": pool, "base_job_template": template}
    assert status(server, "work_pools/", made, **login) == 201
    asked = request(server, f"work_pools/example-{pool}", login, None)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert json.load(answer)["base_job_template"]["job_configuration"] == template["job_configuration"]


@pytest.mark.parametrize("protocols", [["prefect"], None])
def test_events_are_not_told_to_strangers(server: dict[str, str], protocols: list[str] | None) -> None:
    """Point 21: the websocket asks for the login too."""
    address = server["PREFECT_API_URL"].replace("http", "ws", 1) + "/events/out"
    with pytest.raises((ConnectionClosed, InvalidStatus)) as refused:
        _events(address, protocols)
    if isinstance(refused.value, InvalidStatus):
        assert refused.value.response.status_code == 403
    else:
        assert refused.value.rcvd.code == 1008


def _events(address: str, protocols: list[str] | None) -> None:
    """Ask for events with a wrong login."""
    with connect(address, subprotocols=protocols, proxy=None) as socket:
        socket.send(json.dumps({"type": "auth", "token": "mlim:wrong"}))
        socket.recv(timeout=30)


@pytest.mark.parametrize("same", ["port", "folder"])
def test_a_second_start_leaves_the_first_ones_deployments(
    same: str, server: dict[str, str], tmp_path: Path, checkout: Path
) -> None:
    """Point 21: a used port, or a database in use, ends a second start before it deploys anything."""
    port = server["PREFECT_API_URL"].split(":")[2].split("/")[0]
    before = deployments(server)
    settings = {
        "port": {"PORT": port, "PREFECT_HOME": str(tmp_path)},
        "folder": {"PORT": str(free_port()), "PREFECT_HOME": server["PREFECT_HOME"]},
    }
    command = [sys.executable, "-m", "flows.server"]
    second = run_in(checkout, command, check=False, MLIM_ROOT=str(tmp_path), **settings[same])
    assert second.returncode == 1
    assert "nothing was deployed" in second.stderr
    assert "Traceback" not in second.stderr
    assert deployments(server) == before


def deployments(server: dict[str, str]) -> list[dict[str, Any]]:
    """All deployments, but for the time at which the worker last asked for runs, which goes on."""
    return [
        {name: value for name, value in one.items() if name != "last_polled"}
        for one in ask(server, "deployments/filter")
    ]


def test_a_run_without_the_login_says_how_to_get_it(checkout: Path, server: dict[str, str]) -> None:
    """Point 21: `mlim run` on the server without the login is one sentence with the line to paste."""
    stranger = {name: value for name, value in server.items() if name != "PREFECT_API_AUTH_STRING"}
    done = run_in(checkout, ["mlim", "run", "--recipe", "tiny.yaml", "--work", "build/x"], check=False, **stranger)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the Prefect server")
    assert f'export PREFECT_API_AUTH_STRING="$(cat {server["PREFECT_HOME"]}/mlim-login)"' in done.stderr
    assert "Traceback" not in done.stderr


HEALTH = """
from flows import health
from flows.engine import engine

with engine():
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        client.increment_concurrency_slots(["gpu"], 1, "concurrency")  # without a run that holds the slot
        print([found.command for found in health._limit(client)])
        print(health.mend_limit(client), [found.fine for found in health._limit(client)])
        client.delete_global_concurrency_limit_by_name("gpu")
        print([found.command for found in health._limit(client)])
        print(health.mend_limit(client), [found.fine for found in health._limit(client)])
        print([found.command for found in health.worker(client, "nobody")])
"""


def test_doctor_finds_what_is_wrong_with_the_server_and_mends_what_is_safe(
    checkout: Path, server: dict[str, str]
) -> None:
    """A slot that nobody holds, a limit and a pool that are missing, another login."""
    said = run_in(checkout, [sys.executable, "-c", HEALTH], **server).stdout.splitlines()
    assert said == [
        "['prefect gcl update gpu --active-slots 0']",
        "['1 slots of the limit `gpu` were held by nobody and are free'] [True]",
        "['prefect gcl create gpu --limit 1']",
        "['the limit `gpu` was missing and is there: 1 training at a time'] [True]",
        "['prefect work-pool create nobody --type process']",
    ]
    looked = run_in(checkout, ["mlim", "doctor", "--quick", "--json"], check=False, **server).stdout
    found = {one["subject"]: one["fine"] for one in json.loads(looked)}
    subjects = ("Prefect", "GPU limit", "flow runs", "worker", "deployments")
    assert {name: found[name] for name in subjects} == dict.fromkeys(subjects, True)
    stranger = {**server, "PREFECT_API_AUTH_STRING": "mlim:another-secret-of-somebody"}
    (only,) = json.loads(run_in(checkout, [sys.executable, "-m", "flows.health"], **stranger).stdout)
    assert not only["fine"]
    assert f"{server['PREFECT_HOME']}/mlim-login" in only["command"]


def test_a_wrong_recipe_fails_the_run_with_its_sentence_and_the_webhook_is_told(
    checkout: Path, server: dict[str, str], webhook: HTTPServer
) -> None:
    command = ["prefect", "deployment", "run", "ingest/local", "--watch", "--param", "recipe=nonsense"]
    assert run_in(checkout, command, check=False, **server).returncode != 0
    run = finished(server, "ingest")[-1]
    assert run["name"] == "data, nonsense, by hand"
    assert "unknown recipe `nonsense`" in run["state"]["message"]
    told: list[str] = webhook.told  # type: ignore[attr-defined]
    wait_until(
        lambda: any(text.startswith("ingest (data, nonsense, by hand) Failed: ") for text in told), EVENT_SECONDS
    )


STAGES = """
import sys
from pathlib import Path
from prefect import flow
from flows.children import Children
from flows.stage import run_command

AWAY = "import pathlib; seen = pathlib.Path('seen'); code = 0 if seen.exists() else 75; seen.touch(); exit(code)"
QUICK = run_command.with_options(retry_delay_seconds=[0, 0])

@flow(name="stages")
def stages(logs: str):
    with Children() as children:
        QUICK("away", [sys.executable, "-c", AWAY], Path(logs), children, quiet=True)
        wrong = [sys.executable, "-m", "mlim", "ingest", "--catalog", "missing.yaml", "--work", "build/wrong"]
        QUICK("wrong", wrong, Path(logs), children, quiet=True)

stages("stage-logs")
"""


def test_a_stage_is_tried_again_after_a_lost_server_and_never_after_bad_input(
    checkout: Path, server: dict[str, str]
) -> None:
    """What a stage prints is in the log of its run, and the state of the run says why it failed."""
    failed = run_in(checkout, [sys.executable, "-c", STAGES], check=False, **server)
    assert failed.returncode != 0
    (run,) = finished(server, "stages")
    assert "stage wrong failed: missing.yaml: cannot be read" in run["state"]["message"]
    tasks = ask(server, "task_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
    assert {task["name"]: task["run_count"] for task in tasks} == {"away": 2, "wrong": 1}
    lines = ask(server, "logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}})
    assert any(str(line["message"]).startswith("error: missing.yaml: cannot be read") for line in lines)


def test_an_accepted_data_version_starts_fine_tuning_once(checkout: Path, server: dict[str, str], job: Path) -> None:
    work = checkout / "build/accepted"
    work.mkdir()
    for name in (".mlim-folder", "items", "valid"):
        run_in(checkout, ["cp", "-r", str(job / name), str(work / name)])
    asked = [f"--param={one}" for one in ("recipe=tiny.yaml", "work=build/accepted", "start=pairs")]
    ingest = ["prefect", "deployment", "run", "ingest/local", "--watch", *asked]
    run_in(checkout, ingest, **server)
    assert finished(server, "ingest")[-1]["state_name"] == "Completed"
    wait_until(lambda: any("data version" in run["name"] for run in finished(server, "finetune")), START_SECONDS)
    run_in(checkout, ingest, **server)
    again = finished(server, "ingest")[-1]
    assert again["state_name"] == "Unchanged"
    assert again["state"]["message"].startswith("nothing changed since 20")
    (started,) = [run for run in ask(server, "flow_runs/filter") if "data version" in str(run["name"])]
    version = json.loads((work / "valid/summary.json").read_text())["data_version"]
    assert started["name"] == f"data, tiny, data version {version[:12]}"
    assert "stage finetune@recon-mlm-mam-0 failed" in str(started["state"])  # there is no pre-training


def test_enough_new_labels_start_a_training(checkout: Path, server: dict[str, str], job: Path) -> None:
    """Issue 18: `mlim review` tells the server, whose automation runs the flow that counts."""
    (checkout / "build/asked").mkdir()
    for name in (".mlim-folder", "items", "valid"):
        run_in(checkout, ["cp", "-r", str(job / name), f"build/asked/{name}"])
    ids = pq.read_table(checkout / "build/asked/valid/index.parquet", columns=["id"])["id"].to_pylist()
    for number, state in enumerate(("COMPLETED", "FAILED"), start=1):
        answer = {
            "item_a": ids[number],
            "item_b": ids[number + 1],
            "label": "1",
            "score": "",
            "at": "2026-11-30T10:00Z",
        }
        told = {"version": 1, "by": "anna", "model": "", "answers": [answer]}
        (checkout / "answers.json").write_text(json.dumps(told))
        assert "warning" not in run_in(checkout, ["mlim", "review", "--import", "answers.json"], **server).stderr
        wait_until(lambda count=number: len(finished(server, "labels")) == count, START_SECONDS)
        assert finished(server, "labels")[-1]["state_type"] == state
        artifact = next(one for one in ask(server, "artifacts/latest/filter") if one["key"] == "labels")
        assert str(artifact["data"]).startswith(f"{number} new labels: a training starts")
    assert "2 pairs in all" in (checkout / "build/asked/logs/pairs.log").read_text()  # as far as two labels lead


def finished(server: dict[str, str], flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that have ended, the last one last."""
    runs = ask(server, "flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_ASC")
    return [run for run in runs if run["end_time"]]


@pytest.mark.slow
def test_the_deployment_of_systems_does_its_whole_job(checkout: Path, server: dict[str, str]) -> None:
    (checkout / "systems.yaml").write_text(yaml.safe_dump(systems_values(), sort_keys=False))
    drawn = ["--kind", "scenes", "--items", str(SCENES), "--image-size", "32", "--out", "scenes", "--quiet"]
    run_in(checkout, ["mlim", "catalog", "synthesize", *drawn])
    run_in(
        checkout,
        ["prefect", "deployment", "run", "systems/local", "--watch", "--param", "recipe=systems.yaml"],
        **server,
    )
    work = checkout / "build/systems-tiny"
    assert finished(server, "systems")[-1]["name"] == "scenes, systems-tiny, by hand"
    assert (work / "report/index.html").is_file()
    tasks = {str(artifact["key"]) for artifact in ask(server, "artifacts/latest/filter")}
    assert {"task-answer", "task-statement"} <= tasks


def test_cancelling_stops_every_trainer(checkout: Path, server: dict[str, str], job: Path) -> None:
    run_in(checkout, ["mkdir", "-p", "build/long"])
    for name in (".mlim-folder", "items", "valid", "pairs", "pretrain"):
        run_in(checkout, ["cp", "-r", str(job / name), f"build/long/{name}"])
    long = {"recipe": "tiny.yaml", "overrides": '["finetune.steps=100000"]', "work": "build/long"}
    words = [word for name, value in long.items() for word in ("--param", f"{name}={value}")]
    run_in(checkout, ["prefect", "deployment", "run", "sweep/local", *words], **server)
    wait_until(lambda: len(trainers(checkout)) == 2, START_SECONDS)
    (running,) = ask(server, "flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    run_in(checkout, ["prefect", "flow-run", "cancel", str(running["id"])], **server)
    wait_until(lambda: not trainers(checkout), CANCEL_SECONDS)


def trainers(checkout: Path) -> list[int]:
    here = [process for process in of_this_run("cmdline", "cwd") if process.info["cwd"] == str(checkout)]
    return [process.pid for process in here if {"finetune", "--recipe"} <= set(process.info["cmdline"] or ())]
