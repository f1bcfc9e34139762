"""Runs in MLflow: one parent per pipeline, one child per stage or training. The only module that writes MLflow runs.

Figures are collected in memory and sent by a thread of their own, many at a time: a write to sqlite costs as much as
a training step of a small model, so it never happens inside one.
"""

import base64
import hashlib
import http.client
import json
import logging
import os
import re
import shlex
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from filelock import FileLock

from mlim import local_store
from mlim.console import Terminal
from mlim.energy import check_energy, measured
from mlim.errors import InputError, MlimError, UnavailableError, UnreachableError
from mlim.failures import MAKE_ROOM, disk_is_full
from mlim.files import read_json, write_json
from mlim.local_store import SQLITE
from mlim.offline import NullRun, sign
from mlim.outbox import Operation, Outbox, left_behind
from mlim.processes import sigterm_raises, without_sigterm
from mlim.recipe.record import RecipeRecord
from mlim.recipe.tracking import TrackingConfig
from mlim.versions import UNKNOWN, Lineage, dvc_experiment, project_of
from mlim.workspace import Workspace, run_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

DATABASE = "mlflow.db"
SCHEMES = ("http://", "https://", SQLITE)
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second: no id of a run at all
NO_ANSWER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED")  # a store that refuses says why
URI_VARIABLE = "MLFLOW_TRACKING_URI"
USER_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN_VARIABLE = "MLFLOW_TRACKING_TOKEN"  # noqa: S105 (the name of a variable)
TAG = "mlim."
CATALOG_TAG = f"{TAG}catalog"  # by these documents find what they show
ATTRIBUTE_TAG = f"{TAG}attribute"
MATCH_STAGE, COMPLETE_STAGE, REPORT_STAGE, REVIEW_STAGE = "match", "complete", "report", "simulated-review"
KIND, TRAINS_MODELS = "mlflow.experimentKind", "custom_model_development"  # which page opens in MLflow
DESCRIPTION, DESCRIPTION_CHARACTERS = "mlflow.note.content", 5000  # of a run or experiment on its page
DESCRIBED = f"{TAG}described_by"  # of a parent: the stage that wrote its page
EXPERIMENT_PAGE = (
    "Runs of mlim. Each pipeline is one parent run: its page has the tables, its metrics the figures that matter "
    "(`test/pr_auc`: split and figure), its artifacts the report, the cards and the decision about the champion. Below "
    "it, one run for each stage and training."
)
TRAININGS = ("pretrain", "finetune", "stack")  # stages that learn
RUNS_PER_PAGE = 1000  # of one answer of the store
METRICS_PER_CALL = 1000  # MLflow's own limits for one log_batch call
PARAMETERS_PER_CALL = 100
PARAMETER_CHARACTERS = 6000
DIGEST_CHARACTERS = 36
FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 120.0
NANOSECONDS_PER_MILLISECOND = 10**6
HEALTHY = b"OK"
FORBIDDEN_IN_NAMES = re.compile(r"[^\w\-. /:]")
EXPERIMENT_TAGS = {KIND: TRAINS_MODELS, DESCRIPTION: EXPERIMENT_PAGE}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # what it logs as an error, with a traceback, it raises too
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the default waits for four minutes before it says anything
    "GIT_PYTHON_REFRESH": "quiet",
}
QUIET_PAGES = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# The sections of the recipe that a stage reads; its run carries those, the parent run carries all.
SECTIONS = {
    "ingest": ("image", "ingest"),
    "validate": ("validation",),
    "pairs": ("pairs",),
    "pretrain": ("image", "text", "model", "compute", "pretrain"),
    "finetune": ("image", "text", "model", "compute", "finetune"),
    "stack": ("stack",),
    "evaluate": ("evaluate", "gate"),
    "ablate": ("evaluate", "seeds"),
    "probe": ("probe",),
}


