"""A Dask cluster on loopback: a scheduler and workers, each a process of its own."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(*arguments: str):
    environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "false"}
    started = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@contextmanager
def cluster(tmp_path: Path, workers: int = 2):
    """A scheduler and workers, each a process of its own, all on loopback."""
    address = f"tcp://127.0.0.1:{free_port()}"
    here = ("--host", "127.0.0.1", "--no-dashboard")
    with ExitStack() as stack:
        stack.enter_context(process("dask", "scheduler", *here, "--port", address.rpartition(":")[2]))
        for number in range(workers):
            local = ("--local-directory", str(tmp_path / f"worker-{number}"), "--nthreads", "1")
            stack.enter_context(process("dask", "worker", address, *here, *local))
        wait_for_workers(address, workers)
        yield address


def wait_for_workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, timeout=SECONDS) as client:
        client.wait_for_workers(count, timeout=SECONDS)
