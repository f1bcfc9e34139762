"""Rows of concurrent requests computed together: small requests fill a batch that each alone would leave empty."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False)
class _Job(Generic[T, R]):
    """Rows of one request; `latest` is the loop's time at which they wait for no others any more."""

    rows: Sequence[T]
    answer: "asyncio.Future[Sequence[R]]"
    latest: float


class Batcher(Generic[T, R]):
    """Calls `compute`, which gives one result per row, in a thread with up to `size` rows of waiting requests.

    Rows wait at most `wait_seconds`, and only while others are on their way (`expecting`) or a batch is computed; with
    0 every request is computed by itself. Of a batch that fails, each request is computed again alone, so that only the
    one that is to blame fails. A request that nobody waits for any more is skipped.
    """

    def __init__(
        self, compute: Callable[[Sequence[T]], Sequence[R]], size: int, wait_seconds: float, thread: Executor
    ) -> None:
        self._compute, self._size, self._wait_seconds, self._thread = compute, size, wait_seconds, thread
        self._queue: deque[_Job[T, R]] = deque()
        self._expected = 0
        self._changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Rows are prepared in the block and come when it ends: those of others wait a little for them."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._changed.set()

    async def run(self, rows: Sequence[T]) -> Sequence[R]:
        """The results of rows, at most `size`, in order; raises what `compute` raises for them."""
        if not rows:
            return []
        loop = asyncio.get_running_loop()
        job = _Job[T, R](rows, loop.create_future(), loop.time() + self._wait_seconds)
        self._queue.append(job)
        self._changed.set()
        if self._work is None:
            self._work = loop.create_task(self._until_empty())
        return await job.answer

    async def _until_empty(self) -> None:
        try:
            while self._queue:
                await self._gather()
                await self._answer(self._next_batch())
        finally:
            self._work = None

    async def _gather(self) -> None:
        """Wait until a batch is full, no rows are expected, or the first ones have waited long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._queue[0].latest):
                while self._expected and sum(len(job.rows) for job in self._queue) < self._size:
                    self._changed.clear()
                    await self._changed.wait()

    def _next_batch(self) -> list[_Job[T, R]]:
        """The first requests that still wait, and as many more as fit."""
        batch: list[_Job[T, R]] = []
        room = self._size
        while self._queue and (not batch or (self._wait_seconds and len(self._queue[0].rows) <= room)):
            job = self._queue.popleft()
            if not job.answer.done():
                batch.append(job)
                room -= len(job.rows)
        return batch

    async def _answer(self, jobs: Sequence[_Job[T, R]]) -> None:
        rows = [row for job in jobs for row in job.rows]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, rows) if rows else ()
        except Exception as error:  # whatever a model raises: the other requests get their answers all the same
            await self._fail(jobs, error)
            return
        start = 0
        for job in jobs:
            if not job.answer.done():
                job.answer.set_result(found[start : start + len(job.rows)])
            start += len(job.rows)

    async def _fail(self, jobs: Sequence[_Job[T, R]], error: Exception) -> None:
        if len(jobs) > 1:
            for job in jobs:
                await self._answer([job])
        elif not jobs[0].answer.done():
            jobs[0].answer.set_exception(error)


class Room:
    """Room for so many rows in memory; requests wait for it in the order in which they came."""

    def __init__(self, rows: int) -> None:
        self._free = rows
        self._turn, self._freed = asyncio.Lock(), asyncio.Event()

    @asynccontextmanager
    async def taken(self, rows: int) -> AsyncIterator[None]:
        """Hold room for `rows`, at most all of it, during the block."""
        async with self._turn:
            while self._free < rows:
                self._freed.clear()
                await self._freed.wait()
            self._free -= rows
        try:
            yield
        finally:
            self._free += rows
            self._freed.set()
