"""Commands that start in milliseconds: forked from a process that has loaded the large libraries (`fork_server.py`).

Loading torch, MLflow and scikit-learn takes each command some seconds of a core, which is most of what a stage of a
small pipeline does. A process whose environment names a fork server sends it its arguments, folder, environment and
standard streams, passes signals on, and ends as the fork ends. It works by itself where that changes anything: with
another interpreter, or other variables than those that the libraries were loaded with.

    python -m mlim.forked MODULE:FUNCTION ARGUMENTS     # so for a program of another package; `mlim` does it by itself
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlim.processes import RANK

ADDRESS = "MLIM_FORK_SERVER"  # in the environment: the socket of a fork server
BEGUN = b"begun"  # its first answer; the second is the exit code as text, negative for a signal as in subprocess
MOST_BYTES = 1 << 18  # of a request; a longer one is not sent
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NO_MATTER = ("PWD", "OLDPWD", "SHLVL", "_")  # variables that say who starts a command, and no library reads
OURS = ("MLIM_", "DVC_")  # read when a command runs and not when a library is loaded

Environment = Mapping[str, str]


def run(program: str) -> int:
    """Run a program ("module:function") in a fork where there is a server, else in this process; its exit code."""
    code = _forked(program)
    if code is None:
        return call(program)
    if code < 0:  # a shell, DVC or a flow sees what it would have seen of the program itself
        with suppress(OSError):  # nobody can handle SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def call(program: str) -> int:
    """Run a program in this process; its exit code."""
    module, _, function = program.partition(":")
    return int(getattr(import_module(module), function)() or 0)


def read_by_libraries(environment: Environment) -> dict[str, str]:
    """The variables that decide how libraries are loaded: all but those of which we know that they do not."""
    return {name: value for name, value in environment.items() if name not in NO_MATTER and not name.startswith(OURS)}


def interpreter() -> list[Any]:
    """What a fork cannot change of its parent: installation, flags, warnings."""
    return [sys.prefix, list(map(int, sys.flags)), sys.warnoptions]


def _forked(program: str) -> int | None:
    """The exit code of a fork; None when nothing was forked."""
    address = os.environ.get(ADDRESS)
    if not address or RANK in os.environ or sys.platform != "linux":  # torchrun starts and ends its own
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        with _passing_signals_on(server) as caught:
            if _begins(server, address, program):
                return _end(server)
        for number in caught:
            signal.raise_signal(number)
    return None


def _begins(server: socket.socket, address: str, program: str) -> bool:
    """Whether the server has forked for a program; it may be gone, still load libraries, or have loaded others."""
    try:
        server.connect(address)
        socket.send_fds(server, [_request(program)], [0, 1, 2])
        return server.recv(MOST_BYTES) == BEGUN
    except OSError:
        return False


def _end(server: socket.socket) -> int:
    """The exit code of the fork; that of a killed one when the server is gone before it could say."""
    said = b""
    with suppress(OSError):
        said = server.recv(MOST_BYTES)
    return int(said) if said else -signal.SIGKILL


def _request(program: str) -> bytes:
    umask = os.umask(0)
    os.umask(umask)
    asked = {
        "program": program,
        "arguments": sys.argv,
        "path": sys.path,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "umask": umask,
        "interpreter": interpreter(),
    }
    return json.dumps(asked).encode()


@contextmanager
def _passing_signals_on(server: socket.socket) -> Iterator[list[int]]:
    """During the block, signals that are not ignored go to the server; gives those that came."""
    caught: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        caught.append(number)
        with suppress(OSError):
            server.send(str(number).encode())

    heard = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, pass_on) for number in heard}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ForkServer:
    """A fork server for programs with an environment, for the time of a block; `variables` lets them find it.

    Programs that are under way when the block ends are sent SIGTERM. Those that come before the libraries are loaded
    work by themselves.
    """

    def __init__(self, environment: Environment) -> None:
        """Start it; `OSError` where there is no place for a socket, whose name the kernel limits to 107 bytes."""
        self._folder = Path(tempfile.mkdtemp(prefix="mlim-"))  # to which only its owner has access
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
                listening.bind(str(self._folder / "socket"))  # until it listens, commands work by themselves
                self._process = subprocess.Popen(  # noqa: S603 - our own command line
                    [sys.executable, "-m", "mlim.fork_server", str(listening.fileno())],
                    stdin=subprocess.PIPE,  # the end of this process ends it
                    stdout=subprocess.DEVNULL,
                    pass_fds=[listening.fileno()],
                    process_group=0,  # Ctrl-C reaches us, who pass it on
                    env=environment,
                )
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        self.variables = {ADDRESS: str(self._folder / "socket")}

    @property
    def process(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_ready(self) -> bool:
        """Whether it has loaded the libraries, so that commands are forked from now on."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking, suppress(OSError):
            asking.connect(self.variables[ADDRESS])
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        shutil.rmtree(self._folder)
        self._process.terminate()
        self._process.communicate()


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.exit(run(sys.argv[0]))
