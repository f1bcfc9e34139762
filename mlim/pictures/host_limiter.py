"""Limits how many downloads run at a time: from one host over all processes that share a cache, and in one call."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mlim.files import sha256_of_bytes

DOWNLOADS_AT_A_TIME = 64  # of one call, from all hosts together
LOOK_AGAIN_SECONDS = 0.02  # while other processes hold all slots of a host
HOST_DIGITS = 16


class HostLimiter:
    """Slots at hosts: each is a lock on one of `per_host` files in `folder`; the system frees those of a dead process.

    A lock goes from one of our downloads to the next that waits for it, without asking the system again: another
    process gets it when no download of ours waits for this host any more.
    """

    def __init__(self, folder: Path, per_host: int) -> None:
        self._folder = folder
        self._per_host = per_host
        self._hosts: dict[str, _Host] = {}
        self._all = asyncio.Semaphore(DOWNLOADS_AT_A_TIME)

    @asynccontextmanager
    async def slot(self, host: str) -> AsyncIterator[None]:
        """Wait for a slot at the host first, so that a slow host blocks no other."""
        if host not in self._hosts:
            folder = self._folder / sha256_of_bytes(host.encode())[:HOST_DIGITS]
            folder.mkdir(parents=True, exist_ok=True)
            locks = [FileLock(folder / f"{number}.lock", thread_local=False) for number in range(self._per_host)]
            self._hosts[host] = _Host(locks)
        async with self._hosts[host].slot(), self._all:
            yield


class _Host:
    """The slots of one host. Only as many locks are kept from other processes as downloads of ours wait or run."""

    def __init__(self, locks: list[FileLock]) -> None:
        self._others, self._ours = locks, list[FileLock]()  # free or another process's; ours, for the next that waits
        self._waiting = 0
        self._asking = asyncio.Semaphore(len(locks))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a lock, and hold it."""
        with self._counted():
            await self._asking.acquire()
            try:
                lock = await self._lock()
            except BaseException:
                self._asking.release()
                raise
        try:
            yield
        finally:
            self._ours.append(lock)
            self._release_idle()
            self._asking.release()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The block waits, and may be cancelled there."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            self._release_idle()

    async def _lock(self) -> FileLock:
        while not self._ours:
            taken = next(filter(_taken, self._others), None)
            if taken is None:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            else:
                self._others.remove(taken)
                self._ours.append(taken)
        return self._ours.pop()

    def _release_idle(self) -> None:
        while len(self._ours) > self._waiting:
            idle = self._ours.pop()
            idle.release()
            self._others.append(idle)


def _taken(lock: FileLock) -> bool:
    """Whether the lock was free and is ours now."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