def tracking_uri(tracking: TrackingConfig) -> str:
    """The store of runs: the given one, else MLFLOW_TRACKING_URI, else sqlite in the current folder.

    A sqlite file is made absolute, so that the store stays the same when the current folder changes; in the copy of the
    project that DVC runs an experiment in it counts from the project, because the copy is removed. `InputError` when
    nothing is to be tracked, or when the file's path cannot be an address.
    """
    if tracking.offline:
        raise InputError(
            f"tracking.uri is `{tracking.uri}`: there are no runs and no models to read or write; give "
            "http://HOST:PORT, sqlite:///FILE or null"
        )
    uri = (tracking.uri or os.environ.get(URI_VARIABLE) or f"{SQLITE}{DATABASE}").rstrip("/")
    if not uri.startswith(SQLITE):
        return uri
    return local_store.address(local_store.database(uri, project_of(Path.cwd())))


def check_server(tracking: TrackingConfig) -> None:
    """Raise `InputError` naming the address unless the store of runs can be used; asked before any long work."""
    check_energy(tracking.energy)
    uri = tracking_uri(tracking)
    if not uri.startswith(SCHEMES):
        raise InputError(
            f"tracking: `{without_password(uri)}` is no address of runs; give http://HOST:PORT or sqlite:///FILE in "
            f"tracking.uri or {URI_VARIABLE}"
        )
    if uri.startswith(SQLITE):
        path = local_store.database(uri)
        _check_database(path)
        chosen = ["--set", f"tracking.uri={tracking.uri}"] if tracking.uri else []
        local_store.check_place(path, shlex.join(["mlim", "doctor", "--fix", *chosen]))
    else:
        _check_address(uri, tracking.timeout_seconds)


def run_page(tracking: TrackingConfig, workspace: Workspace) -> str | None:
    """Where a tracking server shows the pipeline's run of a work folder; None without a server or a run."""
    place = {} if tracking.offline else _place(workspace)
    uri = tracking_uri(tracking) if place else ""
    if not uri.startswith("http"):
        return None
    return f"{without_password(uri)}/#/experiments/{place.get('experiment_id')}/runs/{place.get('run_id')}"


def without_password(uri: str) -> str:
    """The address without user name and password, fit for messages and files."""
    parts = urllib.parse.urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def _check_address(uri: str, timeout: float) -> None:
    request = urllib.request.Request(f"{without_password(uri)}/health")  # noqa: S310 (http only)
    for name, value in _login(uri).items():
        request.add_unredirected_header(name, value)  # a login is for this host alone
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 (http only)
            healthy = answer.status == HTTPStatus.OK and answer.read(len(HEALTHY) + 1).strip() == HEALTHY
    except urllib.error.HTTPError as error:
        if error.code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise InputError(
                f"{without_password(uri)} asks for a login and takes none that was given; set {USER_VARIABLE} and "
                f"{PASSWORD_VARIABLE}"
            ) from None
        healthy = False
    except (OSError, ValueError, http.client.HTTPException) as error:  # no answer, a port that is no number
        reason = getattr(error, "reason", error)
        kind = UnreachableError if isinstance(error, OSError) else InputError
        raise kind(
            f"tracking server {without_password(uri)} cannot be reached within {timeout:g} s ({reason}); start it with "
            f"`mlflow server`, or change tracking.uri or {URI_VARIABLE}"
        ) from None
    if not healthy:
        raise InputError(
            f"{without_password(uri)} answers, but not as an MLflow server; check tracking.uri or {URI_VARIABLE}"
        )


def _login(uri: str) -> dict[str, str]:
    """The header with which MLflow's client logs in: with what the address holds, else with MLflow's variables."""
    parts, given = urllib.parse.urlsplit(uri), os.environ
    user = urllib.parse.unquote(parts.username or "") or given.get(USER_VARIABLE, "")
    password = urllib.parse.unquote(parts.password or "") or given.get(PASSWORD_VARIABLE, "")
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode('ascii')}"}
    token = given.get(TOKEN_VARIABLE)
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check_database(path: Path) -> None:
    target = path if path.exists() else path.parent
    if not os.access(target, os.W_OK):
        problem = "cannot be written" if target.exists() else "is missing"
        raise InputError(f"tracking: {target} {problem}; make it, or change tracking.uri or {URI_VARIABLE}")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if path.exists():
            raise InputError(f"tracking: {path} is no usable sqlite database ({error}); move it away") from None


