"""Progress and messages on standard error while a command runs."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

JOINER = "\u200d"  # holds emoji together
REPLACEMENT = "\ufffd"


class ProgressBar(Protocol):
    """Long work reports through this; it never knows what draws it."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that `steps` more units are done, with a short note (losses, rates)."""


class SilentBar:
    """Draws nothing (tests, `--quiet`)."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


class _RichBar:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=steps, note=note)  # type: ignore[arg-type]


class _LineBar:
    """One line every tenth of the work: for log files and CI, where a redrawn bar is noise.

    Work of unknown length gets a line whenever it has doubled.
    """

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._console, self._title, self._total = console, title, total
        self._done, self._shown = 0, -1

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        part = self._done.bit_length() if self._total is None else 10 * self._done // max(self._total, 1)
        if part != self._shown:
            self._shown = part
            of = "" if self._total is None else f"/{self._total}"
            self._console.print(f"{self._title} {self._done}{of} {note}", highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """The text with control characters, escape sequences and direction marks made visible as U+FFFD."""
    return "".join(letter if letter.isprintable() or letter == JOINER else REPLACEMENT for letter in text)


def aligned(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells as columns of text, as wide as their longest cell."""
    lines = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


class _Console(Console):
    """Goes on in silence when whoever reads is gone; by default rich ends the program then, a training in mid-step."""

    def on_broken_pipe(self) -> None:
        """Print nothing more."""
        self.quiet = True


class Terminal:
    """Says things to a person on standard error; `quiet` keeps only warnings."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._console = _Console(stderr=True)

    def say(self, message: str) -> None:
        """Print one line of what is going on."""
        if not self.quiet:
            self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    def warn(self, message: str) -> None:
        """Print one line that a person should read even in quiet mode."""
        self._console.print(f"warning: {message}", style="yellow", highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def waiting(self, message: str) -> Iterator[None]:
        """A spinner on a terminal while something of unknown length goes on; nothing elsewhere."""
        if self.quiet or not self._console.is_terminal:
            yield
            return
        with self._console.status(message):
            yield

    @contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[ProgressBar]:
        """A bar over `total` units (None: unknown) on a terminal, a few lines elsewhere, nothing when quiet."""
        if self.quiet:
            yield SilentBar()
        elif not self._console.is_terminal:
            yield _LineBar(self._console, title, total)
        else:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Progress(*columns, console=self._console) as bar:
                yield _RichBar(bar, bar.add_task(title, total=total, note=""))
