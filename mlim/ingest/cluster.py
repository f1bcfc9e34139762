"""The tasks of an ingest on the workers of a Dask cluster.

Every worker has a sandbox of its own. A worker that dies loses its tasks to another one.
"""

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker

from mlim.cluster import connected
from mlim.errors import MlimError
from mlim.ingest.engine import AHEAD, Result, Task, Work
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import ImageRules
from mlim.pictures.sandbox import DecodeLimits, open_sandbox

SANDBOX = "mlim-sandbox"


@dataclass(frozen=True)
class ClusterEngine:
    """A connected scheduler and how many tasks may be in flight."""

    client: Client
    ahead: int

    def run(self, task: Task[Work, Result], works: Iterable[Work]) -> Iterator[tuple[Work, Result]]:
        """As `Engine.run`; `MlimError` when workers died over a task or the scheduler is lost."""
        flying = deque[tuple[Work, Future]]()
        try:
            for work in works:
                flying.append((work, self.client.submit(_on_worker, task, work, key=work.key, pure=False)))
                if len(flying) >= self.ahead:
                    yield _landed(*flying.popleft())
            while flying:
                yield _landed(*flying.popleft())
        finally:
            with contextlib.suppress(Exception):  # an error is under way already, or nothing is left to cancel
                self.client.cancel([future for _, future in flying])


def _on_worker(task: Task[Work, Result], work: Work) -> Result:
    """Runs in a worker: the task, with the worker's sandbox."""
    plugin: _SandboxPlugin = get_worker().plugins[SANDBOX]
    return task(work, plugin.sandbox)


def _landed(work: Work, future: Future) -> tuple[Work, Any]:
    try:
        return work, future.result()
    except KilledWorker:
        raise MlimError(
            f"the workers that made shard {work.key} died again and again (out of memory?); "
            "lower ingest.rows_per_shard or ingest.workers and run the same command again"
        ) from None


@contextmanager
def open_cluster(address: str, limits: DecodeLimits, store: PictureStore, rules: ImageRules) -> Iterator[ClusterEngine]:
    """The Dask cluster whose scheduler listens at `address`, with all the workers it has.

    `InputError` when no scheduler answers there, `MlimError` when its workers cannot start processes.
    """
    with connected(address) as client:
        _prepare_workers(client, _SandboxPlugin(limits, store, rules))
        yield ClusterEngine(client, AHEAD * max(1, sum(client.nthreads().values())))


def _prepare_workers(client: Client, plugin: "_SandboxPlugin") -> None:
    try:
        client.register_plugin(plugin, name=SANDBOX)
    except AssertionError as error:
        raise MlimError(
            f"a Dask worker may not start processes ({error}); start the workers with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=false in their environment"
        ) from None


class _SandboxPlugin(WorkerPlugin):  # type: ignore[misc]
    """Gives every worker its decoding processes: one for each of its threads."""

    def __init__(self, limits: DecodeLimits, store: PictureStore, rules: ImageRules) -> None:
        self._limits, self._store, self._rules = limits, store, rules

    def setup(self, worker: Any) -> None:
        """Start the processes when the worker joins."""
        if multiprocessing.current_process().daemon:
            raise AssertionError("it is a daemonic process")
        self._open = ExitStack()
        sandbox = open_sandbox(worker.state.nthreads, self._limits, self._store, self._rules)
        self.sandbox = self._open.enter_context(sandbox)

    def teardown(self, worker: Any) -> None:
        """End them when it leaves."""
        self._open.close()