def silence() -> None:
    """Keep mlflow and its database migrations from writing on the terminal, and its telemetry off."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def as_mlim_error(uri: str) -> Iterator[None]:
    """Turn an exception of MLflow with the store `uri` into one sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if full := disk_is_full(error):
            raise MlimError(f"tracking: {full}; {MAKE_ROOM}") from error
        lost = isinstance(error.__context__, OSError)  # what its HTTP library raised
        kind = UnavailableError if lost else MlimError
        raise kind(f"tracking: {without_password(uri)} refused: {str(error).splitlines()[0]}") from error


def initialise(tracking: TrackingConfig) -> str:
    """Make the store and the experiment when they are new and give the experiment's id.

    Behind a file lock for sqlite: two processes that create the database at once break each other's migrations. It
    appears as a whole: what a killed process leaves of its tables, no later one can complete.
    """
    check_server(tracking)
    silence()
    uri = tracking_uri(tracking)
    if not uri.startswith(SQLITE):
        with as_mlim_error(uri):
            return _experiment(tracking, client(tracking), None)
    path = local_store.database(uri)
    with local_store.locked(path), as_mlim_error(uri):
        local_store.make(path)
        return _experiment(tracking, client(tracking), path)


def client(tracking: TrackingConfig) -> "MlflowClient":
    """A client of the store, for runs and for models."""
    silence()
    from mlflow import MlflowClient

    uri = tracking_uri(tracking)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def serve_pages(tracking: TrackingConfig, port: int) -> NoReturn:
    """Become `mlflow ui` on a sqlite store; `InputError` names the address where a server already shows the pages.

    MLflow's own rules let in every Host that begins like a private address, `10.example.com` too, and it runs jobs
    for whoever asks: here only loopback's two names with this port are let in, and no jobs are run.
    """
    check_server(tracking)
    uri = tracking_uri(tracking)
    if not uri.startswith(SQLITE):
        raise InputError(f"the runs are on a server that has the pages itself: open {without_password(uri)}")
    path = local_store.database(uri)
    with local_store.locked(path):
        local_store.make(path)
    names = [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", ",".join(names)]
    command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in names), "--x-frame-options", "DENY"]
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # it starts uvicorn by name
    os.execve(sys.executable, command, {**os.environ, **QUIET_PAGES, "PATH": tools})  # noqa: S606


def is_recorded(tracking: TrackingConfig, run_id: str) -> bool:
    """Whether this store holds the run; one that was deleted does not count. `MlimError` when it gives no answer."""
    return _status(tracking, run_id) is not None


def _status(tracking: TrackingConfig, run_id: str) -> str | None:
    """The status of a run that this store holds."""
    from mlflow.exceptions import MlflowException

    with as_mlim_error(tracking_uri(tracking)):
        try:
            found = client(tracking).get_run(run_id).info
        except MlflowException as error:
            if error.error_code not in NO_SUCH_RUN:
                raise
            return None
    return str(found.status) if found.lifecycle_stage == "active" else None


def is_kept(recipe: RecipeRecord, workspace: Workspace, run_id: str | None) -> bool:
    """Whether a result with this run needs no other.

    Its store holds it, complete with what waited in the work folder, or nothing is tracked, as when it was made.
    """
    tracking = recipe.tracking
    if tracking.offline or run_id is None:
        return tracking.offline and run_id is None
    initialise(tracking)  # a new store has no tables
    deliver_left(tracking, workspace)
    return _status(tracking, run_id) == FINISHED


def add_figures(tracking: TrackingConfig, run_id: str, figures: Mapping[str, float]) -> None:
    """Add figures to a run that is over, where runs are tracked and this store holds it.

    `MlimError` when the store refuses.
    """
    if tracking.offline or not is_recorded(tracking, run_id):
        return
    store = client(tracking)
    with as_mlim_error(tracking_uri(tracking)):
        for key, value in figures.items():
            store.log_metric(run_id, key, value)


