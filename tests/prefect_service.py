"""`make serve-prefect` with deployments that train in a tiny work folder, to be stopped and killed."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import psutil
import yaml

from mlim.recipe import Recipe
from mlim.workspace import Workspace
from tests.integration.conftest import CLOSED_PROXIES, ROOT, environment, free_port, run_in
from tests.reaper import of_this_run
from tests.small_catalog import described

START_SECONDS = 1500  # server, `prefect` commands and worker, on a machine with other work
RUN_SECONDS = 900  # until a flow has begun, or ended
SLOT_SECONDS = 120
STOP_SECONDS = 300
DEPLOYED = ("flows/pretrain.py:pretrain", "flows/finetune.py:finetune")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Run = dict[str, Any]
Found = TypeVar("Found")


class PrefectService:
    """The script, which can be started and killed again and again on the same data, and what one asks its server.

    `settings` are further variables of its environment.
    """

    def __init__(self, folder: Path, recipe: Recipe, workspace: Workspace, **settings: str) -> None:
        self.folder, self._home, self._port, self._settings = folder, folder / "home", free_port(), settings
        self._home.mkdir()
        self._log = (folder / "serve.log").open("ab")
        (folder / "flows").symlink_to(ROOT / "flows")
        (folder / "catalog.yaml").write_text(yaml.safe_dump(described()))
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        self._work, self._last = workspace.root, dict[str, str]()  # the last run by work folder
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        declared["deployments"] = [
            one for one in declared["deployments"] if one["entrypoint"] in DEPLOYED and one["name"] == "local"
        ]
        (folder / "prefect.yaml").write_text(yaml.safe_dump(declared))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGTERM)
        self._log.close()

    def start(self) -> None:
        """Start the script and wait until it is ready."""
        before = self.said.count("Prefect is ready")
        settings = {"PORT": str(self._port), "PREFECT_HOME": str(self._home), "MLIM_ROOT": str(self.folder)}
        self.script = subprocess.Popen(
            [sys.executable, "-m", "flows.server"],
            cwd=self.folder,
            env=environment(**settings, **self._settings, **CLOSED_PROXIES),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until(
            lambda: self.said.count("Prefect is ready") > before or self.script.poll() is not None, START_SECONDS
        )
        assert self.script.poll() is None, f"the script ended:\n{self.said[-2000:]}"

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to the script and wait for its end."""
        if not self.has_ended:
            self.script.send_signal(number)
        self.script.wait(STOP_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Whether the script is gone."""
        return self.script.poll() is not None

    @property
    def said(self) -> str:
        """What the script, its worker and its flows printed."""
        return (self.folder / "serve.log").read_text()

    def work(self, name: str) -> Workspace:
        """A work folder ready for training."""
        if not (self.folder / name).is_dir():
            shutil.copytree(self._work, self.folder / name)
        return Workspace(self.folder / name)

    def train(
        self, work: str, *overrides: str, flow: str = "pretrain", variables: Mapping[str, object] = MappingProxyType({})
    ) -> str:
        """Start a flow in a work folder, with `variables` of its pool; gives the id of the run."""
        self.work(work)
        deployment = self.ask(f"deployments/name/{flow}/local")
        values = {"recipe": "recipe.yaml", "catalog": "catalog.yaml", "work": work, "overrides": list(overrides)}
        asked = {"parameters": values, "job_variables": dict(variables)}
        self._last[work] = str(self.ask(f"deployments/{deployment['id']}/create_flow_run", **asked)["id"])
        return self._last[work]

    def prefect(self, *words: str) -> None:
        """A `prefect` command, as the script's last lines let a person type it."""
        login = {"PREFECT_API_URL": self._api, "PREFECT_API_AUTH_STRING": self._secret}
        run_in(self.folder, ["prefect", "--no-prompt", *words], **login)

    def ended(self, run_id: str) -> str:
        """The type of the state in which a run ended, once it has."""
        return str(
            wait_until(lambda: (run := self.run(run_id))["state_type"] in ENDED and run["state_type"], RUN_SECONDS)
        )

    def run(self, run_id: str) -> Run:
        """A run as the server knows it."""
        return dict(self.ask(f"flow_runs/{run_id}"))

    def logs(self, run_id: str) -> str:
        """What the page shows of a run's log."""
        found = self.ask("logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, limit=200)
        return "\n".join(str(line["message"]) for line in found)

    @property
    def _api(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    @property
    def _secret(self) -> str:
        return (self._home / "mlim-login").read_text().strip()

    @property
    def slots(self) -> int:
        """How many slots of the accelerator are taken."""
        return int(self.ask("v2/concurrency_limits/gpu")["active_slots"])

    def ask(self, path: str, **body: object) -> Any:
        """What the server answers to a POST with this body, or to a GET when it is about one thing."""
        secret = base64.b64encode(self._secret.encode()).decode()
        headers = {"content-type": "application/json", "Authorization": f"Basic {secret}"}
        posts = path.endswith(("filter", "create_flow_run"))
        data = json.dumps(body).encode() if posts else None
        asked = urllib.request.Request(f"{self._api}/{path}", data, headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60) as answer:
            return json.load(answer)

    def trainer(self, work: str, command: str = "pretrain") -> psutil.Process:
        """The process that trains in a work folder, once it makes steps; fails when the run ends before."""
        return wait_until(lambda: self._of(work, command), RUN_SECONDS)

    def _of(self, work: str, command: str) -> psutil.Process | None:
        here = [each for each in of_this_run("cmdline", "cwd") if each.info["cwd"] == str(self.folder)]
        found = [each for each in here if {command, work} <= set(each.info["cmdline"] or ())]
        if found and re.search(rf"{command} recon-mlm-mam \d+/", self.log(work, command)):
            return found[0]
        run = self.run(self._last[work])
        assert run["state_type"] not in ENDED, run["state"]["message"]
        return None

    def log(self, work: str, command: str = "pretrain") -> str:
        """What the training in a work folder says."""
        return "".join(path.read_text() for path in (self.folder / work / "logs").glob(f"{command}@*.log"))

    def checkpoints(self, work: str) -> list[str]:
        """The checkpoints of the training, the oldest first."""
        return sorted(path.name for path in (self.folder / work / "checkpoints").glob("*/*/step-*"))

    def process_of(self, part: str) -> psutil.Process:
        """The process of the script whose command line holds `part`."""
        return next(each for each in psutil.Process(self.script.pid).children() if part in " ".join(each.cmdline()))


def wait_until(condition: Callable[[], Found], seconds: float) -> Found:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)
    return found
