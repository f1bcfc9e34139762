"""A real `mlflow server` on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

import psutil
import pytest

from mlim.recipe import Recipe, load_recipe
from mlim.tracking import QUIET_PAGES
from mlim.versions import Lineage

SERVER_SECONDS = 180
STOP_SECONDS = 30
LINEAGE = Lineage("c0ffee", False, "5eed.dir", "passed", "1234", "data/catalog.yaml")


def tracked_at(address: str) -> Recipe:
    """A recipe whose runs are kept at this address, and that does not wait long for it."""
    return load_recipe("demo", [f"tracking.uri={address}", "tracking.timeout_seconds=2"])


class MlflowServer:
    """`mlflow server` with a store of its own, which can be stopped and started again at the same address.

    `backend` and `artifacts` are another database and folder than those in `folder`.
    """

    def __init__(self, folder: Path, backend: str | None = None, artifacts: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._backend = backend or f"sqlite:///{folder / 'server.db'}"
        self._artifacts = artifacts or folder / "artifacts"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self._backend, "--workers", "1"]
        command += ["--artifacts-destination", str(self._artifacts)]
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": tools, **QUIET_PAGES}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + SERVER_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1).close()
            except OSError:
                time.sleep(0.3)
            else:
                return
        pytest.fail(f"the server did not answer: {(self._folder / 'server.log').read_text()[-2000:]}")

    @property
    def processes(self) -> list[psutil.Process]:
        """The server's processes, to be killed."""
        leader = psutil.Process(self._process.pid)
        return [leader, *leader.children(recursive=True)]

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(timeout=STOP_SECONDS)
