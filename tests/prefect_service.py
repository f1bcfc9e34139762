"""`make serve-prefect` with one deployment, the pre-training of a tiny work folder, to be stopped and killed."""

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import yaml

from mlim.recipe import Recipe
from mlim.workspace import Workspace
from tests.integration.conftest import CLOSED_PROXIES, ROOT, environment, free_port
from tests.reaper import of_this_run
from tests.small_catalog import described

START_SECONDS = 1500  # server, `prefect` commands and worker, on a machine with other work
RUN_SECONDS = 900  # until a flow has begun, or ended
SLOT_SECONDS = 120
STOP_SECONDS = 300

Run = dict[str, Any]
Found = TypeVar("Found")


class PrefectService:
    """The script, which can be started and killed again and again on the same data, and what one asks its server."""

    def __init__(self, folder: Path, recipe: Recipe, workspace: Workspace) -> None:
        self.folder, self._home, self._port = folder, folder / "home", free_port()
        self._home.mkdir()
        self._log = (folder / "serve.log").open("ab")
        (folder / "flows").symlink_to(ROOT / "flows")
        (folder / "catalog.yaml").write_text(yaml.safe_dump(described()))
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        self._work = workspace.root
        declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        declared["deployments"] = [
            one for one in declared["deployments"] if one["entrypoint"].startswith("flows/pretrain.py")
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
            env=environment(**settings, **CLOSED_PROXIES),
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        wait_until(lambda: self.said.count("Prefect is ready") > before, START_SECONDS)

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to the script and wait for its end."""
        if self.script.poll() is None:
            self.script.send_signal(number)
        self.script.wait(STOP_SECONDS)

    @property
    def said(self) -> str:
        """What the script, its worker and its flows printed."""
        return (self.folder / "serve.log").read_text()

    def work(self, name: str) -> Workspace:
        """A work folder ready for training."""
        if not (self.folder / name).is_dir():
            shutil.copytree(self._work, self.folder / name)
        return Workspace(self.folder / name)

    def train(self, work: str, *overrides: str) -> str:
        """Start the pre-training in a work folder; gives the id of the run."""
        self.work(work)
        (deployment,) = self.ask("deployments/filter")
        values = {"recipe": "recipe.yaml", "catalog": "catalog.yaml", "work": work, "overrides": list(overrides)}
        return str(self.ask(f"deployments/{deployment['id']}/create_flow_run", parameters=values)["id"])

    def run(self, run_id: str) -> Run:
        """A run as the server knows it."""
        return dict(self.ask(f"flow_runs/{run_id}"))

    def logs(self, run_id: str) -> str:
        """What the page shows of a run's log."""
        found = self.ask("logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, limit=200)
        return "\n".join(str(line["message"]) for line in found)

    @property
    def slots(self) -> int:
        """How many slots of the accelerator are taken."""
        return int(self.ask("v2/concurrency_limits/gpu")["active_slots"])

    def ask(self, path: str, **body: object) -> Any:
        """What the server answers to a POST with this body, or to a GET when it is about one thing."""
        secret = (self._home / "mlim-login").read_text().strip().encode()
        headers = {"content-type": "application/json", "Authorization": f"Basic {base64.b64encode(secret).decode()}"}
        posts = path.endswith(("filter", "create_flow_run"))
        data = json.dumps(body).encode() if posts else None
        asked = urllib.request.Request(f"http://127.0.0.1:{self._port}/api/{path}", data, headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60) as answer:
            return json.load(answer)

    def trainer(self, work: str) -> psutil.Process:
        """The process that trains in a work folder, once it has a checkpoint to lose or has made a step."""
        return wait_until(lambda: self._of(work), RUN_SECONDS)

    def _of(self, work: str) -> psutil.Process | None:
        here = [each for each in of_this_run("cmdline", "cwd") if each.info["cwd"] == str(self.folder)]
        found = [each for each in here if {"pretrain", work} <= set(each.info["cmdline"] or ())]
        return found[0] if found and re.search(r"pretrain recon-mlm-mam \d+/", self.log(work)) else None

    def log(self, work: str) -> str:
        """What the training in a work folder says."""
        return "".join(path.read_text() for path in (self.folder / work / "logs").glob("pretrain@*.log"))

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
