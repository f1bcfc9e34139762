"""`make serve-prefect`: Prefect's server, the `mlim` work pool, the GPU limit, the deployments and one worker.

Who may start a deployment runs commands as this user. So the server is on loopback alone, behind a login (`login.py`),
under loopback's names (`server_process.py`), and allows no other site's pages. The port is taken before anything else
happens: whatever answers there is this server, and a second start deploys nothing into somebody else's.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from filelock import FileLock, Timeout

from flows.login import login, login_file
from flows.stage import GPU_LIMIT
from mlim.errors import InputError, MlimError
from mlim.failures import exit_code_of
from mlim.processes import PROXIES, die_with_parent, reach_loopback_directly, without_proxies

ADDRESS = "127.0.0.1"
PORT = "4277"
POOL = "mlim"
LOG = "mlim-server.log"
LOCK = "mlim-server.lock"
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS, POLL_SECONDS = 180, 10, 5, 0.2
PREFECT = (sys.executable, "-m", "prefect")
LEASES = "prefect.server.concurrency.lease_storage.filesystem"  # slots survive a restart of the server

Process = subprocess.Popen[bytes]


def main() -> int:
    """Serve until a signal comes; 0, or the exit code of an error that is reported in one sentence."""
    signal.signal(signal.SIGTERM, _stop)
    with suppress(KeyboardInterrupt):
        return exit_code_of(_serve_here)
    return 0


def _serve_here() -> None:
    serve(_port(os.environ.get("PORT") or PORT), Path(os.environ.get("MLIM_ROOT") or Path.cwd()))


def _stop(signum: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _port(given: str) -> int:
    if not given.isdecimal() or not 0 < int(given) < 1 << 16:
        raise InputError(f"PORT={given}: a port is a number from 1 to 65535")
    return int(given)


def serve(port: int, root: Path) -> None:
    """Server, deployments of the project in `root`, worker, until a signal comes.

    `MlimError` when the port or the database is in use (nothing is deployed then), or when one of them ends by itself.
    """
    secret = login_file()
    with _only_one(secret.parent / LOCK), _listening(port) as listening:
        client = client_environment(port, login(secret), root)
        log = Path(os.environ.get("PREFECT_SERVER_LOG") or secret.parent / LOG)
        with _server(listening, client, log) as server:
            _wait_for(server, port, log)
            _set_up(client, root)
            print(_ready(port, secret), flush=True)
            with _process([*PREFECT, "worker", "start", "--pool", POOL], client, root) as worker:
                while server.poll() is None and worker.poll() is None:
                    time.sleep(1)
            name = "worker" if server.poll() is None else f"server (see {log})"
            raise MlimError(f"Prefect's {name} ended by itself; start again")


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
    """What the worker and the `prefect` commands need: the address, the login, and no proxy in between."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": f"http://{ADDRESS}:{port}/api",
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "MLIM_ROOT": str(root.absolute()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    reach_loopback_directly(environment)
    return without_proxies(environment)


@contextmanager
def _server(listening: socket.socket, client: Mapping[str, str], log: Path) -> Iterator[Process]:
    """Prefect's server on that socket; what it says goes into `log`."""
    port = listening.getsockname()[1]
    own = {
        "PREFECT_SERVER_API_AUTH_STRING": client["PREFECT_API_AUTH_STRING"],
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{ADDRESS}:{port},http://localhost:{port}",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }
    command = [sys.executable, "-m", "flows.server_process", str(listening.fileno())]
    with log.open("ab") as target, _process(command, {**client, **own}, None, target, [listening.fileno()]) as server:
        yield server


@contextmanager
def _process(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None,
    said: IO[bytes] | None = None,
    passed: Sequence[int] = (),
) -> Iterator[Process]:
    """A process that ends with the block: by SIGTERM, and by SIGKILL if it is still there after a while."""
    process = subprocess.Popen(  # noqa: S603 - our own command line
        command,
        env=environment,
        cwd=folder,
        stdout=said,
        stderr=said,
        pass_fds=passed,
        preexec_fn=die_with_parent,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(server: Process, port: int, log: Path) -> None:
    """Until the server answers; `MlimError` when it ended or takes too long."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            ask(f"http://{ADDRESS}:{port}/api/health", timeout=ANSWER_SECONDS).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise MlimError(f"Prefect's server did not start within {START_SECONDS} s; what it said is in {log}")


def _set_up(client: Mapping[str, str], root: Path) -> None:
    """The pool, the limit of one training at a time on the accelerator, and the deployments of prefect.yaml."""
    pool = ("work-pool", POOL, "--type", "process")
    limit = ("gcl", GPU_LIMIT, "--limit", "1")
    for kind, name, *settings in (pool, limit):
        if _prefect(client, root, kind, "inspect", name, heard=False):
            _require(_prefect(client, root, kind, "create", name, *settings), f"{kind} create {name}")
    _require(_prefect(client, root, "--no-prompt", "deploy", "--all"), "deploy --all")


def _prefect(client: Mapping[str, str], root: Path, *words: str, heard: bool = True) -> int:
    """The exit code of a `prefect` command in the project's folder."""
    quiet = None if heard else subprocess.DEVNULL
    command = [*PREFECT, *words]
    return subprocess.run(command, cwd=root, env=client, stdout=quiet, stderr=quiet, check=False).returncode  # noqa: S603


def _require(code: int, command: str) -> None:
    if code:
        raise MlimError(f"`prefect {command}` failed (exit {code}); see above")


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
