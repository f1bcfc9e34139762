"""`make serve-prefect`: Prefect's server, the `mlim` work pool, the GPU limit, the deployments and one worker.

Who may start a deployment runs commands as this user. So the server is on loopback alone, behind a login (`login.py`),
under loopback's names (`server_process.py`), and allows no other site's pages. The port is taken before anything else
happens: whatever answers there is this server, and a second start deploys nothing into somebody else's.

Server and worker are started again when they die. The port stays open meanwhile, so that a flow waits for its answer
and goes on. Every other second runs whose process is gone are marked as crashed and their slots freed
(`dead_runs.py`), first of all those that an earlier start left.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from filelock import FileLock, Timeout

from flows.engine import BEFORE
from flows.login import login, login_file
from flows.supervised import Process, Supervised, start
from mlim.errors import InputError, MlimError
from mlim.failures import exit_code_of
from mlim.processes import PROXIES, reach_loopback_directly, without_proxies

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

ADDRESS = "127.0.0.1"
PORT = "4277"
POOL = "mlim"
GPU_LIMIT = "gpu"  # the name of the server's global concurrency limit
ONE_AT_A_TIME = 1
LOG = "mlim-server.log"
LOCK = "mlim-server.lock"
START_SECONDS, ANSWER_SECONDS, POLL_SECONDS = 180, 5, 0.2
LOOK_SECONDS = 2.0
SAVE_SECONDS = 60  # Prefect kills a flow that it cancelled after half of that; its trainings save on
DATABASE = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")  # of PostgreSQL
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # slots survive a restart of the server


def main() -> int:
    """Serve until a signal comes; 0, or the exit code of an error that is reported in one sentence."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    return exit_code_of(_serve_here)


def _serve_here() -> None:
    serve(_port(os.environ.get("PORT") or PORT), Path(os.environ.get("MLIM_ROOT") or Path.cwd()))


