"""The processes behind the stages of a flow: each leads a group of its own, and all are gone when the flow is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from mlim.errors import MlimError
from mlim.forked import ForkServer, read_by_libraries
from mlim.processes import die_with_parent, with_proxies, without_sigterm

GRACE_SECONDS = 120  # a large model writes a checkpoint
POLL_SECONDS = 0.1
QUIET = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

Child = subprocess.Popen[bytes]


class Children:
    """Processes that threads start and wait for; a block that is left early ends them, and no other starts.

    Where there are `many`, they are forked from a process that has loaded their libraries, for each environment one.
    """

    def __init__(self, *, many: bool = False) -> None:
        self._running: set[Child] = set()
        self._closed = False
        self._lock = Lock()
        self._many = many and sys.platform == "linux"
        self._servers: dict[frozenset[tuple[str, str]], ForkServer] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        with without_sigterm():  # whoever stops a flow does so more than once: let the trainings save
            _end(running)
        for server in self._servers.values():
            server.close()

    @contextmanager
    def start(self, command: Sequence[str], variables: Mapping[str, str], on_terminal: bool) -> Iterator[Child]:
        """A process with our environment and `variables`, whose output is a pipe or, if wanted, our standard error.

        The thread that starts it waits for it: when that thread ends, the kernel ends the process (`die_with_parent`).
        Raises `MlimError` when the block is over already.
        """
        environment = {**_environment(), **variables}
        with self._lock:  # either it starts before the others are ended, and is ended with them, or not at all
            if self._closed:
                raise MlimError("not started: the flow was stopped, or another stage failed")
            child = subprocess.Popen(  # noqa: S603 - our own command line
                command,
                stdout=sys.stderr if on_terminal else subprocess.PIPE,  # standard output belongs to the summary
                stderr=None if on_terminal else subprocess.STDOUT,
                preexec_fn=die_with_parent,
                process_group=0,
                env={**environment, **self._fork_server(environment)},
            )
            self._running.add(child)
        with child:
            try:
                yield child
            finally:
                if child.poll() is None:
                    _end([child])
                with self._lock:
                    self._running.discard(child)

    def _fork_server(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The variables by which commands of an environment find their fork server; the first one starts it.

        None where it finds no place for its socket: then commands load their libraries themselves.
        """
        wanted = frozenset(read_by_libraries(environment).items())
        if self._many and wanted not in self._servers:
            try:
                self._servers[wanted] = ForkServer(environment)
            except OSError:
                self._many = False
        return self._servers[wanted].variables if wanted in self._servers else {}


def _environment() -> dict[str, str]:
    """Ours with the proxies that Prefect must not see (a stage may go out), quiet, and with this interpreter's commands
    first on the path (DVC's stages call `mlim` by name).
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**with_proxies(os.environ), **QUIET, "PATH": path, "MLIM_DIE_WITH_PARENT": "1"}


def _end(children: Sequence[Child]) -> None:
    """Let processes and all they started end by themselves, a training with a checkpoint; kill what does not."""
    for child in children:
        _signal(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(map(_has_members, children)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for child in children:
        _signal(child, signal.SIGKILL)


def _signal(child: Child, number: int) -> None:
    with suppress(ProcessLookupError):  # all of the group are gone
        os.killpg(child.pid, number)


def _has_members(child: Child) -> bool:
    """Whether anyone of a process's group is left; it may be gone before those that it started."""
    child.poll()  # else it stays in the table of processes
    try:
        os.killpg(child.pid, 0)
    except ProcessLookupError:
        return False
    return True
