"""Processes of a version's own that need not load the large libraries: forked from one that has.

`answer_alone` starts a process for each version that it asks, which loads torch, MLflow and scikit-learn for seconds
and then answers for a fraction of one. Here `python -P SCRIPT ...` runs the same script in a forked child of a process
that has loaded them, and nothing of mlim: the first `mlim` in the child is still the package inside the version.
"""

import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

LOADED = ("pandas", "pyarrow.parquet", "mlflow.pyfunc", "torch", "transformers", "skops.io", "sklearn.ensemble", "cv2")
MOST_BYTES = 1 << 20


class WarmProcess:
    """The process that forks, started when it is first asked; `run` has the form of `subprocess.run`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._ours.close()  # which ends it
            self._process.wait()

    def run(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], **_: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run `python -P SCRIPT ...`; what it says is captured."""
        assert list(command[:2]) == [sys.executable, "-P"]
        if self._process is None:
            self._start()
        said = {name: os.memfd_create(name) for name in ("stdout", "stderr")}
        asked = json.dumps({"words": list(command[2:]), "folder": str(cwd), "environment": dict(env)}).encode()
        socket.send_fds(self._ours, [asked], list(said.values()))
        code = int(self._ours.recv(MOST_BYTES))
        texts = {name: _text(descriptor) for name, descriptor in said.items()}
        return subprocess.CompletedProcess(command, code, **texts)

    def _start(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])


def _text(descriptor: int) -> str:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read().decode()


def main() -> None:
    """Answer on the socket whose file descriptor is the argument, until it is closed."""
    for name in LOADED:
        importlib.import_module(name)
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, descriptors, _, _ = socket.recv_fds(asked, MOST_BYTES, 2)
        if not data:
            return
        child = os.fork()
        if child == 0:
            _become(**json.loads(data), descriptors=descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        asked.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _become(words: list[str], folder: str, environment: dict[str, str], descriptors: list[int]) -> None:
    """In the child: the script, with its own streams, folder and environment."""
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, code = words, 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