def _stop(signum: int, frame: object) -> NoReturn:
    """The first signal ends the service; further ones (an impatient Ctrl-C) would cut off trainings that save."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


def _port(given: str) -> int:
    if not given.isdecimal() or not 0 < int(given) < 1 << 16:
        raise InputError(f"PORT={given}: a port is a number from 1 to 65535")
    return int(given)


def serve(port: int, root: Path) -> None:
    """Server, deployments of the project in `root`, worker, until a signal comes; then flows save and end first.

    `MlimError` when the port or the database is in use (nothing is deployed then), or when server or worker end by
    themselves again and again.
    """
    secret = login_file()
    with _only_one(secret.parent / LOCK), _listening(port) as listening:
        client = client_environment(port, login(secret), root)
        log = Path(os.environ.get("PREFECT_SERVER_LOG") or secret.parent / LOG)
        with Supervised("Prefect's server", lambda: _server(listening, client, log), str(log)) as server:
            _wait_for(server, port, log)
            with _api(port, client["PREFECT_API_AUTH_STRING"]) as api:
                _clear_left(api)
                _set_up(client, root)
                with Supervised("Prefect's worker", lambda: _worker(client, root)) as worker:
                    print(_ready(port, secret), flush=True)
                    try:
                        _look_after(server, worker, api)
                    finally:
                        _end_runs(api)


def _look_after(server: Supervised, worker: Supervised, api: "SyncPrefectClient") -> NoReturn:
    """Until a signal comes: whatever ended by itself is started again, and dead runs are cleared."""
    told = set["UUID"]()
    while True:
        time.sleep(LOOK_SECONDS)
        server.look_after()
        worker.look_after()
        _clear_dead(api, told)


@contextmanager
def _api(port: int, secret: str) -> Iterator["SyncPrefectClient"]:
    """A client of the server that gives up soon: whoever waits for an answer starts no server again.

    Prefect is loaded now, when port and database are ours.
    """
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    settings = {"trust_env": False, "timeout": ANSWER_SECONDS}
    with (
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: int(BEFORE["PREFECT_CLIENT_MAX_RETRIES"])}),
        SyncPrefectClient(f"http://{ADDRESS}:{port}/api", auth_string=secret, httpx_settings=settings) as api,
    ):
        yield api


def _clear_left(api: "SyncPrefectClient") -> None:
    """Clear what an earlier start left, before any run can wait for it; a busy server may need several questions."""
    deadline = time.monotonic() + START_SECONDS
    while not _clear_dead(api):
        if time.monotonic() > deadline:
            raise MlimError(f"Prefect's server did not say within {START_SECONDS} s which runs an earlier start left")
        time.sleep(POLL_SECONDS)


def _clear_dead(api: "SyncPrefectClient", told: "set[UUID] | None" = None) -> bool:
    """Mark what nobody runs any more and free what it held; False where the server does not answer, so ask again."""
    from httpx import HTTPError

    from flows.dead_runs import advise, clear, dead_runs, free_slots

    with suppress(HTTPError):
        if told is not None:
            advise(api, told)
        for sentence in [*clear(api, dead_runs(api, POOL)), *free_slots(api, GPU_LIMIT)]:
            print(sentence, file=sys.stderr, flush=True)
        return True
    return False


def _end_runs(api: "SyncPrefectClient") -> None:
    """Cancel the runs of the worker and wait until their processes are gone: their trainings save a checkpoint."""
    from httpx import HTTPError
    from prefect.states import Cancelling

    from flows.dead_runs import ADVICE, live_runs

    with suppress(HTTPError):
        running = live_runs(api, POOL)
        if running:
            print(
                f"stopping {len(running)} runs: trainings save a checkpoint, which may take a minute", file=sys.stderr
            )
        for run in running:
            api.set_flow_run_state(run.id, Cancelling(message=f"`make serve-prefect` was stopped; {ADVICE}."))
        deadline = time.monotonic() + SAVE_SECONDS
        while running and live_runs(api, POOL) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        _clear_dead(api)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """One server on one database: a second one would move the first one's deployments to its own project."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise MlimError(
            f"a Prefect server of yours runs on the data in {lock.parent} already; nothing was deployed: stop it, or "
            "set PREFECT_HOME to another folder and PORT to another port"
        ) from None
    try:
        yield
    finally:
        held.release()


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """The server's socket; from now on no other process can answer at this port."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((ADDRESS, port))
            listening.listen(socket.SOMAXCONN)
        except OSError as error:
            raise MlimError(
                f"port {port} cannot be used ({error.strerror}), perhaps another server is there; nothing was "
                f"deployed: stop it, or choose another one with `make serve-prefect PORT={port + 1}`"
            ) from None
        yield listening


def client_environment(port: int, secret: str, root: Path) -> dict[str, str]:
    """What the worker and the `prefect` commands need: the address, the login, and no proxy in between.

    Not how the server reaches its database: runs, and what they start, would know its password.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name not in DATABASE},
        "PREFECT_API_URL": f"http://{ADDRESS}:{port}/api",
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLIENT_MAX_RETRIES": BEFORE["PREFECT_CLIENT_MAX_RETRIES"],
        "MLIM_ROOT": str(root.absolute()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    reach_loopback_directly(environment)
    return without_proxies(environment)


def _server(listening: socket.socket, client: Mapping[str, str], log: Path) -> Process:
    """Prefect's server on that socket; what it says goes into `log`."""
    port = listening.getsockname()[1]
    own = {
        **{name: os.environ[name] for name in DATABASE if name in os.environ},
        "PREFECT_SERVER_API_AUTH_STRING": client["PREFECT_API_AUTH_STRING"],
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{ADDRESS}:{port},http://localhost:{port}",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }
    command = [sys.executable, "-m", "flows.server_process", str(listening.fileno())]
    with log.open("ab") as target:
        return start(command, {**client, **own}, said=target, passed=[listening.fileno()])


def _worker(client: Mapping[str, str], root: Path) -> Process:
    return start([sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL], client, root)


def _wait_for(server: Supervised, port: int, log: Path) -> None:
    """Until the server answers; `MlimError` when it ended or takes too long."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    deadline = time.monotonic() + START_SECONDS
    while not server.has_ended and time.monotonic() < deadline:
        try:
            ask(f"http://{ADDRESS}:{port}/api/health", timeout=ANSWER_SECONDS).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise MlimError(f"Prefect's server did not start within {START_SECONDS} s; what it said is in {log}")


def _set_up(client: Mapping[str, str], root: Path) -> None:
    """The pool, the limit, the deployments of prefect.yaml and the automation: by a client of the server."""
    command = [sys.executable, "-m", "flows.set_up"]
    if subprocess.run(command, cwd=root, env=client, check=False).returncode:  # noqa: S603
        raise MlimError("Prefect's server could not be set up; see above")


def _ready(port: int, secret: Path) -> str:
    """What to type in another terminal; the secret itself is never shown."""
    proxied = [name for name in os.environ if name.lower() in PROXIES]
    return "\n".join(
        [
            f"Prefect is ready on http://{ADDRESS}:{port} (its page asks for what `cat {secret}` prints);",
            "in another terminal:",
            f"  export PREFECT_API_URL=http://{ADDRESS}:{port}/api",
            f'  export PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(secret))})"',
            *([f"  unset {' '.join(proxied)}"] if proxied else []),
            "  prefect deployment run 'pipeline/local' --watch --param recipe=demo",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
