"""What `mlim doctor` finds: versions, devices, servers, what is misconfigured, whether what a run starts does start."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mlim.errors import MlimError
from mlim.processes import cores
from mlim.recipe import Recipe
from mlim.workspace import Workspace

# All that a machine needs which only trains (docs/training.md)
TRAINING = ("torch", "transformers", "pyarrow", "pillow", "pydantic", "pandas", "pyyaml")
PACKAGES = (*TRAINING, "prefect", "mlflow", "dvc", "great-expectations")
FASTAPI_LIMIT = (0, 153)  # Prefect's server refuses deployments with this one or later (constraints.txt)
PORT_OF_SCHEME = {"http": 80, "https": 443}
LEAST_FREE_BYTES = 2 * 1024**3
CONNECT_SECONDS = 2.0
TRIAL_SECONDS = 240  # of one trial: Prefect's server may take 180


class Finding(NamedTuple):
    """One line of the examination."""

    subject: str
    fine: bool
    detail: str


class Trial(NamedTuple):
    """What is started to see whether it does: a module with arguments, if the package is installed."""

    subject: str
    package: str
    command: Sequence[str]


TRIALS = (
    Trial("device", "torch", ("mlim.trial", "compute")),
    Trial("MLflow", "mlflow", ("mlim.trial", "track")),
    Trial("Prefect", "prefect", ("flows.trial",)),
    Trial("DVC workspace", "dvc", ("mlim.trial", "reproduce")),
    Trial("suites", "great-expectations", ("mlim.trial", "validate")),
)


def examine(recipe: Recipe, quick: bool = False) -> list[Finding]:
    """Everything worth knowing before a run of `recipe` here; of an offline one, before a training.

    Unless `quick`, what a run starts is started, each in a process of its own; what looks wrong already is not.
    """
    offline = recipe.tracking.offline
    found = [*_packages(TRAINING if offline else PACKAGES), *(() if offline else _fastapi())]
    found += [_devices(recipe), _tracking(recipe), _prefect(), _dvc(), _work(recipe), _disk()]
    if quick:
        return found
    bad = {finding.subject for finding in found if not finding.fine}
    trials = [trial for trial in TRIALS if not bad & {trial.subject, trial.package}]
    tried = _try_all(recipe, trials[:1] if offline else trials)
    return [tried.pop(finding.subject, finding) for finding in found] + list(tried.values())


def _try_all(recipe: Recipe, trials: Sequence[Trial]) -> dict[str, Finding]:
    """The results of the trials by subject; as many at a time as there are cores."""
    given = recipe.to_yaml()
    with ThreadPoolExecutor(cores()) as threads:
        return {finding.subject: finding for finding in threads.map(lambda trial: _try(trial, given), trials)}


def _try(trial: Trial, given: str) -> Finding:
    """Run one trial; all that it started is gone afterwards."""
    with subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", *trial.command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            said, complained = process.communicate(given, timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Finding(trial.subject, False, f"did not end within {TRIAL_SECONDS} s")
    fine = process.returncode == 0
    lines = (said if fine else complained).strip().splitlines() or [f"exit code {process.returncode}"]
    return Finding(trial.subject, fine, lines[-1].removeprefix("error: "))


def _packages(names: Sequence[str]) -> Iterator[Finding]:
    for name in names:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, "is not installed; run `pip install -c constraints.txt -e .`")


def _fastapi() -> Iterator[Finding]:
    try:
        installed = version("fastapi")
    except PackageNotFoundError:  # Prefect, which brings it, is missed already
        return
    fine = tuple(int(part) for part in installed.split(".")[:2]) < FASTAPI_LIMIT
    yield Finding("fastapi", fine, installed if fine else f"{installed} keeps Prefect's server from working; use 0.149")


def _devices(recipe: Recipe) -> Finding:
    from mlim.training.device import choose_device

    try:
        device = choose_device(recipe.device)
    except MlimError as error:
        return Finding("device", False, str(error))
    return Finding("device", True, f"{device} ({os.cpu_count()} CPU cores)")


def _tracking(recipe: Recipe) -> Finding:
    if recipe.tracking.offline:
        return Finding("MLflow", True, "not used (tracking.uri: none); `mlim import-run` records the trainings later")
    from mlim.tracking import check_server, tracking_uri

    try:
        check_server(recipe.tracking)
    except MlimError as error:
        return Finding("MLflow", False, str(error))
    return Finding("MLflow", True, tracking_uri(recipe.tracking))


def mend(recipe: Recipe) -> str:
    """Rewrite the addresses of artifacts in a local store that was moved; gives what was done, in words."""
    from mlim.local_store import SQLITE, database
    from mlim.local_store import mend as mend_store
    from mlim.tracking import silence, tracking_uri

    uri = "" if recipe.tracking.offline else tracking_uri(recipe.tracking)
    if not uri.startswith(SQLITE):
        return "nothing to repair: runs are not kept in a database of this machine"
    silence()
    done = mend_store(database(uri))
    if done is None:
        return "nothing to repair: the artifacts are beside their database"
    return f"{done.changed} addresses of artifacts lead to {database(uri).parent} now; before: {done.backup}"


def _prefect() -> Finding:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return Finding("Prefect", True, "no server configured: flows run in this process (PREFECT_API_URL is not set)")
    fine = _answers(address)
    return Finding("Prefect", fine, address if fine else f"{address} does not answer; `make serve-prefect` starts one")


def _answers(address: str) -> bool:
    parts = urlsplit(address)
    try:
        port = parts.port or PORT_OF_SCHEME.get(parts.scheme, 0)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return True
    except (OSError, ValueError):
        return False


def _dvc() -> Finding:
    if not Path("dvc.yaml").is_file():
        return Finding("DVC workspace", True, "none here: `mlim run` runs its stages directly")
    missing = [name for name in ("params.yaml", ".dvc", "data") if not Path(name).exists()]
    if missing:
        return Finding("DVC workspace", False, f"{', '.join(missing)} missing; `mlim catalog synthesize` makes data")
    return Finding("DVC workspace", True, str(Path.cwd()))


def _work(recipe: Recipe) -> Finding:
    """Whether results can be written, into the work folder or what will hold it."""
    work = Workspace(Path("build") / recipe.name).root
    there = next(folder for folder in (work, *work.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return Finding("work folder", True, str(work))
    except OSError as error:
        return Finding("work folder", False, f"{there} cannot be written ({error.strerror}); choose another --work")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    return Finding("free disk", free >= LEAST_FREE_BYTES, f"{free / 1024**3:.0f} GiB")
