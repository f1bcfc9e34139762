"""Processes that must not outlive the one that started them, and processes that train together."""

import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
RANK = "RANK"  # torchrun's environment; 0 for the process that leads
THREADS = "OMP_NUM_THREADS"  # torch reads it when it is loaded
WAITING, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"  # how its threads wait for each other; libgomp, which torch brings
FEW_SPINS = "3000"  # microseconds instead of milliseconds: no slower where the cores are free


def is_follower() -> bool:
    """Whether a launcher started this process beside another one that does the talking."""
    return os.environ.get(RANK, "0") != "0"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_each(processes: int) -> dict[str, str]:
    """The environment of one of so many `processes` side by side: its share of the threads that one alone would use."""
    given = os.environ.get(THREADS, "")
    alone = int(given) if given.isdecimal() else cores()
    return {THREADS: str(max(1, alone // processes))}


def wait_briefly() -> None:
    """Let torch's threads go to sleep soon when they wait for each other; to be called before torch is loaded.

    By default they spin for milliseconds. Where other programs use the cores too, one spins on a core that the thread
    it waits for could have, and a step takes many times as long (docs/performance.md). What the environment says about
    waiting stays.
    """
    if WAITING not in os.environ:
        os.environ.setdefault(SPINS, FEW_SPINS)


def is_alive(process: int) -> bool:
    """Whether there is a process of this number, anybody's."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def die_with_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies, even by kill -9 (Linux; elsewhere nothing).

    A process of multiprocessing may get here seconds after it was started; if its parent is gone by then, it ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        signal.raise_signal(signal.SIGTERM)
