"""Ctrl-C and SIGTERM during a training: finish the step, save a checkpoint, leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlim.errors import MlimError
from mlim.processes import unwind

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(MlimError):  # noqa: N818 - it names what happened, and nothing went wrong
    """Training was stopped from outside; the same command continues from its newest checkpoint."""

    interrupted = True  # tracking closes the run as killed, not as failed


class StopRequest:
    """`signal` is set when one asks the process to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second SIGINT has its usual effect.

    Further SIGTERMs are ignored, in a command that trains until it ends (`unwind`): none may cut off the checkpoint
    that the first one asks for. The handlers from before come back at the end. Outside the main thread signals cannot
    be handled: nothing is done.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        request.signal = request.signal or signal.Signals(number)
        if before[signal.SIGTERM] is unwind:
            before[signal.SIGTERM] = signal.SIG_IGN
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    before.update({number: signal.signal(number, stop) for number in SIGNALS})
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
