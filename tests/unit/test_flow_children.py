"""The processes behind a flow's stages: none outlives the flow, none starts when it is over."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows.children import Children
from mlim.errors import MlimError
from mlim.processes import cores, threads_of_each

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
WITH_CHILD = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEP})"]
SECONDS = 30


def run(children: Children, command: list[str]) -> int:
    with children.start(command, {}, on_terminal=False) as child:
        return child.wait()


def below(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def test_an_early_end_ends_all_that_run_and_what_they_started() -> None:
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(KeyboardInterrupt, match="4 processes"), Children() as children:  # noqa: PT012
            done = [pool.submit(run, children, WITH_CHILD) for _ in range(2)]
            started = wait_for_processes(4)
            raise KeyboardInterrupt(f"{len(started)} processes")
        assert all(future.result(SECONDS) != 0 for future in done)
    assert not psutil.wait_procs(started, timeout=SECONDS)[1]


def wait_for_processes(count: int) -> list[psutil.Process]:
    deadline = time.monotonic() + SECONDS
    while len(found := [p for p in below(psutil.Process()) if "time.sleep(600)" in " ".join(p.cmdline())]) < count:
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


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


def test_output_comes_through_a_pipe_and_variables_reach_the_process(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import os, sys; print(os.environ['WORD'], file=sys.stderr)"]
    with Children() as children, children.start(words, {"WORD": "here"}, on_terminal=False) as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"here\n"


@pytest.mark.parametrize(("given", "each"), [("8", 4), ("1", 1), (None, max(1, cores() // 2))])
def test_threads_are_shared_out(given: str | None, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert threads_of_each(2) == {"OMP_NUM_THREADS": str(each)}
