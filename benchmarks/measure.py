"""What the benchmarks share: how to run a command and watch its memory, and how to name the machine."""

import importlib.metadata
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # where only the training core runs there is none
    import psutil

SAMPLE_SECONDS = 0.5
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Finished:
    """One command that ended well: wall seconds, and its peak memory in bytes."""

    seconds: float
    together: int  # proportional set size of the command and all its descendants
    largest: int  # of the largest single process


def run_timed(command: Sequence[str]) -> float:
    """Wall seconds of a command that nothing watches: adding up pages takes some of the time of the same cores."""
    started = time.perf_counter()
    _wait(_start(command))
    return time.perf_counter() - started


def run_watched(command: Sequence[str]) -> Finished:
    """Run a command to its end while its memory is sampled."""
    import psutil

    started = time.perf_counter()
    child = _start(command)
    watch = _Watch(psutil.Process(child.pid))
    watch.start()
    try:
        _wait(child)
    finally:
        watch.ended.set()
    seconds = time.perf_counter() - started
    watch.join()
    return Finished(seconds, watch.together, watch.largest)


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait(child: subprocess.Popen[str]) -> None:
    """Until its end; what it printed is shown only when it failed."""
    output, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"{child.args} failed:\n{output}")


class _Watch(threading.Thread):
    def __init__(self, process: "psutil.Process") -> None:
        super().__init__(daemon=True)
        self.ended, self.together, self.largest = threading.Event(), 0, 0
        self._process = process

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            sizes = list(_sizes(self._process))
            self.together = max(self.together, sum(sizes))
            self.largest = max(self.largest, max(sizes, default=0))


def _sizes(process: "psutil.Process") -> Iterable[int]:
    """Proportional set size of a process and each descendant: pages that they share count once."""
    import psutil

    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.Error):
            yield member.memory_full_info().pss


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def heading(packages: Sequence[str]) -> str:
    """Machine, date, versions and the exact command, as lines of Markdown."""
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    command = shlex.join(["python", *_relative(sys.argv)])
    machine = f"{cores()} cores ({_cpu_model()}), {date.today().isoformat()}, Python {platform.python_version()}"
    return f"{machine}, {versions}\n\n    {command}\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: from the folder)"


def _relative(arguments: Sequence[str]) -> list[str]:
    """The command line without the places of this machine: an absolute path is told by its last part."""
    return [Path(word).name if word.startswith("/") else word for word in arguments]


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the ratios first / second, round by round: what the machine does to both cancels out."""
    return statistics.median(a / b for a, b in zip(first, second, strict=True))
