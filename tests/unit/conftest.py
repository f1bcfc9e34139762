"""A unit test starts no process and no server: what does is an integration test, and fails here."""

import platform
import sys
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

FORBIDDEN = frozenset({"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "socket.bind"})
running: list[str] = []  # the unit test that runs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch a test of this folder, with its fixtures; a slow one may start a compiler."""
    if Path(__file__).parent not in item.path.parents or item.get_closest_marker("slow"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseProcess, "start", lambda process: watch("multiprocessing.Process", (process.name,)))
        running.append(item.nodeid)
        try:
            return (yield)
        finally:
            running.clear()


def watch(event: str, details: tuple[Any, ...]) -> None:
    """Python's own audit events; nothing can remove a hook, so it asks whether a unit test runs."""
    if running and (event in FORBIDDEN or event == "multiprocessing.Process"):
        raise AssertionError(f"a unit test starts a process or a server ({event} {details}); move it to integration")


platform.processor()  # asks `uname` in a process of its own the first time, wherever it is asked for
sys.addaudithook(watch)
