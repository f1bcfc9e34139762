"""The tasks of an ingest on this machine: a pool of threads, as the sandbox's processes do all the computing."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from mlim.ingest.engine import AHEAD, Result, Task, Work
from mlim.pictures.base import PictureStore
from mlim.pictures.decoding import ImageRules
from mlim.pictures.sandbox import DecodeLimits, Sandbox, open_sandbox

MOVERS = 1  # threads beyond one per decoding process: one writes its shard while the others keep decoding


@dataclass(frozen=True)
class ThreadEngine:
    """Runs tasks in the threads of `pool`; all decode in one sandbox."""

    pool: ThreadPoolExecutor
    sandbox: Sandbox
    ahead: int

    def run(self, task: Task[Work, Result], works: Iterable[Work]) -> Iterator[tuple[Work, Result]]:
        """As `Engine.run`."""
        waiting = deque[tuple[Work, Future[Result]]]()
        for work in works:
            waiting.append((work, self.pool.submit(task, work, self.sandbox)))
            if len(waiting) >= self.ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for work, future in waiting:
            yield work, future.result()


@contextmanager
def open_threads(
    processes: int, limits: DecodeLimits, store: PictureStore, rules: ImageRules
) -> Iterator[ThreadEngine]:
    """An engine of this machine with so many decoding processes."""
    threads = processes + MOVERS
    pool = ThreadPoolExecutor(threads, thread_name_prefix="mlim-ingest")
    try:
        with open_sandbox(processes, limits, store, rules) as sandbox:
            try:
                yield ThreadEngine(pool, sandbox, AHEAD * threads)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        pool.shutdown()  # what still runs after an error ends now, as its sandbox is gone