def run_tags(tracking: TrackingConfig, run_id: str) -> dict[str, str]:
    """The tags of a run; empty when it is not in this store."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(client(tracking).get_run(run_id).data.tags)
    except MlflowException:
        return {}


def runs_on(tracking: TrackingConfig, data: str) -> list[dict[str, str]]:
    """The runs of trainings, in all experiments, whose data version or manifest begins with `data`."""
    pattern = data.replace("%", "").replace("'", "")
    store = client(tracking)
    with as_mlim_error(tracking_uri(tracking)):
        experiments = [each.experiment_id for each in store.search_experiments()]
        found = {
            run.info.run_id: run
            for tag in ("data_version", "items_sha256")
            for run in all_runs(store, experiments, f"tags.`{TAG}{tag}` LIKE '{pattern}%'")
        }
    return [
        {"run": run_id, "name": str(run.info.run_name), "stage": run.data.tags[f"{TAG}stage"]}
        for run_id, run in found.items()
        if run.data.tags.get(f"{TAG}stage") in TRAININGS
    ]


def all_runs(
    store: "MlflowClient", experiments: list[str], query: str, per_page: int = RUNS_PER_PAGE
) -> Iterator["Run"]:
    """Every run of the experiments that a query finds, the newest first, whatever their number."""
    token = None
    while True:
        page = store.search_runs(
            experiments, query, max_results=per_page, order_by=["start_time DESC"], page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def fetch_artifact(tracking: TrackingConfig, run_id: str, path: str, folder: Path) -> Path | None:
    """A copy in `folder` of an artifact of a run; None when the run or the artifact is not in this store."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(tracking)
    silence()
    try:
        address = f"runs:/{run_id}/{path}"
        return Path(download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=uri))
    except (MlflowException, OSError):
        return None


def add_artifact(tracking: TrackingConfig, run_id: str, path: Path, folder: str) -> None:
    """Keep a file with a run that is over, in its artifact folder `folder`; `MlimError` when the store refuses."""
    with as_mlim_error(tracking_uri(tracking)):
        client(tracking).log_artifact(run_id, str(path), folder)


def _experiment(tracking: TrackingConfig, store: "MlflowClient", database: Path | None) -> str:
    name = tracking.experiment
    found = store.get_experiment_by_name(name)
    if found is None:
        location = local_store.experiment_location(database, name) if database else None
        return _create_experiment(store, name, location)
    if KIND not in found.tags and found.lifecycle_stage == "active":
        store.set_experiment_tag(found.experiment_id, KIND, TRAINS_MODELS)
    if found.lifecycle_stage != "active":
        raise InputError(
            f"tracking: experiment `{name}` was deleted; run `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}` or choose another tracking.experiment"
        )
    return str(found.experiment_id)


