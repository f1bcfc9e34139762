"""A process that is started again when it ends by itself, a few times, and ends with its block."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from mlim.errors import MlimError
from mlim.processes import die_with_parent

STOP_SECONDS = 10
MOST_RESTARTS, WITHIN_SECONDS = 3, 600  # one that ends more often has a reason that a restart does not mend

Process = subprocess.Popen[bytes]


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    said: IO[bytes] | None = None,
    passed: Sequence[int] = (),
) -> Process:
    """Start a process that ends with this one, in a session of its own: Ctrl-C on the terminal reaches us alone."""
    return subprocess.Popen(  # noqa: S603 - our own command line
        command,
        env=environment,
        cwd=folder,
        stdout=said,
        stderr=said,
        pass_fds=passed,
        preexec_fn=die_with_parent,
        start_new_session=True,
    )


class Supervised:
    """`name` is what a person reads of the process that `begin` starts; `where` says where to read what it said."""

    def __init__(self, name: str, begin: Callable[[], Process], where: str = "above") -> None:
        self._name, self._begin, self._where = name, begin, where
        self._restarts: list[float] = []
        self._process = begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it: by SIGTERM, and by SIGKILL if it is still there after a while."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def has_ended(self) -> bool:
        """Whether it is gone."""
        return self._process.poll() is not None

    def look_after(self) -> None:
        """Start it again when it is gone, and say so; `MlimError` when that happened too often of late."""
        if not self.has_ended:
            return
        now = time.monotonic()
        self._restarts = [at for at in self._restarts if now - at < WITHIN_SECONDS] + [now]
        if len(self._restarts) > MOST_RESTARTS:
            raise MlimError(
                f"{self._name} ended by itself {len(self._restarts)} times in {WITHIN_SECONDS // 60} minutes; see "
                f"{self._where}, and start again"
            )
        print(
            f"{self._name} ended ({_how(self._process.returncode)}) and is started again", file=sys.stderr, flush=True
        )
        self._process = self._begin()


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
