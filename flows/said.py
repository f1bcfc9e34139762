"""Why a stage failed, in its own words: the error sentences among the lines that it printed."""

import logging
import re
import signal
from collections import deque
from pathlib import Path

from mlim.errors import InputError, MlimError, UnavailableError

ERROR = "error: "  # leads every sentence of `mlim.failures.report_error`
DVC_ERROR = "ERROR: "
OF_A_STAGE = re.compile(r"exited with (-?\d+)")  # what DVC says of the command that a stage is
WARNING = "warning: "
KEPT_SENTENCES = 20
SHOWN_CHARACTERS = 2000  # of one sentence


def level_of(line: str) -> int:
    """The level of a line in the log of a run: the page shows errors and warnings in their colours."""
    if line.startswith((ERROR, DVC_ERROR)):
        return logging.ERROR
    return logging.WARNING if line.startswith(WARNING) else logging.INFO


class Said:
    """Hears a command line by line and keeps what tells why it failed."""

    def __init__(self) -> None:
        self._sentences: deque[str] = deque(maxlen=KEPT_SENTENCES)
        self._of_dvc = ""
        self._last = ""
        self._code: int | None = None

    def hear(self, line: str) -> None:
        """One line, without its end."""
        text = line.strip()
        if line.startswith(ERROR):
            self._sentences.append(text.removeprefix(ERROR)[:SHOWN_CHARACTERS])
        elif line.startswith(DVC_ERROR):
            self._of_dvc = text.removeprefix(DVC_ERROR)[:SHOWN_CHARACTERS]
            if found := OF_A_STAGE.search(text):
                self._code = int(found[1])
        elif text:
            self._last = text[:SHOWN_CHARACTERS]

    def failure(self, target: str, code: int, log: Path) -> MlimError:
        """The error of stage `target`, whose command exited with `code`: of the kind that the stage itself raised."""
        own = code if self._code is None else self._code
        kinds: dict[int, type[MlimError]] = {kind.exit_code: kind for kind in (InputError, UnavailableError)}
        reason = self._reason(own)
        found = f": {reason} (exit {own}; log: {log})" if reason else f" (exit {own}); see the lines above"
        return kinds.get(own, MlimError)(f"stage {target} failed{found}")

    def _reason(self, code: int) -> str:
        """Its own sentences, else what ended it, else the last line: of a fault of our code that is the exception."""
        if self._sentences:
            return "\n".join(self._sentences)
        if code < 0:
            memory = ", perhaps because memory ran out" if -code == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-code).name}{memory}"
        return self._of_dvc if self._of_dvc and self._code is None else self._last
