"""Processes that must not outlive the one that started them, processes that train together, and ways to loopback."""

import ctypes
import gc
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mlim.errors import InputError

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
TERMINATED = 128 + signal.SIGTERM  # the exit status that shells give such an end
RANK = "RANK"  # torchrun's environment; 0 for the process that leads
THREADS = "OMP_NUM_THREADS"  # torch reads it when it is loaded
WAITING, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"  # how its threads wait for each other; libgomp, which torch brings
PROCESSES_PER_CORE = 4
COLLECT_AFTER = 50_000  # new objects, not 700: loading libraries makes a million of them, and all stay
ZOMBIE = b"Z"  # /proc/PID/stat, proc(5)
FEW_SPINS = "3000"  # microseconds instead of milliseconds: no slower where the cores are free
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DIRECT = ("NO_PROXY", "no_proxy")  # libraries read one or the other
EVERY_HOST = "*"
PROXIES = tuple(f"{kind}_proxy" for kind in ("http", "https", "all"))
SET_ASIDE = "MLIM_PROXIES"  # the proxies that `without_proxies` took out, as JSON


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage is collected in the block: loading libraries makes a million objects, and all of them stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def is_follower() -> bool:
    """Whether a launcher started this process beside another one that prints."""
    return os.environ.get(RANK, "0") != "0"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_for(wanted: int | None, setting: str) -> int:
    """How many processes share the cores: so many as are wanted, or one for each core (None).

    `InputError`, which names the setting, for more than help anybody: each takes memory and a place in the system.
    """
    most = PROCESSES_PER_CORE * cores()
    if wanted is not None and wanted > most:
        raise InputError(
            f"{setting} is {wanted}, but this machine has {cores()} cores, and more than {PROCESSES_PER_CORE} "
            f"processes for each only take memory; set it to {most} or less"
        )
    return wanted or cores()


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


def prepare_for_libraries() -> None:
    """Set what the large libraries read when they are loaded; what the environment says already stays.

    Garbage is collected less often from now on, or it takes a good part of the time in which they are loaded.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns of what modality dropout does on purpose
    wait_briefly()
    reach_loopback_directly(os.environ)


def reach_loopback_directly(environment: MutableMapping[str, str]) -> None:
    """Let no proxy stand before this machine's own servers; the hosts that are named already stay."""
    named = [host.strip() for name in DIRECT for host in environment.get(name, "").split(",")]
    if EVERY_HOST not in named:  # Python knows this one alone and not in a list
        hosts = dict.fromkeys(host for host in [*named, *LOOPBACK] if host)
        environment.update(dict.fromkeys(DIRECT, ",".join(hosts)))


def without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program that connects to loopback alone; `with_proxies` gives back what is missing in it.

    Loopback among the hosts without a proxy is not enough there: httpx refuses to start when it cannot use a proxy
    (`socks5://` without a further package, `socks://` always), whatever it is asked to reach.
    """
    proxies = {name: value for name, value in environment.items() if name.lower() in PROXIES}
    rest = {name: value for name, value in environment.items() if name not in proxies}
    return {**rest, SET_ASIDE: json.dumps(proxies)} if proxies else rest


def with_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as it was before `without_proxies`, for a program that may go out."""
    rest = dict(environment)
    proxies: dict[str, str] = json.loads(rest.pop(SET_ASIDE, "{}"))
    return {**proxies, **rest}


def is_alive(process: int) -> bool:
    """Whether there is a process of this number, anybody's, that has not ended."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether a process has ended and nobody has asked how (Linux; elsewhere False).

    In a container whose first process asks late or never, that is what kill -9 leaves.
    """
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state == ZOMBIE


def die_with_parent() -> None:
    """Ask the kernel to terminate this process when its parent dies, even by kill -9 (Linux; elsewhere nothing).

    A process of multiprocessing may get here seconds after it was started; if its parent is gone by then, it ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        signal.raise_signal(signal.SIGTERM)


def unwind(signum: int, frame: object) -> NoReturn:
    """What a process does at SIGTERM: the first one unwinds the stack, so that what is open is closed.

    Further ones are ignored: whoever ends processes sends several (Prefect, DVC, the kernel when a parent dies), and
    they would cut off what the first one lets close.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(TERMINATED)


def end_once() -> None:
    """Let the first SIGTERM end this process in its own time: a command that trains saves, closes and says so."""
    signal.signal(signal.SIGTERM, unwind)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let the first SIGTERM unwind the stack (`unwind`); a handler that someone has set stays."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        end_once()
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def without_sigterm() -> Iterator[None]:
    """Finish the block whatever SIGTERM comes: it closes what was opened, and whoever sends one wants no more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
