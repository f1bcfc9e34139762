"""How a command ends that fails: one sentence for each problem, and an exit code.

What Prefect, MLflow and Great Expectations raise about the place they run in is said in a sentence too; a fault of our
own code keeps its traceback.
"""

import errno
import os
import shutil
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator

from mlim.errors import MlimError

DEBUG_VARIABLE = "MLIM_DEBUG"
SHOWN_CHARACTERS = 200
OURS = ("mlim", "flows", "__main__")
DISK_TAKES_NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MORE_IN_WORDS = tuple(os.strerror(number) for number in DISK_TAKES_NO_MORE)
DATABASE_TAKES_NO_MORE = ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
MAKE_ROOM = "make room on the disk and run the same command again"
# A place that cannot be used as it is, whatever code asked for it
PLACE = (
    errno.EACCES,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
)
# What to do when one of these gives up, by package
SYSTEMS = {
    "prefect": (
        "Prefect",
        "on a slow machine set PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS higher; another PREFECT_HOME starts "
        "with an empty database; if PREFECT_API_URL names a server, see whether it runs",
    ),
    "mlflow": ("MLflow", "check tracking.uri or MLFLOW_TRACKING_URI, and that its database and folder can be written"),
    "great_expectations": (
        "Great Expectations",
        "restore the folder of the suites from version control, or install mlim again",
    ),
}


def exit_code_of(program: Callable[[], object]) -> int:
    """Run a program: 0, or the exit code of an error, printed on standard error; a fault of our own is raised."""
    try:
        program()
    except Exception as error:
        code = report_error(error)
        if code is None:
            raise
        return code
    return 0


def report_error(error: Exception) -> int | None:
    """Say on standard error what went wrong; gives the exit code, or None for a fault of our own: raise that again."""
    sentence = _sentence(error)
    if sentence is None:
        return None
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    for line in sentence.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return error.exit_code if isinstance(error, MlimError) else MlimError.exit_code


def _sentence(error: Exception) -> str | None:
    if isinstance(error, MlimError):
        return str(error)
    if full := disk_is_full(error):
        return f"{full}; {MAKE_ROOM}"
    if isinstance(error, OSError) and error.errno in PLACE and error.filename is not None:
        place = error.filename if error.filename2 is None else error.filename2
        return f"{_formatted(place)}: cannot be used ({error.strerror}); check the name and the permissions"
    if system := SYSTEMS.get(_called(error)):
        name, advice = system
        said = next(iter(str(error).strip().splitlines()), "")
        return (
            f"{name} failed ({type(error).__name__}: {said}); {advice}; `mlim doctor` tries it, and {DEBUG_VARIABLE}=1 "
            "shows where it failed"
        )
    return None


def disk_is_full(error: BaseException) -> str:
    """What a full disk made a system call or a sqlite database say; empty where an error has another cause.

    Libraries wrap it: looked at are the error and what it was raised from. Those that copy many files keep its words
    alone.
    """
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in DISK_TAKES_NO_MORE:
            return str(each)
        if isinstance(each, sqlite3.Error) and getattr(each, "sqlite_errorname", "") in DATABASE_TAKES_NO_MORE:
            return f"the tracking database could not be written ({each})"
        if full := next((line for line in _lines(each) if any(words in line for words in NO_MORE_IN_WORDS)), ""):
            return full
    return ""


def _lines(error: BaseException) -> list[str]:
    """What an error says, a line for each file where it is about several."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        return [str(why) for *_, why in error.args[0]]
    return str(error).splitlines()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and the driver's error inside one of SQLAlchemy."""
    found: BaseException | None = error
    while found is not None:
        yield found
        original = getattr(found, "orig", None)
        if isinstance(original, BaseException):
            yield original
        found = found.__cause__


def _formatted(name: object) -> str:
    """A path as it was given, cut where it is too long for a line."""
    text = str(name)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"


def _called(error: Exception) -> str:
    """The package that our code called last before the error came up; empty when that is no package of others."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
    ours = max((place for place, package in enumerate(packages) if package in OURS), default=-1)
    return next((package for package in packages[ours + 1 :] if package not in sys.stdlib_module_names), "")
