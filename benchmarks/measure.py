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

import psutil

SAMPLE_SECONDS = 0.5
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Finished:
    """One command that ended well: wall seconds, and its peak memory in bytes."""

    seconds: float
    together: int  # proportional set size of the command and all its descendants
    largest: int  # of the largest single process


def run_watched(command: Sequence[str], watched: bool = True) -> Finished:
    """Run a command to its end; what it prints is shown only when it fails.

    Its memory is sampled meanwhile unless `watched` is false (then it is zero): adding up the pages of processes takes
    some of the time of the cores that the command needs.
    """
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watch = _Watch(psutil.Process(child.pid))
    if watched:
        watch.start()
    output, _ = child.communicate()
    seconds = time.perf_counter() - started
    watch.ended.set()
    if watched:
        watch.join()
    if child.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{output}")
    return Finished(seconds, watch.together, watch.largest)


class _Watch(threading.Thread):
    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.ended, self.together, self.largest = threading.Event(), 0, 0
        self._process = process

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            sizes = list(_sizes(self._process))
            self.together = max(self.together, sum(sizes))
            self.largest = max(self.largest, max(sizes, default=0))


def _sizes(process: psutil.Process) -> Iterable[int]:
    """Proportional set size of a process and each descendant: pages that they share count once."""
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
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    command = shlex.join(["python", *_relative(sys.argv)])
    machine = f"{cores()} cores ({_cpu_model()}), {date.today().isoformat()}, Python {platform.python_version()}"
    return f"{machine}, {versions}\n\n    {command}\n"


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
