"""How many downloads run at a time: from one host over all processes that share a cache, and in one call."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mlim.files import sha256_of_bytes

DOWNLOADS_AT_A_TIME = 64  # of one call, from all hosts together
LOOK_AGAIN_SECONDS = 0.02  # while other processes have all turns of a host
HOST_DIGITS = 16


class Turns:
    """Turns at hosts, each held as a lock on one of `per_host` files in `folder`; the system frees a dead process's."""

    def __init__(self, folder: Path, per_host: int) -> None:
        self._folder = folder
        self._per_host = per_host
        self._asking: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(per_host))
        self._idle: dict[str, list[FileLock]] = {}  # those of a host that no download of ours holds
        self._all = asyncio.Semaphore(DOWNLOADS_AT_A_TIME)

    @asynccontextmanager
    async def at(self, host: str) -> AsyncIterator[None]:
        """Wait for a turn at the host first, so that a slow host keeps no place from the others."""
        async with self._asking[host], self._lock_at(host), self._all:
            yield

    @asynccontextmanager
    async def _lock_at(self, host: str) -> AsyncIterator[None]:
        if host not in self._idle:
            self._idle[host] = self._locks_of(host)
        idle = self._idle[host]
        while (lock := next(filter(_taken, idle), None)) is None:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
        idle.remove(lock)
        try:
            yield
        finally:
            lock.release()
            idle.append(lock)

    def _locks_of(self, host: str) -> list[FileLock]:
        folder = self._folder / sha256_of_bytes(host.encode())[:HOST_DIGITS]
        folder.mkdir(parents=True, exist_ok=True)
        return [FileLock(folder / f"{number}.lock", thread_local=False) for number in range(self._per_host)]


def _taken(lock: FileLock) -> bool:
    """Whether the lock was free and is ours now."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True
