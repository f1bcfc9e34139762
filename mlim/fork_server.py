"""The process that loads the large libraries once and becomes, in forks, the commands that `forked.py` sends it.

A fork drops what the server has loaded of mlim, so that each command runs the code that lies on the disk. The server
has one thread of Python: a lock that another one holds would be held for ever in a fork.
"""

import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlim.forked import BEGUN, MOST_BYTES, call, interpreter, read_by_libraries
from mlim.processes import collection_paused, die_with_parent, prepare_for_libraries

LIBRARIES = (  # of most stages; Great Expectations serves those that come first, when this process still loads
    *("torch", "pandas", "pyarrow.parquet", "scipy.stats", "sklearn.ensemble", "skops.io", "duckdb", "cv2"),
    *("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store"),
    *("matplotlib.figure", "typer.rich_utils", "dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce"),
)
STREAMS = 3  # standard input, output and error
SECONDS = 10.0  # for a request to arrive once somebody has connected

Request = dict[str, Any]  # as `forked.py` writes it


@dataclass(eq=False)
class Fork:
    """A command under way: its process, which leads a group of its own, and who asked for it."""

    process: int
    asked_by: socket.socket
    ended: int  # a file descriptor that can be read once it has ended (pidfd_open(2))
    signalled: bool = False

    def signal(self, number: int) -> None:
        """Signal the process and all that it started."""
        self.signalled = True
        with suppress(ProcessLookupError):
            os.killpg(self.process, number)

    def close(self) -> None:
        """Forget it."""
        os.close(self.ended)
        self.asked_by.close()


class Service:
    """Answers on a bound socket until standard input ends, and until the last fork has ended."""

    def __init__(self, bound: socket.socket, variables: dict[str, str]) -> None:
        """`variables`: those that the libraries were loaded with."""
        self._listening = bound
        self._variables = variables
        self._forks: set[Fork] = set()
        self._waiting = selectors.DefaultSelector()
        self._waiting.register(sys.stdin, selectors.EVENT_READ, self._listen_no_more)
        self._waiting.register(bound, selectors.EVENT_READ, self._accept)
        bound.listen()

    def serve(self) -> Request | None:
        """What is asked of this process, in a fork; None in the server itself when nobody needs it any more."""
        while self._waiting.get_map():
            for key, _ in self._waiting.select():
                asked: Request | None = key.data()
                if asked:
                    return asked
        return None

    def _listen_no_more(self) -> None:
        self._waiting.unregister(sys.stdin)
        self._waiting.unregister(self._listening)
        self._listening.close()

    def _accept(self) -> Request | None:
        """Fork for somebody who connects; what is asked, in the fork."""
        client, _ = self._listening.accept()
        asked, streams = self._received(client)
        child = os.fork() if asked else None
        if child == 0:
            self._leave(client, streams)
            return asked
        for stream in streams:
            os.close(stream)
        if child is None:
            client.close()
        else:
            self._watch(child, client)
        return None

    def _received(self, client: socket.socket) -> tuple[Request | None, list[int]]:
        """A request, if a fork of this process can answer it, and the streams that came with it."""
        streams: list[int] = []
        try:
            client.settimeout(SECONDS)
            data, streams, _, _ = socket.recv_fds(client, MOST_BYTES, STREAMS)
            client.settimeout(None)
            asked: Request = json.loads(data)
            possible = (
                isinstance(asked, dict)
                and _user_of(client) == os.getuid()
                and len(streams) == STREAMS
                and asked["interpreter"] == interpreter()
                and read_by_libraries(asked["environment"]) == self._variables
            )
        except (OSError, ValueError, KeyError):  # nothing came, or the request of another version
            possible = False
        return (asked if possible else None), streams

    def _leave(self, client: socket.socket, streams: Sequence[int]) -> None:
        """In a fork: keep nothing of the server but the streams that came with the request."""
        os.setpgid(0, 0)
        for fork in self._forks:
            fork.close()
        self._waiting.close()
        self._listening.close()
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)

    def _watch(self, child: int, client: socket.socket) -> None:
        with suppress(PermissionError, ProcessLookupError):  # it has done so itself, or has ended
            os.setpgid(child, child)
        fork = Fork(child, client, os.pidfd_open(child))
        self._forks.add(fork)
        self._waiting.register(fork.ended, selectors.EVENT_READ, partial(self._end, fork))
        self._waiting.register(client, selectors.EVENT_READ, partial(self._hear, fork))
        with suppress(OSError):  # who asked is gone, as `_hear` will find
            client.send(BEGUN)

    def _hear(self, fork: Fork) -> None:
        """A signal to pass on; nothing any more when whoever asked is gone, by kill -9."""
        if fork not in self._forks:  # it ended at this very moment
            return
        said = b""
        with suppress(OSError):
            said = fork.asked_by.recv(MOST_BYTES)
        fork.signal(int(said) if said.isdigit() else signal.SIGKILL)
        if not said:
            self._waiting.unregister(fork.asked_by)

    def _end(self, fork: Fork) -> None:
        """Say how a fork ended; what it leaves behind though it was to end goes with it."""
        if fork.signalled:
            fork.signal(signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(fork.process, 0)[1])
        self._forks.remove(fork)
        self._waiting.unregister(fork.ended)
        with suppress(KeyError):  # who asked is gone
            self._waiting.unregister(fork.asked_by)
        with suppress(OSError):
            fork.asked_by.send(str(code).encode())
        fork.close()


def _user_of(client: socket.socket) -> int:
    """Who connected (SO_PEERCRED, unix(7))."""
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _become(asked: Request) -> int:
    """Run the program that was asked for as a process of its own would, in a fork; its exit code."""
    die_with_parent()
    os.chdir(asked["folder"])
    os.umask(asked["umask"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv, sys.path[:] = asked["arguments"], asked["path"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlim"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return call(asked["program"])


def main() -> int:
    """Serve on the socket whose file descriptor is the argument; the exit code, of the server or of a fork."""
    from mlim.tracking import silence

    variables = read_by_libraries(os.environ)
    prepare_for_libraries()
    silence()
    with collection_paused():
        for name in LIBRARIES:
            with suppress(ImportError):  # of an extra, or of a machine that only trains
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork leaves these objects alone, and so their memory shared
    asked = Service(socket.socket(fileno=int(sys.argv[1])), variables).serve()
    return 0 if asked is None else _become(asked)


if __name__ == "__main__":
    sys.exit(main())
