"""The processes behind a flow's stages: none outlives the flow, none starts when it is over."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from flows.children import Children
from mlim.errors import MlimError
from tests.reaper import of_this_run

pytestmark = pytest.mark.integration

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
WITH_CHILD = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEP})"]
SECONDS = 30


def run(children: Children, command: list[str]) -> int:
    with children.start(command, {}, on_terminal=False) as child:
        return child.wait()


def listen(children: Children, command: list[str]) -> bytes:
    with children.start(command, {}, on_terminal=False) as child:
        assert child.stdout is not None
        return child.stdout.read()


def sleepers(count: int) -> list[psutil.Process]:
    """Of this test run: another one, or another test, may have the same command sleep."""
    deadline = time.monotonic() + SECONDS
    while len(found := [p for p in of_this_run("cmdline") if p.info["cmdline"] == SLEEP]) < count:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def test_an_early_end_ends_all_that_run_and_what_they_started() -> None:
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt), Children() as children:  # noqa: PT012
            done = [pool.submit(run, children, WITH_CHILD) for _ in range(2)]
            started = sleepers(2)
            raise KeyboardInterrupt
        assert all(future.result(SECONDS) != 0 for future in done)
    assert not psutil.wait_procs(started, timeout=SECONDS)[1]


def test_what_does_not_end_by_itself_is_killed_even_if_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.children.GRACE_SECONDS", 1)
    deaf = f"import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.run({SLEEP})"
    orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf!r}])"
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt), Children() as children:  # noqa: PT012
            done = pool.submit(listen, children, [sys.executable, "-c", orphan])
            started = sleepers(1)
            raise KeyboardInterrupt
        done.result(SECONDS)
    assert not psutil.wait_procs(started, timeout=SECONDS)[1]


def test_nothing_starts_when_the_block_is_over() -> None:
    with Children() as children:
        assert run(children, [sys.executable, "-c", "raise SystemExit(3)"]) == 3
    with pytest.raises(MlimError, match="not started"):
        run(children, SLEEP)


def test_who_stops_listening_ends_the_process() -> None:
    with (
        Children() as children,
        pytest.raises(OSError, match="disk full"),
        children.start(SLEEP, {}, on_terminal=False) as child,
    ):
        raise OSError("disk full")
    assert child.poll() is not None


def test_output_comes_through_a_pipe_and_variables_reach_the_process() -> None:
    words = [sys.executable, "-c", "import os, sys; print(os.environ['WORD'], file=sys.stderr)"]
    with Children() as children, children.start(words, {"WORD": "here"}, on_terminal=False) as child:
        assert child.communicate(timeout=SECONDS)[0] == b"here\n"