def _create_experiment(store: "MlflowClient", name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(store.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
    except MlflowException:
        found = store.get_experiment_by_name(name)  # another process was faster
        if found is None:
            raise
        return str(found.experiment_id)


class StageRun(Protocol):
    """What a step records while its run is open."""

    @property
    def id(self) -> Any:
        """The run's id, a string; None where nothing is tracked."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Figures of one step; cheap enough for a training loop."""

    def metric(self, key: str, value: float) -> None:
        """A figure of the whole run."""

    def tag(self, key: str, value: object) -> None:
        """One tag."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file, or the contents of a folder, to keep with the run (inside its artifact folder `folder`)."""

    def headline(self, figures: Mapping[str, float], pages: Mapping[str, Path]) -> None:
        """Figures of the run that its parent shows too, and files that the parent keeps, by artifact folder."""

    def describe_pipeline(self, page: str) -> None:
        """What the parent's page says (Markdown)."""


class Past(NamedTuple):
    """When a run that is recorded later began and ended, milliseconds since 1970."""

    start: int
    end: int


class MlflowRun:
    """One open run. `log` only appends to a list; a thread sends what has come together every few seconds.

    While the store is away everything waits in `outbox`, on disk, and is sent in its order when the store is back. The
    figures of a run of the past bear the time of its end.
    """

    def __init__(self, book: "_Book", run_id: str, parent: str, outbox: Outbox, past: Past | None = None) -> None:
        self.id = run_id
        self._book, self._parent, self._outbox, self._past = book, parent, outbox, past
        self._waiting: list[tuple[str, float, int, int]] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep figures of one step to be sent later; cheap enough for a training loop."""
        now = self._now()
        with self._lock:
            self._waiting += [(key, float(value), now, step) for key, value in values.items()]
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._send_until_closed, name="mlim-tracking", daemon=True)
                self._thread.start()

    def metric(self, key: str, value: float) -> None:
        """A figure of the whole run."""
        self.log({key: value}, step=0)

    def tag(self, key: str, value: object) -> None:
        """Set one tag."""
        self._send({"do": "tag", "run": self.id, "key": key, "value": str(value)})

    def artifact(self, path: Path, folder: str = "") -> None:
        """Store a file, or the contents of a folder, with the run (inside its artifact folder `folder`)."""
        self._send({"do": "artifact", "run": self.id, "folder": folder}, path)

    def headline(self, figures: Mapping[str, float], pages: Mapping[str, Path]) -> None:
        """Give the parent the figures of this run that matter most, and files, by artifact folder."""
        now = time.time_ns() // NANOSECONDS_PER_MILLISECOND
        for name, value in figures.items():
            self.metric(name, value)
        if figures:
            shown = [(name, float(value), now, 0) for name, value in figures.items()]
            self._send({"do": "figures", "run": self._parent, "figures": shown})
        for folder, path in pages.items():
            self._send({"do": "artifact", "run": self._parent, "folder": folder}, path)

    def describe_pipeline(self, page: str) -> None:
        """Let the parent's page say this (Markdown), until a report says something else."""
        for key, value in ((DESCRIPTION, page[:DESCRIPTION_CHARACTERS]), (DESCRIBED, "report")):
            self._send({"do": "tag", "run": self._parent, "key": key, "value": value})

    def flush(self) -> None:
        """Send everything that waits; what the store does not take waits on, in the outbox."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        try:
            while waiting:
                chunk = waiting[:METRICS_PER_CALL]
                self._send({"do": "figures", "run": self.id, "figures": chunk})
                del waiting[:METRICS_PER_CALL]
        finally:
            with self._lock:
                self._waiting[:0] = waiting

    def end(self, status: str) -> None:
        """Send the rest and give the run its status, and its parent when no other run of it is open.

        What the store does not take now is delivered by a later command (`deliver_left`).
        """
        self._closed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        self.flush()
        ended = self._past.end if self._past else self._now()
        self._send({"do": "end", "run": self.id, "parent": self._parent, "status": status, "time": ended})
        if self._outbox:
            Terminal().warn(_left(self._book.uri, self._outbox))
        self._outbox.close()

    def _now(self) -> int:
        return self._past.end if self._past else time.time_ns() // NANOSECONDS_PER_MILLISECOND

    def _send(self, operation: Operation, files: Path | None = None) -> None:
        """Do it now, after what waits; where the store is away, keep it. What the store refuses is raised."""
        with self._sending:
            was_away = bool(self._outbox)
            try:
                self._outbox.deliver(self._book.do)
                self._book.do(operation, files)
            except Exception as error:
                if not _is_away(error):
                    raise
                self._outbox.add(operation, files)
                if not was_away:
                    Terminal().warn(_away(self._book.uri))
                return
        if was_away:
            Terminal().warn(f"tracking: {without_password(self._book.uri)} is back and has everything that waited")

    def _send_until_closed(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except Exception as error:  # `end` reports it when it stays so
                logging.getLogger(__name__).debug("figures could not be sent yet: %s", error)


def _is_away(error: Exception) -> bool:
    """Whether the store gives no answer, as opposed to one that refuses."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in NO_ANSWER
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)  # those of requests are


def _away(uri: str) -> str:
    return (
        f"tracking: {without_password(uri)} does not answer; the work goes on, and what belongs to the run is kept in "
        "the work folder and sent when it is back"
    )


def _left(uri: str, outbox: Outbox) -> str:
    return (
        f"tracking: {without_password(uri)} is still away; all results are there, and run {outbox.run_id} is completed "
        "by the next command that tracks in this work folder, or by `mlim import-run` with it"
    )


def deliver_left(tracking: TrackingConfig, workspace: Workspace) -> list[str]:
    """Send what runs of a work folder left when their store was away; gives the ids of the runs that are complete now.

    Runs of other stores, and those whose process lives, are left. `MlimError` when the store gives no answer.
    """
    if tracking.offline or not workspace.outboxes.is_dir():
        return []
    experiment = initialise(tracking)
    book = _Book(client(tracking), tracking_uri(tracking), experiment)
    delivered: list[str] = []
    for outbox in left_behind(workspace.outboxes):
        with as_mlim_error(book.uri):
            if is_recorded(tracking, outbox.run_id) and _delivered(book, outbox):
                delivered.append(outbox.run_id)
    return delivered


def _delivered(book: "_Book", outbox: Outbox) -> bool:
    """Send what waits for a run; what its store refuses for good is set aside, so that it holds up no later run."""
    from mlflow.exceptions import MlflowException

    try:
        outbox.deliver(book.do)
    except MlflowException as error:
        if _is_away(error):
            raise
        place = outbox.set_aside()
        reason = str(error).splitlines()[0]
        Terminal().warn(f"tracking: run {outbox.run_id} stays incomplete: {reason}; what it refused is kept in {place}")
        return False
    return True


@contextmanager
def stage_run(
    recipe: RecipeRecord, workspace: Workspace, stage: str, name: str, lineage: Lineage, past: Past | None = None
) -> Iterator[StageRun]:
    """An open child run for one stage or training under the pipeline's parent run; closed with the right status.

    Where the recipe says that nothing is tracked: no run, and nothing of MLflow is loaded. `past`: it is over already.
    FINISHED; FAILED on an exception; KILLED on an interruption: KeyboardInterrupt, SIGTERM, or an exception whose
    attribute `interrupted` is true. Raises `InputError` before anything is done when the store cannot be used. When it
    goes away later, what belongs to the run waits in the work folder: `deliver_left`.
    """
    if recipe.tracking.offline:
        with sigterm_raises():
            yield NullRun()
        sign(workspace, stage, name, lineage)
        return
    experiment = initialise(recipe.tracking)
    deliver_left(recipe.tracking, workspace)
    book = _Book(client(recipe.tracking), tracking_uri(recipe.tracking), experiment)
    with as_mlim_error(book.uri):
        parent = _parent(book, recipe, workspace, lineage)
        run_id = _child(book, recipe, parent, stage, name, lineage, past)
    run = MlflowRun(book, run_id, parent, Outbox(workspace.outboxes / run_id), past)
    with sigterm_raises(), measured(recipe.tracking.energy) as energy:
        try:
            yield run
            for name, value in energy().items():
                run.metric(name, value)
        except BaseException as error:
            interrupted = isinstance(error, (KeyboardInterrupt, SystemExit)) or getattr(error, "interrupted", False)
            with without_sigterm():
                _close(run, KILLED if interrupted else FAILED)
            raise
        with without_sigterm():
            _close(run, FINISHED)


@dataclass(frozen=True)
class _Book:
    """Where runs are written: a client, its address and the experiment."""

    store: "MlflowClient"
    uri: str
    experiment: str

    def running(self, parent: str) -> list["Run"]:
        """The children of `parent` that are still open."""
        of_parent = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = '{RUNNING}'"
        return list(self.store.search_runs([self.experiment], of_parent))

    def open_run(
        self,
        name: str,
        tags: Mapping[str, str],
        parameters: Mapping[str, str],
        lineage: Lineage,
        past: Past | None = None,
    ) -> str:
        """Start a run with its tags, parameters and the catalog as its input; gives its id."""
        from mlflow.entities import Param

        began = past.start if past else None
        run_id = str(self.store.create_run(self.experiment, began, dict(tags), name).info.run_id)
        all_parameters = [Param(key, value) for key, value in parameters.items()]  # type: ignore[no-untyped-call]
        for start in range(0, len(all_parameters), PARAMETERS_PER_CALL):
            self.store.log_batch(run_id, params=all_parameters[start : start + PARAMETERS_PER_CALL])
        if UNKNOWN not in (lineage.catalog, lineage.data_version):
            self.store.log_inputs(run_id, [_catalog_input(lineage)])
        return run_id

    def do(self, operation: Operation, files: Path | None) -> None:
        """One operation on a run, as an outbox keeps it; done twice it has the effect of once."""
        from mlflow.entities import Metric

        run_id = operation["run"]
        match operation["do"]:
            case "figures":
                figures = [Metric(*figure) for figure in operation["figures"]]  # type: ignore[no-untyped-call]
                self.store.log_batch(run_id, metrics=figures, synchronous=True)
            case "tag":
                self.store.set_tag(run_id, operation["key"], operation["value"])
            case "artifact" if files is not None:
                send = self.store.log_artifacts if files.is_dir() else self.store.log_artifact
                send(run_id, str(files), operation["folder"] or None)
            case "end":
                self.store.set_terminated(run_id, operation["status"], operation["time"])
                parent = self.store.get_run(operation["parent"]).info
                if parent.lifecycle_stage == "active" and not self.running(parent.run_id):
                    self.store.set_terminated(parent.run_id, operation["status"])


def _close(run: MlflowRun, status: str) -> None:
    """End the run. A failure under way is never hidden by one of tracking."""
    try:
        run.end(status)
    except Exception as error:
        if status == FINISHED and (full := disk_is_full(error)):
            raise MlimError(f"tracking: run {run.id} is not complete: {full}; {MAKE_ROOM}") from error
        if status == FINISHED:
            raise MlimError(
                f"tracking: run {run.id} is not complete ({str(error).splitlines()[0]}); run the command again"
            ) from error


def _parent(book: _Book, recipe: RecipeRecord, workspace: Workspace, lineage: Lineage) -> str:
    """The pipeline's parent run: the one that the work folder names, else a new one."""
    workspace.root.mkdir(parents=True, exist_ok=True)
    tags = _tags(recipe, "pipeline", lineage)
    with FileLock(workspace.pipeline.with_name(f".{workspace.pipeline.name}.lock")):
        known = _known_parent(book, recipe, workspace, lineage)
        run_id = str(known.info.run_id) if known else book.open_run(recipe.name, tags, flatten(recipe.values), lineage)
        if known is None:
            book.store.log_text(run_id, recipe.text, "recipe.yaml")
        if known is None or lineage.data_version != UNKNOWN:
            place = {"run_id": run_id, "experiment_id": book.experiment, "fingerprint": fingerprint(recipe, lineage)}
            write_json(workspace.pipeline, place)
    for key, value in tags.items():
        if key != DESCRIPTION or known is None or DESCRIBED not in known.data.tags:  # a report says more
            book.store.set_tag(run_id, key, value)
    book.store.update_run(run_id, status=RUNNING)
    return run_id


def _known_parent(book: _Book, recipe: RecipeRecord, workspace: Workspace, lineage: Lineage) -> "Run | None":
    """The run in the work folder's file, unless it is of another recipe, other data or another store, or deleted."""
    from mlflow.exceptions import MlflowException

    place = _place(workspace)
    if not _same_pipeline(str(place.get("fingerprint")), fingerprint(recipe, lineage)):
        return None
    try:
        run = book.store.get_run(str(place.get("run_id")))
    except MlflowException:
        return None
    usable = run.info.lifecycle_stage == "active" and run.info.experiment_id == book.experiment
    return run if usable else None


def _place(workspace: Workspace) -> dict[str, Any]:
    """What the work folder's file says; nothing where there is none or it cannot be read."""
    try:
        place = read_json(workspace.pipeline)
    except (OSError, ValueError, RecursionError):
        return {}
    return place if isinstance(place, dict) else {}


def fingerprint(recipe: RecipeRecord, lineage: Lineage) -> str:
    """What makes a pipeline: `RECIPE_SHA256:DATA_VERSION`; where it is tracked does not matter."""
    return f"{recipe_sha256(recipe)}:{lineage.data_version}"


def recipe_sha256(recipe: RecipeRecord) -> str:
    """The SHA-256 of everything in the recipe that decides a result (all but `tracking`)."""
    values = {key: value for key, value in recipe.values.items() if key != "tracking"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _same_pipeline(known: str, now: str) -> bool:
    """Equal recipes over equal data; data that are not ingested yet may become any."""
    (known_recipe, _, known_data), (recipe, _, data) = known.partition(":"), now.partition(":")
    return known_recipe == recipe and (known_data == data or UNKNOWN in (known_data, data))


def _child(
    book: _Book, recipe: RecipeRecord, parent: str, stage: str, name: str, lineage: Lineage, past: Past | None
) -> str:
    title = stage if name in ("", stage) else f"{stage} {name}"
    for earlier in book.running(parent):
        if earlier.info.run_name == title:  # its process died without a word (kill -9, power)
            book.store.set_terminated(earlier.info.run_id, KILLED)
    tags = {**_tags(recipe, stage, lineage), "mlflow.parentRunId": parent}
    run_id = book.open_run(title, tags, stage_parameters(recipe, stage, name), lineage, past)
    book.store.log_text(run_id, recipe.text, "recipe.yaml")
    return run_id


def _tags(recipe: RecipeRecord, stage: str, lineage: Lineage) -> dict[str, str]:
    """What leads from a run back to its code, data and recipe."""
    known_commit = {} if lineage.commit == UNKNOWN else {"mlflow.source.git.commit": lineage.commit}
    experiment = dvc_experiment()
    return {
        f"{TAG}stage": stage,
        f"{TAG}recipe": recipe.name,
        f"{TAG}recipe_sha256": recipe_sha256(recipe),
        f"{TAG}commit": lineage.commit,
        f"{TAG}dirty": str(lineage.dirty).lower(),
        f"{TAG}data_version": lineage.data_version,
        f"{TAG}items_sha256": lineage.items,
        f"{TAG}validation": lineage.validation,
        "mlflow.source.name": f"mlim {stage}",
        "mlflow.source.type": "LOCAL",
        DESCRIPTION: f"`{stage}` of recipe `{recipe.name}` on data `{lineage.data_version}`",
        **known_commit,
        **({} if experiment is None else {f"{TAG}dvc_experiment": experiment}),
    }


def stage_parameters(recipe: RecipeRecord, stage: str, name: str) -> dict[str, str]:
    """The parameters that matter to one stage, and those of its training when `name` names one (`mlim`, `mlim-s0`)."""
    values = recipe.values
    chosen = {section: values[section] for section in SECTIONS.get(stage, ())}
    chosen |= {"main": values["main"], "recipe": recipe.name}
    section = values["pretrainings" if stage == "pretrain" else "variants"]
    runs = {run_name(entry, seed): (entry, seed) for entry in section for seed in values["seeds"]}
    entry, seed = runs.get(name, (name, None))
    if entry in section:
        chosen["cell"] = {"name": entry, "seed": seed, **section[entry]}
    return flatten(chosen)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as MLflow parameters: `model.layers` -> "3"; names and lengths fitted to MLflow's limits."""
    result: dict[str, str] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= flatten(value, f"{path}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            result[FORBIDDEN_IN_NAMES.sub("_", path)] = text[:PARAMETER_CHARACTERS]
    return result


def _catalog_input(lineage: Lineage) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput

    catalog = Path(lineage.catalog)
    name, digest = "/".join(catalog.parts[-2:]), lineage.data_version[:DIGEST_CHARACTERS]
    source = json.dumps({"uri": lineage.catalog})
    return DatasetInput(Dataset(name=name, digest=digest, source_type="local", source=source))  # type: ignore[no-untyped-call]
