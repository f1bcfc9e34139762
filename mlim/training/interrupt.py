"""Ctrl-C and SIGTERM during a training: finish the step, save a checkpoint, leave."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlim.errors import MlimError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(MlimError):  # noqa: N818 - it names what happened, and nothing went wrong
    """Training was stopped from outside; its checkpoint is written and the same command continues it."""

    interrupted = True  # tracking closes the run as killed, not as failed


class StopRequest:
    """`signal` is set when one asks the process to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one has its usual effect.

    The handlers from before come back at the end. Outside the main thread signals cannot be handled: nothing is done.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def stop(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        restore()

    before.update({number: signal.signal(number, stop) for number in SIGNALS})
    try:
        yield request
    finally:
        restore()
