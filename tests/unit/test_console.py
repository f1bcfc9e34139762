"""What a command says while it runs."""

import os
from contextlib import suppress

import pytest

from mlim.console import Terminal


def test_a_reader_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of a flow that was killed: the training that prints into it has a checkpoint to save."""
    read, write = os.pipe()
    os.close(read)
    target = os.fdopen(write, "w")
    monkeypatch.setattr("sys.stderr", target)
    terminal = Terminal()
    terminal.say("one")
    with terminal.progress("steps", 10) as bar:
        bar.advance(5)
        bar.advance(5)
    terminal.warn("the end")
    with suppress(BrokenPipeError):
        target.close()
