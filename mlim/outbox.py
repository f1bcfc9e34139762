"""What a store of runs has not taken yet: operations in their order, each a file, kept until they are delivered.

A folder belongs to one run. The process that fills it holds its lock, which the kernel drops on any death; whoever
finds a folder without a holder may deliver what lies in it.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlim.files import atomic_folder, read_json, write_json

OPERATION, FILES = "operation.json", "files"
REFUSED = "refused"  # the folder beside outboxes of what a store does not take
LOCK = "lock"
DIGITS = 8

Operation = Mapping[str, Any]
Send = Callable[[Operation, Path | None], None]


class Outbox:
    """The operations of one run, in `folder`; nothing is made there until the first one waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK, thread_local=False)

    def __len__(self) -> int:
        return len(self._waiting())

    @property
    def run_id(self) -> str:
        """The run whose operations these are."""
        return self._folder.name

    def take(self) -> bool:
        """Whether what waits is ours now: another process that lives may fill the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._lock.is_locked:  # it counts how often it is taken
            with suppress(Timeout):
                self._lock.acquire(blocking=False)
        return self._lock.is_locked

    def add(self, operation: Operation, files: Path | None) -> None:
        """Keep an operation, JSON-able, behind those that wait, with a copy of its file or folder."""
        self.take()
        waiting = self._waiting()
        number = int(waiting[-1].name) + 1 if waiting else 1
        with atomic_folder(self._folder / f"{number:0{DIGITS}}") as made:
            write_json(made / OPERATION, operation)
            if files is not None:
                target = made / FILES / files.name
                target.parent.mkdir()
                if files.is_dir():
                    shutil.copytree(files, target)
                else:
                    shutil.copy(files, target)

    def deliver(self, send: Send) -> None:
        """Send what waits, the oldest first; what was sent is gone, and an exception of `send` leaves the rest."""
        for place in self._waiting():
            files = place / FILES
            send(read_json(place / OPERATION), next(files.iterdir()) if files.is_dir() else None)
            (place / OPERATION).unlink()  # first: without it the rest means nothing
            shutil.rmtree(place)

    def set_aside(self) -> Path:
        """Move what waits where nothing delivers it any more; gives the place."""
        refused = self._folder.parent / REFUSED
        refused.mkdir(exist_ok=True)
        places = (refused / f"{self._folder.name}{end}" for end in chain([""], map("-{}".format, count(2))))
        place = next(place for place in places if not place.exists())
        self._folder.rename(place)
        return place

    def close(self) -> None:
        """Let others deliver what waits; without anything the folder is removed."""
        if not self._lock.is_locked:
            return
        if not self:
            (self._folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # somebody has just begun to use it
                self._folder.rmdir()
        self._lock.release()

    def _waiting(self) -> list[Path]:
        """The places of operations, the oldest first."""
        return sorted(place for place in self._folder.glob("[0-9]" * DIGITS) if (place / OPERATION).is_file())


def left_behind(folder: Path) -> Iterator[Outbox]:
    """The outboxes in `folder` with operations that no living process holds; each is ours until the next one."""
    for place in sorted(folder.glob("*/")):
        outbox = Outbox(place)
        if outbox and outbox.take():
            try:
                yield outbox
            finally:
                outbox.close()
