"""The messages when something is wrong: one sentence that says what, where and what to do."""

from collections.abc import Sequence


class MlimError(Exception):
    """A failure of the run itself (full disk, lost server, a step that could not finish); exit code 1."""

    exit_code = 1


class InputError(MlimError):
    """Something the person gave is wrong: a file, a recipe, a flag; exit code 2, before any work starts.

    `problems` holds every problem that was found, so that all of them can be corrected at once.
    """

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class DataError(MlimError):
    """The data as a whole cannot be used (a table-level expectation failed, too many rows quarantined)."""

    exit_code = 2


class RefusedError(MlimError):
    """Nothing failed: a policy of the recipe says no, and the message says what a person can do; exit code 3."""

    exit_code = 3


class UnavailableError(MlimError):
    """A server or the network gave no answer: the same command may succeed later; exit code 75.

    The code is EX_TEMPFAIL of sysexits.h; flows try such a stage again, and no other.
    """

    exit_code = 75


class UnreachableError(UnavailableError, InputError):
    """The same before any work: the server is away, or its address is wrong."""
