"""What runs the tasks of an ingest: `threads.py` on this machine, `cluster.py` on many.

A task is one shard. Decoding happens in the processes of a sandbox, so that a task itself only moves bytes.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from mlim.pictures.sandbox import Sandbox

AHEAD = 2  # tasks in flight for each thread: the next one is there when one ends


class Keyed(Protocol):
    """What an engine runs: its key names the task."""

    @property
    def key(self) -> str:
        """The same for the same work, unique in a run."""


Work = TypeVar("Work", bound=Keyed)
Result = TypeVar("Result")
Task = Callable[[Work, Sandbox], Result]  # decodes in the sandbox that it is given


class Engine(Protocol):
    """Runs tasks side by side."""

    def run(self, task: Task[Work, Result], works: Iterable[Work]) -> Iterator[tuple[Work, Result]]:
        """Each piece of work with its result, in order; works are taken from the iterable as places become free.

        Errors of a task are raised as they are.
        """
