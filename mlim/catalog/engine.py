"""The room of Dask: the same tasks on this machine's cores, or on the workers of a cluster.

A task is one shard. Decoding happens in the sandbox of the worker that runs the task, so that a task's own thread only
moves bytes; a worker that dies loses its tasks to another one. Every machine must see the source and the work folder
under the same path (a shared file system).
"""

import contextlib
import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import dask
from distributed import Client, Future, LocalCluster, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker

from mlim.catalog.images import ImageRules
from mlim.catalog.pictures.base import PictureStore
from mlim.catalog.sandbox import DecodeLimits, Sandbox, open_sandbox
from mlim.errors import InputError, MlimError

SANDBOX = "mlim-sandbox"
MOVERS = 1  # threads beyond one per decoding process: one writes its shard while the others keep decoding
AHEAD = 2  # tasks in flight for each thread: the next one is there when one ends
CONNECT_SECONDS = 30
LOOPBACK = "127.0.0.1:0"
# Dask looks at itself: at all stacks every 10 ms, at its loop every 20, at memory every 500. Where one worker keeps
# all cores busy that takes a share of them and tells nobody anything; a cluster keeps what its own configuration says.
UNWATCHED = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}


class Keyed(Protocol):
    """What an engine runs: its key names the task."""

    @property
    def key(self) -> str:
        """The same for the same work, unique in a run."""


Work = TypeVar("Work", bound=Keyed)
Result = TypeVar("Result")


def worker_sandbox() -> Sandbox:
    """The sandbox of the worker that runs the calling task."""
    plugin: _SandboxPlugin = get_worker().plugins[SANDBOX]
    return plugin.sandbox


@dataclass(frozen=True)
class Engine:
    """A connected scheduler and how many tasks may be in flight."""

    client: Client
    ahead: int

    def run(self, task: Callable[[Work], Result], works: Iterable[Work]) -> Iterator[tuple[Work, Result]]:
        """Each piece of work with its result, in order; works are taken from the iterable as places become free.

        Errors of a task are raised as they are; `MlimError` when workers died over a task or the scheduler is lost.
        """
        flying = deque[tuple[Work, Future]]()
        try:
            for work in works:
                flying.append((work, self.client.submit(task, work, key=work.key, pure=False)))
                if len(flying) >= self.ahead:
                    yield _landed(*flying.popleft())
            while flying:
                yield _landed(*flying.popleft())
        finally:
            with contextlib.suppress(Exception):  # an error is under way already, or nothing is left to cancel
                self.client.cancel([future for _, future in flying])


def _landed(work: Work, future: Future) -> tuple[Work, Any]:
    try:
        return work, future.result()
    except KilledWorker:
        raise MlimError(
            f"the workers that made shard {work.key} died again and again (out of memory?); "
            "lower ingest.rows_per_shard or ingest.workers and run the same command again"
        ) from None


@contextmanager
def open_engine(
    address: str | None, processes: int, limits: DecodeLimits, store: PictureStore, rules: ImageRules
) -> Iterator[Engine]:
    """An engine of this machine with so many decoding processes, or the Dask cluster at `address` with all it has.

    `InputError` when no scheduler answers there, `MlimError` when its workers cannot start processes.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is raised, in our words
    with ExitStack() as stack:
        client = stack.enter_context(_connect(address)) if address else stack.enter_context(_here(processes))
        _prepare_workers(client, _SandboxPlugin(None if address else processes, limits, store, rules))
        yield Engine(client, AHEAD * max(1, sum(client.nthreads().values())))


@contextmanager
def _here(processes: int) -> Iterator[Client]:
    """One worker inside this process; what Dask lets one look at listens on loopback."""
    threads = processes + MOVERS
    with (
        dask.config.set(UNWATCHED),
        LocalCluster(
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            dashboard_address=LOOPBACK,
            worker_dashboard_address=LOOPBACK,
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _connect(address: str) -> Client:
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"ingest.cluster: no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, or "
            "set it to null for this machine alone"
        ) from None
    if not client.nthreads():
        client.close()
        raise InputError(f"ingest.cluster: the scheduler at {address} has no workers; start some with `dask worker`")
    return client


def _prepare_workers(client: Client, plugin: "_SandboxPlugin") -> None:
    try:
        client.register_plugin(plugin, name=SANDBOX)
    except AssertionError as error:
        raise MlimError(
            f"a Dask worker may not start processes ({error}); start the workers with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=false in their environment"
        ) from None


class _SandboxPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives every worker its decoding processes: as many as told, else one for each of its threads."""

    def __init__(self, processes: int | None, limits: DecodeLimits, store: PictureStore, rules: ImageRules) -> None:
        self._processes, self._limits, self._store, self._rules = processes, limits, store, rules

    def setup(self, worker: Any) -> None:
        """Start the processes when the worker joins."""
        if multiprocessing.current_process().daemon:
            raise AssertionError("it is a daemonic process")
        self._open = ExitStack()
        processes = self._processes or worker.state.nthreads
        sandbox = open_sandbox(processes, self._limits, self._store, self._rules)
        self.sandbox = self._open.enter_context(sandbox)

    def teardown(self, worker: Any) -> None:
        """End them when it leaves."""
        self._open.close()
