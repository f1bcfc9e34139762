"""The tasks of scoring on the workers of a Dask cluster, which keep model and items while a table is scored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

from distributed import Client, Future
from distributed.scheduler import KilledWorker

from mlim.cluster import connected
from mlim.errors import MlimError

AHEAD = 2  # tasks in flight for each thread: the next one is there when one ends


class Setup(Protocol):
    """What a worker needs for the tasks of one table."""

    @property
    def key(self) -> str:
        """Names the table."""

    def start(self) -> Any:
        """What tasks work with, made once in every worker."""


@dataclass(frozen=True)
class ClusterTask:
    """A task in flight."""

    future: Future

    def result(self) -> int:
        """How much was done; `MlimError` when workers died over it again and again."""
        try:
            return int(self.future.result())
        except KilledWorker:
            raise MlimError(
                "the workers that score pairs died again and again (out of memory?); give them more, and run the same "
                "command again: what is finished is kept"
            ) from None

    def cancel(self) -> None:
        """Do not begin it."""
        self.future.cancel()


@contextmanager
def open_scoring_cluster(address: str, setup: Setup) -> Iterator[tuple[Callable[..., ClusterTask], int]]:
    """What submits a task and its argument to the cluster at `address`, and how many may be in flight.

    `InputError` when no scheduler answers there, or when it has no workers.
    """
    with connected(address) as client:
        everywhere = client.scatter(setup, broadcast=True)
        try:
            yield _submitting(client, everywhere), AHEAD * max(1, sum(client.nthreads().values()))
        finally:
            client.run(_forget, setup.key)


def _submitting(client: Client, setup: Future) -> Callable[..., ClusterTask]:
    return lambda task, start: ClusterTask(client.submit(_on_worker, setup, task, start, pure=False))


_started: dict[str, Any] = {}  # of this worker's process: what tasks of a table work with
_starting = Lock()


def _on_worker(setup: Setup, task: Callable[[Any, int], int], start: int) -> int:
    with _starting:
        if setup.key not in _started:
            _started[setup.key] = setup.start()
    return task(_started[setup.key], start)


def _forget(key: str) -> None:
    _started.pop(key, None)
