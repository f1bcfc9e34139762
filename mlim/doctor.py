"""What `mlim doctor` finds: versions, devices, servers, what is misconfigured, whether what a run starts does start."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from mlim.errors import MlimError
from mlim.findings import Finding
from mlim.local_store import SQLITE, artifact_folders, database
from mlim.local_store import mend as mend_places
from mlim.processes import cores
from mlim.recipe import Recipe
from mlim.workspace import Workspace

# All that a machine needs which only trains (docs/training.md)
TRAINING = ("torch", "transformers", "pyarrow", "pillow", "simplejpeg", "pydantic", "pandas", "pyyaml")
PACKAGES = (*TRAINING, "prefect", "mlflow", "dvc", "great-expectations")
FASTAPI_LIMIT = (0, 153)  # Prefect's server refuses deployments with this one or later (constraints.txt)
PORT_OF_SCHEME = {"http": 80, "https": 443}
LEAST_FREE_BYTES = 2 * 1024**3
CONNECT_SECONDS = 2.0
TRIAL_SECONDS = 240  # of one trial: Prefect's server may take 180
SERVER_PORT = 4277  # where `make serve-prefect` starts one


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
    found = [*_packages(TRAINING if offline else PACKAGES), *_compiled(), *(() if offline else _fastapi())]
    found += [_devices(recipe), *_tracking(recipe), *_prefect(), _dvc(), _work(recipe), *_disks(recipe)]
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
            yield Finding(name, False, "is not installed", "pip install -c constraints.txt -e .")


def _fastapi() -> Iterator[Finding]:
    try:
        installed = version("fastapi")
    except PackageNotFoundError:  # Prefect, which brings it, is missed already
        return
    fine = tuple(int(part) for part in installed.split(".")[:2]) < FASTAPI_LIMIT
    if fine:
        yield Finding("fastapi", True, installed)
    else:
        yield Finding(
            "fastapi", False, f"{installed} keeps Prefect's server from working", "pip install 'fastapi==0.149'"
        )


def _compiled() -> Iterator[Finding]:
    """A finding where Python may not keep what it compiles, and the libraries were not compiled before."""
    library = PathFinder.find_spec("torch")
    if not sys.dont_write_bytecode or library is None or library.origin is None or library.cached is None:
        return
    if not Path(library.cached).is_file():
        place = shlex.quote(str(Path(library.origin).parents[1]))
        yield Finding(
            "compiled modules",
            False,
            "PYTHONDONTWRITEBYTECODE is set, so that each command compiles its libraries again, which takes seconds",
            f"python -m compileall -q {place}",
        )


def _devices(recipe: Recipe) -> Finding:
    from mlim.training.device import choose_device

    try:
        device = choose_device(recipe.device)
    except MlimError as error:
        return Finding("device", False, str(error))
    return Finding("device", True, f"{device} ({os.cpu_count()} CPU cores)")


def _tracking(recipe: Recipe) -> list[Finding]:
    """The store of runs and, where it can be used, what is in it."""
    if recipe.tracking.offline:
        detail = "not used (tracking.uri: none); `mlim import-run` records the trainings later"
        return [Finding("MLflow", True, detail)]
    from mlim.store_health import examine_store
    from mlim.tracking import check_server

    try:
        check_server(recipe.tracking)
        return examine_store(recipe.tracking)
    except MlimError as error:
        return [Finding("MLflow", False, str(error))]


def mend(recipe: Recipe) -> list[str]:
    """Mend what loses nothing; says what was done, a sentence each.

    Addresses of artifacts in a local store that was moved, stages that do not follow their aliases, and on a Prefect
    server runs that are dead, a missing limit and its leaked slots.
    """
    done = [] if recipe.tracking.offline else _mend_store(recipe)
    return [*done, *_mend_prefect()] or ["nothing to repair that is safe to repair"]


def _mend_store(recipe: Recipe) -> list[str]:
    from mlim.store_health import reconcile_roles
    from mlim.tracking import silence, tracking_uri

    uri, done = tracking_uri(recipe.tracking), []
    silence()
    if uri.startswith(SQLITE) and (mended := mend_places(database(uri))):
        there, before = database(uri).parent, mended.backup
        done = [f"{mended.changed} addresses of artifacts lead to {there} now; before: {before}"]
    return [*done, *reconcile_roles(recipe.tracking)]


def _mend_prefect() -> list[str]:
    """What was mended on the Prefect server; nothing where none answers."""
    address = os.environ.get("PREFECT_API_URL")
    if not address or not _answers(address):
        return []
    mended: list[str] = json.loads(_prefect_says("--fix"))
    return mended


def _prefect() -> list[Finding]:
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return [Finding("Prefect", True, f"no server configured: flows run in this process{_on_the_port()}")]
    if not _answers(address):
        return [Finding("Prefect", False, f"{address} does not answer", "make serve-prefect")]
    try:
        return [Finding(**found) for found in json.loads(_prefect_says())]
    except MlimError as error:
        return [Finding("Prefect", False, str(error))]


def _on_the_port() -> str:
    """A remark about the port that `make serve-prefect` would use, where something answers there."""
    if not _answers(f"http://127.0.0.1:{SERVER_PORT}"):
        return " (PREFECT_API_URL is not set)"
    return (
        f"; something answers on port {SERVER_PORT}: if it is yours, export PREFECT_API_URL, else start another one "
        f"with `make serve-prefect PORT={SERVER_PORT + 1}`"
    )


def _prefect_says(*options: str) -> str:
    """What `flows.health` prints; `MlimError` with its sentence when it fails."""
    command = [sys.executable, "-m", "flows.health", *options]
    try:
        done = subprocess.run(  # noqa: S603 - our own command line
            command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise MlimError(f"no answer within {TRIAL_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MlimError(lines[-1].removeprefix("error: "))
    return done.stdout


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
        lost = [name for name in missing if name != "data"]
        mending = [shlex.join(["git", "checkout", "--", *lost])] if lost else []
        known = Path("data.dvc").is_file()  # what it records is the shop's: nothing else may take its name
        mending += ["dvc pull data.dvc" if known else "mlim catalog synthesize"] if "data" in missing else []
        return Finding("DVC workspace", False, f"{', '.join(missing)} missing", " && ".join(mending))
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


def _disks(recipe: Recipe, least: int = LEAST_FREE_BYTES) -> Iterator[Finding]:
    """Whether every disk that a run writes to has `least` bytes left."""
    by_disk: dict[int, list[Path]] = {}
    for place in _written(recipe):
        by_disk.setdefault(place.stat().st_dev, []).append(place)
    free = {places[0]: shutil.disk_usage(places[0]).free for places in by_disk.values()}
    full = [places for places in by_disk.values() if free[places[0]] < least]
    for places in full:
        yield Finding(
            "free disk",
            False,
            f"{_gib(free[places[0]])} left for {', '.join(map(str, places))}; at least {_gib(least)} are needed: the "
            "folders `cache`, `downloads` and `shards` of a work folder are made again when they are missing",
            shlex.join(["du", "-h", "--max-depth=2", *map(str, places)]) + " | sort -h | tail",
        )
    if not full:
        yield Finding("free disk", True, _gib(min(free.values())))


def _written(recipe: Recipe) -> Iterable[Path]:
    """The folders that a run writes into, or that will hold them, each once."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    places = [Path.cwd(), Path("build") / recipe.name, *_runs_written(recipe), home, Path(tempfile.gettempdir())]
    return dict.fromkeys(_existing(place) for place in places)


def _runs_written(recipe: Recipe) -> list[Path]:
    """The folders of a local database of runs and of its artifacts; none where there is no usable one."""
    from mlim.tracking import tracking_uri

    try:
        uri = "" if recipe.tracking.offline else tracking_uri(recipe.tracking)
    except MlimError:  # said already
        uri = ""
    store = database(uri) if uri.startswith(SQLITE) else None
    return [] if store is None else [store.parent, *artifact_folders(store).values()]


def _existing(place: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    absolute = place.absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())


def _gib(size: int) -> str:
    return f"{size / 1024**3:.1f} GiB"
